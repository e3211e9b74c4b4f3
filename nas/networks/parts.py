"""The parts of a network that run one after the other, by name: a latency is the sum over them.

A part is named by all that its latency can depend on: input size and channels, block string, activation. Standard
library only.
"""

from __future__ import annotations

from dataclasses import replace

from nas.networks.architecture import Architecture
from nas.networks.blocks import Block, FeatureMap
from nas.networks.stages import Stage, canonical

CHANNELS = 3  # of the images that latencies are measured with


def part_names(arch: Architecture) -> list[str]:
    """The parts of a network: stem, each block, and head with classifier."""
    stem, *inner, head = arch.walk(in_channels=CHANNELS)
    first = part(stem.input, arch.stem_word, arch.activation)
    last = part(head.input, f"head{arch.head}", arch.activation)
    return [first, *(block_part(arch.stages[block.stage - 1], block, arch.activation) for block in inner), last]


def block_part(stage: Stage, block: Block, activation: str) -> str:
    """The name of one block of a stage."""
    alone = replace(stage, repeats=1, stride=block.stride)
    return part(block.input, canonical(alone, block.input.channels, activation), activation)


def part(given: FeatureMap, what: object, activation: str) -> str:
    """The name of a part whose input is this feature map."""
    return f"{given.size}px c{given.channels} {what} {activation}"


def nanoseconds(seconds: float) -> int:
    """A latency as it is added up: in whole nanoseconds, so that no sum depends on its order."""
    return round(seconds * 1e9)
