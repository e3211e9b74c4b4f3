"""Counting a whole search space: what each option of each stage costs after each shape that may come before it.

A path of one option a stage is a network, and what it costs follows along it: millions of networks at once. Numpy only.

Arrays: `options` [n, stages] holds one option per stage; costs are int64 [..., columns]. Of each column but the last
a network has the sum over its parts, of the last, `peak`, the largest. A latency is in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.base.arrays import Bools, Floats, Ints
from nas.base.units import format_count
from nas.networks.blocks import Block, FeatureMap, head, stem
from nas.networks.cost import COLUMNS, SUMS, Figures, added, count_blocks, count_classifier
from nas.networks.parts import block_part, nanoseconds, part, part_names
from nas.networks.stages import Stage, blocks_of, canonical

if TYPE_CHECKING:
    from nas.spaces.space import SearchSpace

CHUNK = 1 << 14  # networks counted at once: what they need stays in the cache


def unit(column: str) -> float:
    """How many units of a column are one of its user's: latencies are added up in nanoseconds."""
    return 1e9 if column == "latency" else 1


def by_name(counting: Counting, figures: Ints | Floats) -> dict[str, Any]:
    """The columns of costs [..., columns] by name, a latency in seconds."""
    columns = np.moveaxis(figures, -1, 0)
    return {
        name: column / unit(name) if unit(name) != 1 else column
        for name, column in zip(counting.columns, columns, strict=True)
    }


@dataclass(frozen=True)
class Step:
    """One stage. A state is the feature map that comes in.

    cost: int64 [states, options, columns]. next: the state that comes out, [states, options]. distinct: False where an
    earlier option gives the same stage, or where an option is ruled out, [states, options].
    """

    cost: Ints
    next: Ints
    distinct: Bools


@dataclass(frozen=True, eq=False)
class Counting:
    """The costs of a space's parts. columns: their names. start: the stem's [columns]; steps: the stages; finish: head
    and classifier after each last state, [states, columns]. counted: the resolution and number of classes, as a
    sentence for errors.
    """

    columns: tuple[str, ...]
    start: Ints
    steps: tuple[Step, ...]
    finish: Ints
    counted: str


@lru_cache(maxsize=64)
def build(space: SearchSpace) -> Counting:
    """Count every option of every stage after every feature map that can come before it."""
    seconds, activation = space.seconds_of, space.activation
    columns = (*SUMS, "latency", "peak") if seconds else COLUMNS

    def row(figures: Figures, names: Sequence[str]) -> list[int]:
        """The costs of parts: their figures, and their latency by name."""
        timed = [sum(nanoseconds(seconds(name)) for name in names)] if seconds else []
        return [*figures[:-1], *timed, figures[-1]]

    def stage_row(stage: Stage, blocks: Sequence[Block]) -> list[int]:
        return row(count_blocks(blocks), [block_part(stage, block, activation) for block in blocks] if seconds else ())

    first = stem(FeatureMap(space.in_channels, space.resolution), space.stem, space.stem_stride)
    states, steps = [first.output], []
    for options in (slot.options for slot in space.slots):
        following: dict[FeatureMap, int] = {}
        cost = np.zeros((len(states), len(options), len(columns)), np.int64)
        onward = np.zeros((len(states), len(options)), np.int64)
        distinct = np.zeros((len(states), len(options)), np.bool_)
        for s, state in enumerate(states):
            seen: set[Stage] = set()
            for o, option in enumerate(options):
                stage = canonical(option, state.channels, activation)
                blocks = blocks_of(stage, state)
                cost[s, o] = stage_row(stage, blocks)
                onward[s, o] = following.setdefault(blocks[-1].output, len(following))
                distinct[s, o] = stage not in seen
                seen.add(stage)
        steps.append(Step(cost, onward, distinct))
        states = list(following)
    finish = []
    for state in states:
        last = head(state, space.head)
        figures = added([count_blocks([last]), count_classifier(last, space.num_classes)])
        finish.append(row(figures, [part(state, f"head{space.head}", activation)]))
    begin = part_names(space.decode([0] * len(space.choices)))[0]
    counted = (
        f"counted at {space.resolution} px with {space.num_classes} classes: the classifier alone has "
        f"{format_count((space.head + 1) * space.num_classes)} params"
    )
    return Counting(columns, np.array(row(count_blocks([first]), [begin])), tuple(steps), np.array(finish), counted)


