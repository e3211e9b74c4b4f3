"""What an architecture costs, counted in closed form from the layers that `blocks.py` describes.

Exact against fvcore 0.1.5 on the built network in eval mode, without building it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from nas.base.errors import UserError
from nas.networks.blocks import MAX_RESOLUTION, Conv, Layer, Linear, SqueezeExcitation, head, stem

if TYPE_CHECKING:
    from nas.networks.architecture import Architecture
    from nas.networks.stages import Stage


@dataclass(frozen=True)
class Cost:
    """The cost of one image through one network, in whole numbers.

    madds: multiply-adds of convolutions and linear layers (what papers print as FLOPs). flops: fvcore's total,
    which adds batch norm (2 per element) and average pooling (1 per input element). params: learnt parameters.
    activations: elements that all convolutions put out (Radosavovic et al. 2020, arXiv 2003.13678).
    """

    madds: int
    flops: int
    params: int
    activations: int


class Count(NamedTuple):
    """The parts of a cost, by operator as fvcore names them."""

    conv: int
    linear: int
    batch_norm: int
    adaptive_avg_pool2d: int
    params: int
    activations: int

    @property
    def cost(self) -> Cost:
        """The four figures of a Cost."""
        flops = self.conv + self.linear + self.batch_norm + self.adaptive_avg_pool2d
        return Cost(self.conv + self.linear, flops, self.params, self.activations)


NOTHING = Count(0, 0, 0, 0, 0, 0)


def add(a: Count, b: Count, times: int = 1) -> Count:
    """a + times · b, written out: this is most of what counting does."""
    return Count(
        a.conv + times * b.conv,
        a.linear + times * b.linear,
        a.batch_norm + times * b.batch_norm,
        a.adaptive_avg_pool2d + times * b.adaptive_avg_pool2d,
        a.params + times * b.params,
        a.activations + times * b.activations,
    )


def halved(size: int, stride: int) -> int:
    """The side of a feature map after an odd kernel with this stride, padded by (kernel - 1) / 2."""
    return (size - 1) // stride + 1


def count_layer(layer: Layer, size: int) -> Count:
    """Count one layer; `size` is the side of its *output* (the input's where it keeps the size)."""
    area = size * size
    match layer:
        case Conv(c_in, c_out, kernel, _, groups, _):
            weights = kernel * kernel * (c_in // groups) * c_out
            out = c_out * area
            return Count(weights * area, 0, 2 * out, 0, weights + 2 * c_out, out)
        case SqueezeExcitation(channels, squeeze):
            weights = 2 * channels * squeeze
            both = channels + squeeze
            return Count(weights, 0, 0, channels * area, weights + both, both)
        case Linear(features, classes):
            return Count(0, features * classes, 0, features * area, features * classes + classes, 0)


def count_layers(layers: tuple[Layer, ...], size: int) -> tuple[Count, int]:
    """Count layers one after the other, and tell the side of what they put out."""
    total = NOTHING
    for layer in layers:
        size = halved(size, layer.stride) if isinstance(layer, Conv) else size
        total = add(total, count_layer(layer, size))
    return total, size


@lru_cache(maxsize=65536)
def count_stage(stage: Stage, in_channels: int, size: int) -> tuple[Count, int]:
    """Count a stage behind so many channels of this side, and tell the side of what it puts out."""
    total, size = count_layers(stage.first(in_channels).layers, size)
    if stage.repeats > 1:
        one, size = count_layers(stage.later().layers, size)
        total = add(total, one, stage.repeats - 1)
    return total, size


class Part(NamedTuple):
    """One part of a network: stem, a stage, head or classifier; size is the side of its output in pixels."""

    name: str
    size: int
    counts: Count


def parts(
    arch: Architecture, resolution: int | None = None, num_classes: int = 1000, in_channels: int = 3
) -> list[Part]:
    """Count each part of an architecture, from stem to classifier; raises UserError for impossible arguments."""
    size = arch.resolution if resolution is None else resolution
    check_counting(size, num_classes, in_channels)
    count, size = count_layers(stem(in_channels, arch.stem), size)
    found, channels = [Part("stem", size, count)], arch.stem
    for number, stage in enumerate(arch.stages, 1):
        count, size = count_stage(stage, channels, size)
        found.append(Part(f"stage {number}", size, count))
        channels = stage.channels
    count, size = count_layers(head(channels, arch.head), size)
    classifier = count_layer(Linear(arch.head, num_classes), size)
    return [*found, Part("head", size, count), Part("classifier", 1, classifier)]


def count(arch: Architecture, resolution: int | None = None, num_classes: int = 1000, in_channels: int = 3) -> Cost:
    """Count an architecture at a resolution (its own if None), for so many classes and input channels."""
    return total(arch, resolution, num_classes, in_channels).cost


def total(arch: Architecture, resolution: int | None = None, num_classes: int = 1000, in_channels: int = 3) -> Count:
    """The same count, by operator."""
    counts = (part.counts for part in parts(arch, resolution, num_classes, in_channels))
    return Count._make(map(sum, zip(*counts, strict=True)))


def check_counting(resolution: int, num_classes: int, in_channels: int) -> None:
    """Refuse what no network can be counted at."""
    limits = {"resolution": MAX_RESOLUTION, "num_classes": 10**7, "in_channels": 4096}
    for (name, limit), value in zip(limits.items(), (resolution, num_classes, in_channels), strict=True):
        if not isinstance(value, int) or not 1 <= value <= limit:
            raise UserError(f"{name} must be a whole number from 1 to {limit}, got {str(value)[:20]}")
