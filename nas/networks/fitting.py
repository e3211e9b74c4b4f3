"""Networks for smaller images: which strides they keep, and how much narrower they are.

At 28 pixels the maps of EfficientNet-B0 would have sides of 14, 14, 7, 4, 2, 2, 1, 1. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import log

from nas.networks.blocks import output_size

PAPER = (1.2, 1.1, 1.15)  # α, β, γ that the paper found for EfficientNet-B0 (arXiv 1905.11946, section 4)
LEAST_SIDE = 4  # pixels of the last feature map


def kept_strides(strides: Sequence[int], pixels: int) -> tuple[int, ...]:
    """The strides of stem and stages for images of this side: 1 from the first on, until the last map is large enough.

    That is LEAST_SIDE pixels; all are 1 for images that are smaller.
    """
    for removed in range(len(strides)):
        kept = (1,) * removed + tuple(strides[removed:])
        if reduce(output_size, kept, pixels) >= LEAST_SIDE:
            return kept
    return (1,) * len(strides)


def width_factor(own: int, pixels: int) -> float:
    """β^φ for the φ at which γ^φ leads from the own resolution to another (EfficientNet, arXiv 1905.11946, equation 3).

    With the paper's β and γ: 0.24 from 224 to 28 pixels, 0.43 to 64.
    """
    _, beta, gamma = PAPER
    return float(beta ** (log(pixels / own) / log(gamma)))
