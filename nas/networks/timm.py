"""To and from timm's block-string lists (`arch_def`): a network found here is built by timm, and the other way round.

timm itself is not needed. The two languages are one but for this: `ir` and `er` have their expansion convolution
even at e1 in timm, while here e1 leaves it out, as the papers do (our canonical strings then say `ds` and `cn`).
What timm writes e1 is therefore kept as e1.000001, which rounds to the same channels in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.base.errors import UserError
from nas.networks.architecture import Architecture
from nas.networks.blocks import OPS, Block, FeatureMap, SqueezeExcitation
from nas.networks.stages import EXPANDING, Stage, blocks_of, parse_stage

THEIRS = ("cn", "ds", "ir", "er")


def to_arch_def(arch: Architecture) -> list[list[str]]:
    """The stages as timm writes them, one list a stage.

    Build them with `round_chs_fn=lambda c: c` (timm rounds channels to multiples of 8 otherwise) and with the
    architecture's own stem (`stem_size`), head (`num_features`), activation and norm. timm's stem always has stride 2:
    where this one's is 1, set `model.conv_stem.stride = (1, 1)` on the built model. Raises UserError where timm
    rounds an SE width otherwise than torchvision, and for a block that it does not have.
    """
    for stage in arch.stages:
        if stage.op not in THEIRS:
            raise UserError(f"{stage}: timm's {', '.join(THEIRS)} are known here, {stage.op} is not")
    for block in arch.walk()[1:-1]:
        _check_squeeze(arch.stages[block.stage - 1], block)
    return [[str(stage)] for stage in arch.stages]


def from_arch_def(arch_def: Sequence[Sequence[str]], **settings: Any) -> Architecture:
    """The architecture of a timm arch_def of `cn`, `ds`, `ir` and `er` strings.

    settings: the architecture's other fields (stem, stem_stride, head, …) where they are not the defaults. As in timm,
    a stage's strings after its first have stride 1. Raises UserError for what cannot be said here.
    """
    stages: list[Stage] = []
    given = FeatureMap(settings.get("stem", 32), 1)
    for strings in arch_def:
        for position, text in enumerate(strings):
            stage = parse_stage(_expanding(text))
            stage = replace(stage, stride=1) if position else stage
            for block in blocks_of(stage, given):  # as written: timm squeezes by the ratio's own digits
                _check_squeeze(stage, block)
                given = block.output
            stages.append(stage)
    return Architecture(tuple(stages), **settings)


def _expanding(text: str) -> str:
    op = OPS.get(text.partition("_")[0])
    return re.sub(r"_e1(\.0*)?(?=_|$)", f"_e{EXPANDING:f}", text) if op and op.plain else text


def _check_squeeze(stage: Stage, block: Block) -> None:
    """Refuse an SE width that timm rounds to the nearest and torchvision down."""
    for layer in block.layers:
        if isinstance(layer, SqueezeExcitation):
            theirs = round(layer.channels * (stage.se / stage.expansion))
            if layer.squeeze != theirs:
                raise UserError(
                    f"{stage}: timm squeezes {layer.channels} channels to {theirs}, torchvision to "
                    f"{layer.squeeze}; choose channels of which se{stage.se:g} is a whole number"
                )
