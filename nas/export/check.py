"""Whether an exported file is the network that was trained: both are asked the same images."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from nas.base.errors import RunFailed
from nas.export.source import Answer, Source

BATCH = 32  # images; the first is always asked alone
ENOUGH = 1 + 4 * BATCH  # real images that tell whether a file is exact

Answers = tuple[Tensor, ...]  # logits [n, classes] for images of random pixels, then for real ones if there are any


@dataclass(frozen=True)
class Expected:
    """What the trained network says, and how far from that rounding may lead: one number for each tensor."""

    answers: Answers
    tolerated: tuple[float, ...]


def expect(source: Source, count: int) -> Expected:
    """Ask the trained network, on random images and on up to `count` real ones.

    What is tolerated of another order of the same operations in fp32: four times what fp32 differs from fp64, and
    1e-5 of the largest logit (or of 1, if that is more). Raises RunFailed for a network that this tells nothing of.
    """
    found, exact = answers(source.model, source, count), deepcopy(source.model).double()
    precise = answers(lambda images: exact(images.double()), source, min(count, ENOUGH))
    largest = [max(1.0, float(logits.abs().max())) for logits in precise]
    gaps = [difference(rounded[: len(logits)], logits) for rounded, logits in zip(found, precise, strict=True)]
    tolerated = tuple(4 * gap + 1e-5 * most for gap, most in zip(gaps, largest, strict=True))
    if not any(gap <= 0.1 * most for gap, most in zip(tolerated, largest, strict=True)):  # nor where they are NaN
        raise RunFailed(
            f"{source.file}: no file can be checked against this network: between fp32 and fp64 its logits differ by "
            f"{min(gaps):.2g}, the largest is {max(largest):.2g}"
        )
    return Expected(found, tolerated)


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


def share(found: Tensor, classes: Tensor) -> float:
    """The share of images whose largest logit is that of the class given."""
    return float((found.argmax(1) == classes).double().mean())
