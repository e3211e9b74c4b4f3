"""What a block is: each op described once, as the list of layers it consists of.

`module.py` turns the layers into modules and `cost.py` counts them, so the two cannot drift apart.
To add an op, write its function and its line in `OPS`; no torch is needed here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import ceil, prod
from typing import NamedTuple

MAX_RESOLUTION = 4096  # pixels


class Conv(NamedTuple):
    """A convolution without bias, padded by (kernel - 1) / 2, then batch norm, then perhaps an activation."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    activation: bool


class SqueezeExcitation(NamedTuple):
    """Global pooling, two 1x1 convolutions with bias, a sigmoid gate (Hu et al. 2018, arXiv 1709.01507)."""

    channels: int
    squeeze: int


class Linear(NamedTuple):
    """Global average pooling over the last feature map, then a linear layer with bias."""

    in_features: int
    out_features: int


Layer = Conv | SqueezeExcitation | Linear


class FeatureMap(NamedTuple):
    """The shape of what one block hands to the next: channels, and the side in pixels."""

    channels: int
    size: int


class Block(NamedTuple):
    """One block at its place in a network: its layers in order, from one feature map to the next.

    residual: whether its input is added to the layers' output. activation: None for the architecture's own. stage: 0
    for the stem, the stages from 1, the head after the last; position: from 0 within its stage.
    """

    layers: tuple[Layer, ...]
    input: FeatureMap
    output: FeatureMap
    stride: int
    residual: bool = False
    activation: str | None = None
    stage: int = 0
    position: int = 0


class Shape(NamedTuple):
    """The shape of one block: the arguments of every op's function."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    expansion: float
    se: float


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of the divisor, never below 90 % of the value.

    The published models' rule (EfficientNet, arXiv 1905.11946, and MobileNetV2, arXiv 1801.04381).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


SMALL = 16  # channels below which scaling rounds to a multiple of less than 8: at most half of a width


def scale_channels(channels: int, width: float) -> int:
    """Channels times the width factor, to a multiple of 8 that keeps at least 90 %; unchanged at factor 1.

    Below 16, 8 and 4 channels to a multiple of 4, 2 and 1. A factor below 1 never gives more channels, one above 1
    never fewer.
    """
    if width == 1:
        return channels
    exact = channels * width
    divisor = next((step for step in (8, 4, 2) if exact >= 2 * step), 1)
    return (min if width < 1 else max)(channels, make_divisible(exact, divisor))


def scale_repeats(repeats: int, depth: float) -> int:
    """Repeats times the depth factor, rounded up; a factor such as 1.1 counts as the decimal it is written as."""
    return max(1, ceil(round(repeats * depth, 9)))


def pointwise(in_channels: int, out_channels: int, activation: bool) -> Conv:
    """A 1x1 convolution."""
    return Conv(in_channels, out_channels, 1, 1, 1, activation)


def squeeze_excitation(s: Shape, channels: int) -> tuple[Layer, ...]:
    """The SE layer of a block, if it has one: it squeezes to a share of the block's *input* channels."""
    return (SqueezeExcitation(channels, max(1, int(s.in_channels * s.se))),) if s.se else ()


def output_size(size: int, stride: int) -> int:
    """The side of a feature map after an odd kernel with this stride, padded by (kernel - 1) / 2."""
    return (size - 1) // stride + 1


def size_after(size: int, layer: Layer) -> int:
    """The side of a feature map after a layer."""
    return output_size(size, layer.stride) if isinstance(layer, Conv) else size


def block(
    layers: tuple[Layer, ...],
    given: FeatureMap,
    channels: int,
    stage: int,
    residual: bool = False,
    activation: str | None = None,
) -> Block:
    """The block of these layers after a feature map; channels: of its output."""
    output = FeatureMap(channels, reduce(size_after, layers, given.size))
    stride = prod(layer.stride for layer in layers if isinstance(layer, Conv))
    return Block(layers, given, output, stride, residual, activation, stage)


def stem(image: FeatureMap, channels: int, stride: int) -> Block:
    """The stem, before the stages: a 3x3 convolution."""
    return block((Conv(image.channels, channels, 3, stride, 1, True),), image, channels, 0)


def head(given: FeatureMap, channels: int, stage: int = 1) -> Block:
    """The head, after the stages and before pooling and classifier: a 1x1 convolution."""
    return block((pointwise(given.channels, channels, True),), given, channels, stage)


def conv(s: Shape) -> tuple[Layer, ...]:
    """One convolution."""
    return (Conv(s.in_channels, s.out_channels, s.kernel, s.stride, 1, True),)


def mbconv(s: Shape) -> tuple[Layer, ...]:
    """MBConv: 1x1 expansion, depthwise convolution, SE, 1x1 projection (arXiv 1801.04381, 1905.11946)."""
    hidden = make_divisible(s.in_channels * s.expansion)
    return (
        pointwise(s.in_channels, hidden, True),
        Conv(hidden, hidden, s.kernel, s.stride, hidden, True),
        *squeeze_excitation(s, hidden),
        pointwise(hidden, s.out_channels, False),
    )


def depthwise_separable(s: Shape) -> tuple[Layer, ...]:
    """Depthwise convolution, SE, 1x1 projection: what MBConv is at expansion 1."""
    return (
        Conv(s.in_channels, s.in_channels, s.kernel, s.stride, s.in_channels, True),
        *squeeze_excitation(s, s.in_channels),
        pointwise(s.in_channels, s.out_channels, False),
    )


def fused_mbconv(s: Shape) -> tuple[Layer, ...]:
    """Fused-MBConv: a full convolution that expands, SE, 1x1 projection (EfficientNetV2, arXiv 2104.00298).

    At expansion 1 it is `conv` with a residual connection.
    """
    hidden = make_divisible(s.in_channels * s.expansion)
    return (
        Conv(s.in_channels, hidden, s.kernel, s.stride, 1, True),
        *squeeze_excitation(s, hidden),
        pointwise(hidden, s.out_channels, False),
    )


@dataclass(frozen=True)
class Op:
    """One operator of the block strings.

    title: its name in prose. layers: the description of one block. skip: whether blocks that keep their shape have a
    residual connection unless the string says otherwise (timm's rule: all but `cn`). expands, squeezes: whether it
    takes an expansion other than 1, an SE ratio other than 0. plain: the op that it equals at expansion 1, if that is
    another one.
    """

    title: str
    layers: Callable[[Shape], tuple[Layer, ...]]
    skip: bool = True
    expands: bool = True
    squeezes: bool = True
    plain: str | None = None


OPS = {
    "cn": Op("conv-BN-act", conv, skip=False, expands=False, squeezes=False),
    "ds": Op("depthwise separable", depthwise_separable, expands=False),
    "ir": Op("MBConv", mbconv, plain="ds"),
    "er": Op("Fused-MBConv", fused_mbconv, plain="cn"),
}
