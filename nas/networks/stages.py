"""Stages: block strings in timm's notation, `ir_r2_k3_s2_e6_c24_se0.25`, read and written; each canonical string is one
network, here and in timm. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from nas.base.errors import UserError
from nas.base.units import nearest, shortest_decimal
from nas.networks.blocks import (
    OPS,
    Block,
    Conv,
    FeatureMap,
    Layer,
    Shape,
    SqueezeExcitation,
    block,
)

ACTIVATIONS = {"relu": "re", "relu6": "r6", "silu": "sw", "hardswish": "hs"}  # with timm's suffixes
EXPANDING = 1.000001  # an expansion convolution that adds no channels; e1 means that there is no such convolution
USUAL_SE = (0.25, 0.5)
SE_DECIMALS = 4  # most decimals of an SE ratio that is preferred because it gives whole channels
KEYS = {"r": "repeats", "k": "kernel", "s": "stride", "e": "expansion", "c": "channels", "se": "se"}
LIMITS = {"repeats": 1000, "kernel": 31, "stride": 2, "expansion": 64, "channels": 65536, "se": 1}
_SUFFIXES = {suffix: name for name, suffix in ACTIVATIONS.items()}


class BlockError(UserError):
    """A mistake in one block string; `column` counts its characters from 1."""

    def __init__(self, column: int, what: str) -> None:
        super().__init__(f"column {column}: {what}")
        self.column, self.what = column, what


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind in a row: one block string without choices.

    The first block has the stride and changes the channels, the others keep both. expansion and se (the squeeze
    ratio, 0 for none) are relative to a block's input channels; channels are those of the output. skip: whether
    blocks that keep their shape have a residual connection. activation: None for the architecture's own.
    """

    op: str
    repeats: int
    kernel: int
    stride: int
    expansion: float
    channels: int
    se: float = 0
    skip: bool = True
    activation: str | None = None

    def layers(self, in_channels: int, stride: int) -> tuple[Layer, ...]:
        """The layers of one block: the first has the stage's stride, the later ones its own channels and stride 1."""
        return OPS[self.op].layers(Shape(in_channels, self.channels, self.kernel, stride, self.expansion, self.se))

    def __str__(self) -> str:
        words = [self.op, f"r{self.repeats}", f"k{self.kernel}", f"s{self.stride}"]
        words += [f"e{_number(self.expansion)}", f"c{self.channels}"]
        words += [f"se{_number(self.se)}"] if self.se else []
        words += [f"n{ACTIVATIONS[self.activation]}"] if self.activation else []
        words += [] if self.skip == OPS[self.op].skip else ["skip" if self.skip else "noskip"]
        return "_".join(words)


@lru_cache(maxsize=16384)
def blocks_of(stage: Stage, given: FeatureMap, number: int = 1) -> tuple[Block, ...]:
    """The blocks of a stage after a feature map, in order; number: the stage's in its network."""

    def placed(given: FeatureMap, stride: int) -> Block:
        residual = stage.skip and stride == 1 and given.channels == stage.channels
        return block(stage.layers(given.channels, stride), given, stage.channels, number, residual, stage.activation)

    first = placed(given, stage.stride)
    if stage.repeats == 1:
        return (first,)
    later = placed(first.output, 1)
    return (first, *(later._replace(position=i) for i in range(1, stage.repeats)))


@lru_cache(maxsize=65536)
def parse_stage(text: str) -> Stage:
    """Read one block string without choices; raises BlockError."""
    op, *words = text.split("_")
    if op not in OPS:
        raise BlockError(1, f"unknown op {op[:20]!r}; {nearest(op[:20], OPS)}")
    values: dict[str, Any] = {"op": op}
    column = len(op) + 2
    for word in words:
        key, value = _parse_word(word, column)
        if key in values:
            raise BlockError(column, f"{key} is given twice")
        values[key] = value
        column += len(word) + 1
    return _checked(values)


