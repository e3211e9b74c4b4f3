"""How many networks of a space keep a bound on one cost, exactly: meet in the middle. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.base.arrays import Ints
from nas.spaces.counting import Counting, Step, size

_LISTED = 1 << 20  # sums listed at once
_LOOKUPS = 1 << 28

Sums = tuple[Ints, Ints]  # sorted distinct sums, and how many paths have each


def count_within(counting: Counting, column: int, low: float, high: float) -> int | None:
    """The exact number of networks of which a sum, a column of the costs, is within bounds; None if it takes too long.

    Meet in the middle (Horowitz and Sahni 1974): the sums of all beginnings and of all ends of paths are listed, and
    each beginning, with each way through the few stages between, looks up how many ends still fit.
    """
    if size(counting) > 2**62:
        return None
    ends = {s: _single(int(cost)) for s, cost in enumerate(counting.finish[:, column])}
    starts = {0: _single(int(counting.start[column]))}
    i, j = 0, len(counting.steps)
    while i < j:
        forward = _length(starts) * _width(counting.steps[i])
        backward = _length(ends) * _width(counting.steps[j - 1])
        if min(forward, backward) > _LISTED:
            break
        if forward <= backward:
            starts, i = _extended(counting.steps[i], column, starts), i + 1
        else:
            ends, j = _extended(counting.steps[j - 1], column, ends, backward=True), j - 1
    between = {s: {s: _single(0)} for s in starts}
    for step in counting.steps[i:j]:
        between = {s: _extended(step, column, reached) for s, reached in between.items()}
        if sum(_length(reached) * len(starts[s][0]) for s, reached in between.items()) > _LOOKUPS:
            return None
    total = 0
    for s, reached in between.items():
        for e, (ways, numbers) in reached.items():
            sums, counts = ends[e]
            below = np.concatenate([[0], np.cumsum(counts)])
            for way, number in zip(ways.tolist(), numbers.tolist(), strict=True):
                spent = starts[s][0] + way
                fit = below[np.searchsorted(sums, high - spent, "right")]
                short = below[np.searchsorted(sums, low - spent, "left")] if low > 0 else 0
                total += number * int(starts[s][1] @ (fit - short))
    return total


def _single(value: int) -> Sums:
    return np.array([value], np.int64), np.ones(1, np.int64)


def _length(lists: Mapping[int, Sums]) -> int:
    return sum(len(sums) for sums, _ in lists.values())


def _width(step: Step) -> int:
    return int(step.distinct.sum(axis=1).max())


def _extended(step: Step, column: int, lists: Mapping[int, Sums], backward: bool = False) -> dict[int, Sums]:
    """Lists of sums by state, extended by one step; backward: from the states after it to those before it."""
    parts: dict[int, list[Sums]] = {}
    for state, option in np.argwhere(step.distinct).tolist():
        ends = state, int(step.next[state, option])
        source, target = reversed(ends) if backward else ends
        if source in lists:
            sums, numbers = lists[source]
            parts.setdefault(target, []).append((sums + step.cost[state, option, column], numbers))
    return {state: _merged(some) for state, some in parts.items()}


def _merged(lists: list[Sums]) -> Sums:
    sums, numbers = (np.concatenate(part) for part in zip(*lists, strict=True))
    order = np.argsort(sums, kind="stable")
    sums, numbers = sums[order], numbers[order]
    first = np.flatnonzero(np.diff(sums, prepend=sums[0] - 1))
    return sums[first], np.add.reduceat(numbers, first)
