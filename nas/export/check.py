"""Whether an exported file is the network that was trained: both are asked the same images."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor

from nas.export.source import Answer, Source

TOLERANCE = 1e-4  # the largest difference between logits, as a share of the largest logit (or of 1, if that is less)
BATCH = 32  # images; the first is always asked alone


Answers = tuple[Tensor, ...]  # logits [n, classes] for the random images, then for the real ones if there are any


@torch.no_grad()
def answers(network: Answer, source: Source, count: int) -> Answers:
    """What a network says to images of random pixels, and to up to `count` real ones."""
    size, generator = source.inputs.image_size, torch.Generator().manual_seed(0)
    random = torch.randint(0, 256, (1 + BATCH, source.inputs.channels, size, size), generator=generator)
    asked = [random, *([source.real.pixels[:count]] if source.real else [])]
    return tuple(torch.cat([network(images) for images in batches(source, pixels)]) for pixels in asked)


def batches(source: Source, pixels: Tensor) -> Iterator[Tensor]:
    """Pixels as the network takes them: the first image alone, then batches."""
    for part in (pixels[:1], *torch.split(pixels[1:], BATCH)):
        if len(part):
            yield source.inputs.normalised(part).contiguous()


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference between two logits; infinite between different shapes, NaN if any is NaN."""
    return float((found - expected).abs().max()) if found.shape == expected.shape else inf


def tolerance(expected: Answers) -> float:
    """The largest difference from these answers that rounding in fp32 may make."""
    return TOLERANCE * max(1.0, *(float(logits.abs().max()) for logits in expected))


def share(found: Tensor, classes: Tensor) -> float:
    """The share of images whose largest logit is that of the class given."""
    return float((found.argmax(1) == classes).double().mean())