def _parse_word(word: str, column: int) -> tuple[str, Any]:
    if word in ("skip", "noskip"):
        return "skip", word == "skip"
    if word[:1] == "n" and word[1:] in _SUFFIXES:
        return "activation", _SUFFIXES[word[1:]]
    match = re.fullmatch(r"([a-z]+)(\d{1,9}(?:\.\d{1,25})?)", word)
    if not match or match[1] not in KEYS:
        letters = "".join(c for c in word[:20] if c.isalpha())
        hint = f"{nearest(letters, KEYS)}" if letters not in KEYS else f"write {letters} and a number"
        raise BlockError(column, f"cannot read {word[:20]!r}; {hint}")
    key, number = KEYS[match[1]], float(match[2])
    if key not in ("expansion", "se") and not number.is_integer():
        raise BlockError(column, f"{key} must be a whole number, got {word}")
    least = 0 if key == "se" else 1e-9
    if not least <= number <= LIMITS[key]:
        between = f"between 0 and {LIMITS[key]}" if key in ("se", "expansion") else f"from 1 to {LIMITS[key]}"
        raise BlockError(column, f"{key} must be {between}, got {word}")
    if key == "kernel" and number % 2 == 0:
        raise BlockError(column, f"kernel must be odd (3, 5, 7, …), got {word}")
    return key, int(number) if number.is_integer() else number


def _checked(values: dict[str, Any]) -> Stage:
    """Fill in the defaults and refuse what the op cannot do."""
    name = values["op"]
    op = OPS[name]
    values = {"repeats": 1, "skip": op.skip, **({} if op.expands else {"expansion": 1}), **values}
    for letter, key in KEYS.items():
        if key not in values and key != "se":
            raise BlockError(1, f"{key} is missing; add _{letter} and a number")
    stage = Stage(**values)
    if not op.expands and stage.expansion != 1:
        raise BlockError(1, f"{name} ({op.title}) has no expansion; write e1, or another op")
    # Fused-MBConv at expansion 1 is a plain convolution, which has no place for SE.
    takes_se = op.squeezes and (stage.expansion != 1 or OPS[op.plain or name].squeezes)
    if stage.se and not takes_se:
        at = " with e1" if op.squeezes else ""
        raise BlockError(1, f"{name} ({op.title}){at} has no squeeze-excitation; write se0 or leave it out")
    return stage


@lru_cache(maxsize=65536)
def canonical(stage: Stage, in_channels: int, activation: str) -> Stage:
    """The canonical form of a stage after `in_channels` channels: stages of equal layers become equal values.

    Of all expansions that round to the same channels in each block it has the one with the fewest decimals. Of all such
    SE ratios it has a usual one (USUAL_SE), else one that gives whole channels, else the one with the fewest decimals.
    """
    op = (OPS[stage.op].plain if stage.expansion == 1 else None) or stage.op
    can_skip = stage.repeats > 1 or (stage.stride == 1 and stage.channels == in_channels)
    skip = stage.skip if can_skip else OPS[op].skip
    own = None if stage.activation == activation else stage.activation
    stage = replace(stage, op=op, skip=skip, activation=own)
    expansion = _expansion(stage, in_channels) if OPS[op].expands else stage.expansion
    return replace(stage, expansion=expansion, se=_se(stage, in_channels) if stage.se else 0)


def _layers(stage: Stage, in_channels: int) -> tuple[Layer, ...]:
    """The layers of a stage's first block and, if it has more, of the second one, which is like all later ones."""
    later = stage.layers(stage.channels, 1) if stage.repeats > 1 else ()
    return stage.layers(in_channels, stage.stride) + later


def _same(stage: Stage, in_channels: int, at: Callable[[float], Stage], limit: float) -> Callable[[float], bool]:
    """Whether a ratio above 0 and up to a limit gives the layers of this stage; at: the stage with another ratio."""
    layers = _layers(stage, in_channels)
    return lambda x: 0 < x <= limit and _layers(at(x), in_channels) == layers


def _expansion(stage: Stage, in_channels: int) -> float:
    layers = stage.layers(in_channels, stage.stride)
    widest = max(layer.out_channels for layer in layers[:-1] if isinstance(layer, Conv))
    same = _same(stage, in_channels, lambda x: replace(stage, expansion=x), LIMITS["expansion"])
    found = shortest_decimal(stage.expansion, widest / in_channels, same)
    return EXPANDING if found == 1 else found


def _se(stage: Stage, in_channels: int) -> float:
    squeezes = [layer.squeeze for layer in _layers(stage, in_channels) if isinstance(layer, SqueezeExcitation)]
    pairs = zip(squeezes, (in_channels, stage.channels), strict=False)
    whole = [squeeze / channels for squeeze, channels in pairs if squeeze * 10**SE_DECIMALS % channels == 0]
    same = _same(stage, in_channels, lambda x: replace(stage, se=x), LIMITS["se"])
    preferred = next(filter(same, (*USUAL_SE, *whole)), None)
    return preferred or shortest_decimal(stage.se, squeezes[0] / in_channels, same)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else format(Decimal(repr(value)), "f")