def costs(counting: Counting, options: Ints) -> Ints:
    """The costs [n, columns] of networks given as options [n, stages]."""
    columns = len(counting.columns)
    out = np.empty((len(options), columns), np.int64)
    for at in range(0, len(options), CHUNK):
        total = out[at : at + CHUNK]
        total[:] = counting.start
        state: Ints | int = 0
        for step, option in zip(counting.steps, options[at : at + CHUNK].T, strict=True):
            cell = state * step.next.shape[1] + option
            # "clip" is quick: all are inside
            _add(total, step.cost.reshape(-1, columns).take(cell, axis=0, mode="clip"))
            state = step.next.ravel().take(cell, mode="clip")
        _add(total, counting.finish.take(state, axis=0, mode="clip"))
    return out


def _add(total: Ints, more: Ints) -> None:
    """Add the costs of a part: sums, and the largest peak."""
    peak = np.maximum(total[:, -1], more[:, -1])
    total += more
    total[:, -1] = peak


def joined(first: Ints | Floats, second: Ints | Floats) -> Floats:
    """The costs [..., columns] of two parts of a network together: sums, and the largest peak."""
    both = np.asarray(first + second, float)
    both[..., -1] = np.maximum(first[..., -1], second[..., -1])
    return both


def mean_costs(counting: Counting, weights: Sequence[Floats]) -> Floats:
    """The sums expected, exactly, of networks whose options are drawn independently: the first columns.

    weights: for each stage the probability of each option, [options].
    """
    total = counting.start.astype(float)
    reached = np.ones(1)  # the probability of each state
    for step, weight in zip(counting.steps, weights, strict=True):
        share = reached[:, None] * weight
        total = total + np.einsum("so,soc->c", share, step.cost)
        reached = np.asarray(np.bincount(step.next.ravel(), share.ravel()), dtype=float)
    return np.asarray(total + reached @ counting.finish)[: len(SUMS)]


def size(counting: Counting) -> int:
    """The exact number of distinct networks."""
    paths = [1] * len(counting.finish)
    for step in reversed(counting.steps):
        paths = [
            sum(paths[n] for n, new in zip(nexts, fresh, strict=True) if new)
            for nexts, fresh in zip(step.next.tolist(), step.distinct.tolist(), strict=True)
        ]
    return paths[0]


def extremes(counting: Counting) -> tuple[Floats, Floats]:
    """The least and the most of each cost, [columns] each, column by column; infinite where there is no network."""
    least = most = counting.finish.astype(float)
    for step in reversed(counting.steps):
        fresh = step.distinct[..., None]
        least = np.where(fresh, joined(step.cost, least[step.next]), np.inf).min(axis=1)
        most = np.where(fresh, joined(step.cost, most[step.next]), -np.inf).max(axis=1)
    return joined(counting.start, least[0]), joined(counting.start, most[0])


def limited(counting: Counting, low: float, high: float) -> Counting:
    """The networks whose peak is from low to high.

    The largest is within `high` if each part is, so options are ruled out one by one. It reaches `low` if one part
    does: each state is split in two, before and after such a part.
    """
    peaks = [step.cost[..., -1] for step in counting.steps]
    met = counting.start[-1] >= low
    ways = 1 if met else 2  # the states of one way come before those of the other
    ends = np.tile(counting.finish[:, -1], (ways, 1))
    alive = ((ends <= high) & ((ends >= low) | (np.arange(ways)[:, None] == ways - 1))).ravel()
    steps: list[Step] = []
    for step, peak in zip(reversed(counting.steps), reversed(peaks), strict=True):
        after = len(alive) // ways
        onward = [step.next + after * (ways - 1 if way else np.where(peak >= low, ways - 1, 0)) for way in range(ways)]
        following = np.concatenate(onward)
        fits = np.tile(step.distinct & (peak <= high), (ways, 1)) & alive[following]
        steps.insert(0, Step(np.tile(step.cost, (ways, 1, 1)), following, fits))
        alive = fits.any(axis=1)
    return replace(counting, steps=tuple(steps), finish=np.tile(counting.finish, (ways, 1)))
