"""Counting a whole search space: what each option of each stage costs after each shape that may come before it.

A path of one option a stage is a network, and the sum along it is its cost: millions of networks at once. Numpy only.

Arrays: `options` [n, stages] holds one option per stage; costs are int64 [..., 4] in the order of `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nas.base.arrays import Bools, Floats, Ints
from nas.base.units import format_count
from nas.networks.blocks import FeatureMap, head, stem
from nas.networks.cost import added, count_blocks, count_classifier
from nas.networks.stages import Stage, blocks_of, canonical

if TYPE_CHECKING:
    from nas.spaces.space import SearchSpace

CHUNK = 1 << 14  # networks counted at once: what they need stays in the cache


@dataclass(frozen=True)
class Step:
    """One stage. A state is the feature map that comes in.

    cost: int64 [states, options, 4]. next: the state that comes out, [states, options]. distinct: False where an
    earlier option gives the same stage, [states, options].
    """

    cost: Ints
    next: Ints
    distinct: Bools


@dataclass(frozen=True)
class Counting:
    """The costs of a space's parts. start: the stem's [4]; steps: the stages; finish: head and classifier after each
    last state, [states, 4]. counted: the resolution and number of classes, as a sentence for errors.
    """

    start: Ints
    steps: tuple[Step, ...]
    finish: Ints
    counted: str


@lru_cache(maxsize=64)
def build(space: SearchSpace) -> Counting:
    """Count every option of every stage after every feature map that can come before it."""
    first = stem(FeatureMap(space.in_channels, space.resolution), space.stem, space.stem_stride)
    states, steps = [first.output], []
    for options in (slot.options for slot in space.slots):
        following: dict[FeatureMap, int] = {}
        cost = np.zeros((len(states), len(options), 4), np.int64)
        onward = np.zeros((len(states), len(options)), np.int64)
        distinct = np.zeros((len(states), len(options)), np.bool_)
        for s, state in enumerate(states):
            seen: set[Stage] = set()
            for o, option in enumerate(options):
                stage = canonical(option, state.channels, space.activation)
                blocks = blocks_of(stage, state)
                cost[s, o] = count_blocks(blocks)
                onward[s, o] = following.setdefault(blocks[-1].output, len(following))
                distinct[s, o] = stage not in seen
                seen.add(stage)
        steps.append(Step(cost, onward, distinct))
        states = list(following)
    heads = [head(state, space.head) for state in states]
    finish = [added([count_blocks([last]), count_classifier(last, space.num_classes)]) for last in heads]
    counted = (
        f"counted at {space.resolution} px with {space.num_classes} classes: the classifier alone has "
        f"{format_count((space.head + 1) * space.num_classes)} params"
    )
    return Counting(np.array(count_blocks([first])), tuple(steps), np.array(finish), counted)


def costs(counting: Counting, options: Ints) -> Ints:
    """The costs [n, 4] of networks given as options [n, stages]."""
    out = np.empty((len(options), 4), np.int64)
    for at in range(0, len(options), CHUNK):
        total = out[at : at + CHUNK]
        total[:] = counting.start
        state: Ints | int = 0
        for step, option in zip(counting.steps, options[at : at + CHUNK].T, strict=True):
            cell = state * step.next.shape[1] + option
            total += step.cost.reshape(-1, 4).take(cell, axis=0, mode="clip")  # "clip" is quick: all are inside
            state = step.next.ravel().take(cell, mode="clip")
        total += counting.finish.take(state, axis=0, mode="clip")
    return out


def mean_costs(counting: Counting, weights: Sequence[Floats]) -> Floats:
    """The costs [4] expected, exactly, of networks whose options are drawn independently.

    weights: for each stage the probability of each option, [options].
    """
    total = counting.start.astype(float)
    reached = np.ones(1)  # the probability of each state
    for step, weight in zip(counting.steps, weights, strict=True):
        share = reached[:, None] * weight
        total = total + np.einsum("so,soc->c", share, step.cost)
        reached = np.asarray(np.bincount(step.next.ravel(), share.ravel()), dtype=float)
    return np.asarray(total + reached @ counting.finish)


def size(counting: Counting) -> int:
    """The exact number of distinct networks."""
    paths = [1] * len(counting.finish)
    for step in reversed(counting.steps):
        paths = [
            sum(paths[n] for n, new in zip(nexts, fresh, strict=True) if new)
            for nexts, fresh in zip(step.next.tolist(), step.distinct.tolist(), strict=True)
        ]
    return paths[0]


def extremes(counting: Counting) -> tuple[Ints, Ints]:
    """The least and the most of each cost, [4] each, column by column."""
    least = most = counting.finish
    for step in reversed(counting.steps):
        least = (step.cost + least[step.next]).min(axis=1)
        most = (step.cost + most[step.next]).max(axis=1)
    return counting.start + least[0], counting.start + most[0]
