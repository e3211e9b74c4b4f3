"""What an architecture costs, counted in closed form from the layers that `blocks.py` describes.

Exact against fvcore 0.1.5 on the built network in eval mode, without building it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from nas.base.errors import UserError
from nas.networks.blocks import MAX_RESOLUTION, Block, Conv, Layer, Linear, SqueezeExcitation, size_after

if TYPE_CHECKING:
    from nas.networks.architecture import Architecture

SUMS = ("madds", "flops", "params", "activations")  # of a network: the sum over its parts
COLUMNS = (*SUMS, "peak")  # of a network: the largest of its parts
Figures = tuple[int, int, int, int, int]  # in the order of COLUMNS
BYTES = {"int8": 1, "fp16": 2, "fp32": 4}  # of one element


@dataclass(frozen=True)
class Cost:
    """The cost of one image through one network, in whole numbers.

    madds: multiply-adds of convolutions and linear layers (what papers print as FLOPs). flops: fvcore's total,
    which adds batch norm (2 per element) and average pooling (1 per input element). params: learnt parameters.
    activations: elements that all convolutions put out (Radosavovic et al. 2020, arXiv 2003.13678). peak: the most
    elements that must be held at once, as `peak_of` counts them; an element is one byte in int8, four in fp32.
    """

    madds: int
    flops: int
    params: int
    activations: int
    peak: int


@dataclass(frozen=True)
class Deployment:
    """What networks are for: the classes and input channels that costs are counted for, and what scaling keeps to.

    resolution_step: pixels that resolutions are multiples of; keep: what is not scaled, as `Architecture.scale` has it.
    By default all is that of published networks.
    """

    num_classes: int = 1000
    in_channels: int = 3
    resolution_step: int = 1
    keep: tuple[str, ...] = ()

    def cost(self, arch: Architecture, resolution: int | None = None) -> Cost:
        """The cost of a network, at its own resolution if None."""
        return arch.cost(resolution, self.num_classes, self.in_channels)


PUBLISHED = Deployment()


def count_layer(layer: Layer, size: int) -> tuple[int, int, int, int]:
    """Count SUMS of one layer; `size` is the side of its *output* (the input's where it keeps the size)."""
    area = size * size
    match layer:
        case Conv(c_in, c_out, kernel, _, groups, _):
            weights = kernel * kernel * (c_in // groups) * c_out
            out = c_out * area
            return weights * area, (weights + 2 * c_out) * area, weights + 2 * c_out, out
        case SqueezeExcitation(channels, squeeze):
            weights = 2 * channels * squeeze
            both = channels + squeeze
            return weights, weights + channels * area, weights + both, both
        case Linear(features, classes):
            weights = features * classes
            return weights, weights + features * area, weights + classes, 0


def peak_of(layer: Layer, given: int, size: int, kept: bool) -> int:
    """The most elements that one layer needs at once for one image; given, size: the sides of its input and output.

    That is its input and its output, batch norm being part of the convolution. Activation, the scaling of SE and the
    residual addition overwrite one of their inputs. A depthwise convolution overwrites its input channel by channel,
    with one more channel beside it, as TinyEngine does (MCUNet, arXiv 2007.10319, section 3.2). Nothing overwrites an
    input that is kept: that of a residual block until the addition.
    """
    match layer:
        case Conv(c_in, c_out, _, _, groups, _):
            in_place = groups == c_in == c_out and not kept
            return c_in * given**2 + (1 if in_place else c_out) * size**2
        case SqueezeExcitation(channels, squeeze):
            return (1 + kept) * channels * size**2 + channels + squeeze
        case Linear(features, classes):
            return features + max(features * size**2, classes)


@lru_cache(maxsize=65536)
def count_layers(layers: tuple[Layer, ...], size: int, residual: bool = False) -> Figures:
    """Count layers one after the other, the first of which gets a feature map of this side.

    residual: whether that map is held until it is added to the output.
    """
    counts, held = [], 0
    for position, layer in enumerate(layers):
        given, size = size, size_after(size, layer)
        peak = held + peak_of(layer, given, size, residual and position == 0)
        counts.append((*count_layer(layer, size), peak))
        if residual and position == 0:
            held = layer[0] * given**2  # channels of its input
    return added(counts)


def count_blocks(blocks: Iterable[Block]) -> Figures:
    """Count blocks."""
    return added([count_layers(block.layers, block.input.size, block.residual) for block in blocks])


def added(counts: Iterable[Figures]) -> Figures:
    """The counts of parts as one: SUMS added, and the largest peak."""
    madds, flops, params, activations, peaks = zip(*counts, strict=True)
    return sum(madds), sum(flops), sum(params), sum(activations), max(peaks)


class Part(NamedTuple):
    """One part of a network: stem, a stage, head or classifier; size is the side of its output in pixels."""

    name: str
    size: int
    cost: Cost


def parts(
    arch: Architecture, resolution: int | None = None, num_classes: int = 1000, in_channels: int = 3
) -> list[Part]:
    """Count each part of an architecture, from stem to classifier; raises UserError for impossible arguments."""
    walk = _walk(arch, resolution, num_classes, in_channels)
    names = ["stem", *(f"stage {number}" for number in range(1, len(arch.stages) + 1)), "head"]
    found = []
    for stage, group in groupby(walk, key=lambda block: block.stage):
        blocks = list(group)
        found.append(Part(names[stage], blocks[-1].output.size, Cost(*count_blocks(blocks))))
    return [*found, Part("classifier", 1, Cost(*count_classifier(walk[-1], num_classes)))]


def count(arch: Architecture, resolution: int | None = None, num_classes: int = 1000, in_channels: int = 3) -> Cost:
    """Count an architecture at a resolution (its own if None), for these numbers of classes and input channels."""
    walk = _walk(arch, resolution, num_classes, in_channels)
    return Cost(*added([count_blocks(walk), count_classifier(walk[-1], num_classes)]))


def count_classifier(head: Block, num_classes: int) -> Figures:
    """Count pooling and classifier behind the head."""
    return count_layers((Linear(head.output.channels, num_classes),), head.output.size)


def _walk(arch: Architecture, resolution: int | None, num_classes: int, in_channels: int) -> tuple[Block, ...]:
    check_counting(arch.resolution if resolution is None else resolution, num_classes, in_channels)
    return arch.walk(resolution, in_channels)


def check_counting(resolution: int, num_classes: int, in_channels: int) -> None:
    """Raise UserError for an impossible resolution, number of classes or of channels."""
    limits = {"resolution": MAX_RESOLUTION, "num_classes": 10**7, "in_channels": 4096}
    for (name, limit), value in zip(limits.items(), (resolution, num_classes, in_channels), strict=True):
        if not isinstance(value, int) or not 1 <= value <= limit:
            raise UserError(f"{name} must be a whole number from 1 to {limit}, got {str(value)[:20]}")
