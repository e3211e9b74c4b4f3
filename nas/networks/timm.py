"""To and from timm's block-string lists (`arch_def`): a network found here is built by timm, and the other way round.

timm itself is not needed. The two notations differ in one point: in timm, `ir` and `er` have an expansion convolution
even at e1; here e1 leaves it out, as the papers do (our canonical strings then use `ds` and `cn`). timm's e1 is
therefore read as e1.000001, which rounds to the same channels in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.base.errors import UserError
from nas.base.units import shortest_decimal
from nas.networks.architecture import Architecture
from nas.networks.blocks import OPS, Block, FeatureMap, SqueezeExcitation
from nas.networks.stages import EXPANDING, Stage, blocks_of, parse_stage

TIMM_OPS = ("cn", "ds", "ir", "er")


def to_arch_def(arch: Architecture) -> list[list[str]]:
    """The stages as timm writes them, one list a stage.

    Build them with `round_chs_fn=lambda c: c` (timm rounds channels to multiples of 8 otherwise) and with the
    architecture's own stem (`stem_size`), head (`num_features`), activation and norm. timm's stem always has stride 2:
    where this one's is 1, set `model.conv_stem.stride = (1, 1)` on the built model. SE ratios are such that timm, which
    rounds to the nearest, squeezes to as many channels as torchvision, which rounds down; where the first block of a
    stage needs another ratio than the later ones, the stage has two strings. Raises UserError where there is no such
    ratio, and for a block that timm does not have.
    """
    for stage in arch.stages:
        if stage.op not in TIMM_OPS:
            raise UserError(f"{stage}: timm's {', '.join(TIMM_OPS)} are known here, {stage.op} is not")
    stages: list[list[Block]] = [[] for _ in arch.stages]
    for block in arch.walk()[1:-1]:
        stages[block.stage - 1].append(block)
    return [_strings(stage, blocks) for stage, blocks in zip(arch.stages, stages, strict=True)]


def from_arch_def(arch_def: Sequence[Sequence[str]], **settings: Any) -> Architecture:
    """The architecture of a timm arch_def of `cn`, `ds`, `ir` and `er` strings.

    settings: the architecture's other fields (stem, stem_stride, head, …) where they are not the defaults. As in timm,
    a stage's strings after its first have stride 1. Raises UserError for what block strings cannot express.
    """
    stages: list[Stage] = []
    given = FeatureMap(settings.get("stem", 32), 1)
    for strings in arch_def:
        for position, text in enumerate(strings):
            stage = parse_stage(_expanding(text))
            stage = replace(stage, stride=1) if position else stage
            blocks = blocks_of(stage, given)
            if wrong := _other_squeeze(stage, blocks):  # of the ratio as written, from which timm computes
                raise UserError(wrong)
            given = blocks[-1].output
            stages.append(stage)
    return Architecture(tuple(stages), **settings)


def _expanding(text: str) -> str:
    op = OPS.get(text.partition("_")[0])
    return re.sub(r"_e1(\.0*)?(?=_|$)", f"_e{EXPANDING:f}", text) if op and op.plain else text


def _strings(stage: Stage, blocks: Sequence[Block]) -> list[str]:
    """A stage as timm writes it: one string, or two where its first block needs another SE ratio than the others."""
    if whole := _with_timm_ratio(stage, blocks):
        return [str(whole)]
    if stage.repeats == 1:
        raise UserError(_other_squeeze(stage, blocks))
    first, later = replace(stage, repeats=1), replace(stage, repeats=stage.repeats - 1, stride=1)
    return [*_strings(first, blocks[:1]), *_strings(later, blocks[1:2])]


def _with_timm_ratio(stage: Stage, blocks: Sequence[Block]) -> Stage | None:
    """The stage with an SE ratio that gives timm, which rounds to the nearest, the same channels; None without one."""
    squeezes = _squeezes(blocks)

    def same(ratio: float) -> bool:
        return all(
            _timm_channels(stage, layer, ratio) == layer.squeeze == max(1, int(channels * ratio))
            for channels, layer in squeezes
        )

    if same(stage.se):
        return stage
    least, most = 0.0, 1.0
    for channels, layer in squeezes:
        wide = stage.expansion / layer.channels
        least = max(least, (layer.squeeze - 0.5) * wide, layer.squeeze / channels if layer.squeeze > 1 else 0)
        most = min(most, (layer.squeeze + 0.5) * wide, (layer.squeeze + 1) / channels)
    middle = (least + most) / 2
    return replace(stage, se=shortest_decimal(middle, middle, same)) if same(middle) else None


def _squeezes(blocks: Sequence[Block]) -> list[tuple[int, SqueezeExcitation]]:
    """The SE layers of blocks, each with the block's input channels."""
    layers = [(block.input.channels, layer) for block in blocks for layer in block.layers]
    return [(channels, layer) for channels, layer in layers if isinstance(layer, SqueezeExcitation)]


def _timm_channels(stage: Stage, layer: SqueezeExcitation, ratio: float) -> int:
    """The channels that timm squeezes to."""
    return round(layer.channels * (ratio / stage.expansion))


def _other_squeeze(stage: Stage, blocks: Sequence[Block]) -> str:
    """An error message if timm makes other channels of the SE ratio than torchvision, else ""."""
    for _, layer in _squeezes(blocks):
        if (theirs := _timm_channels(stage, layer, stage.se)) != layer.squeeze:
            return (
                f"{stage}: timm squeezes {layer.channels} channels to {theirs}, torchvision to "
                f"{layer.squeeze}; choose channels of which se{stage.se:g} is a whole number"
            )
    return ""
