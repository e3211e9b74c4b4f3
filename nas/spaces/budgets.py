"""Budgets on a space: how many networks keep one, exactly, and uniform samples of those that do.

Both count paths through the space's stages (`counting`). Bounds are inclusive. Numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nas.base.arrays import Bools, Floats, Ints
from nas.base.errors import UserError
from nas.base.units import format_count
from nas.networks.cost import COLUMNS
from nas.spaces.counting import Counting, Step, costs, extremes, size

Bounds = Mapping[str, tuple[float, float]]  # column of a cost -> (least, most), both inclusive

DRAWS = 100_000  # networks that an estimate is made from

_ENUMERABLE = 200_000
_TRIES = 4_000_000
_LISTED = 1 << 20  # sums listed at once
_LOOKUPS = 1 << 28


def within(figures: Ints, bounds: Bounds) -> Bools:
    """Which rows of costs [n, 4] keep the bounds."""
    inside = np.ones(len(figures), np.bool_)
    for name, (low, high) in bounds.items():
        column = figures[:, COLUMNS.index(name)]
        inside &= (low <= column) & (column <= high)
    return inside


def refuse_impossible(counting: Counting, bounds: Bounds) -> None:
    """Raise a UserError that names the range of the space if a bound lies outside it."""
    least, most = extremes(counting)
    for name, (low, high) in bounds.items():
        column = COLUMNS.index(name)
        span = (
            f"the space reaches from {format_count(least[column])} to {format_count(most[column])} {name}, "
            f"{counting.counted}"
        )
        if low > high:
            raise UserError(f"min_{name} is above max_{name}; {span}")
        if high < least[column]:
            raise UserError(f"no network has at most {format_count(high)} {name}; {span}")
        if low > most[column]:
            raise UserError(f"no network has at least {format_count(low)} {name}; {span}")


@dataclass(frozen=True)
class Plan:
    """How to draw networks that keep the bounds: counts of paths by what is left of each budget.

    Costs are rounded down to buckets, so the counted paths are a superset of the feasible ones, and drawing one
    uniformly and rejecting the infeasible is uniform over the feasible: exact, whatever the buckets' width.
    bucket: int64 [states, options, budgets] per step. paths: float64 [states, *buckets] before each step and at
    the end.
    """

    bucket: tuple[Ints, ...]
    paths: tuple[Floats, ...]

    @property
    def total(self) -> float:
        """The number of paths that the plan draws from."""
        return float(self.paths[0][(0, *(n - 1 for n in self.paths[0].shape[1:]))])


def plan(counting: Counting, bounds: Bounds, fineness: int = 1) -> Plan:
    """Count the paths behind every state for every rest of the budgets (dynamic programming over the stages).

    fineness multiplies the number of buckets. Raises UserError if a bound lies outside the space's range.
    """
    refuse_impossible(counting, bounds)
    columns = [COLUMNS.index(name) for name in bounds]
    # What every path spends at each step is taken out first: the buckets then divide only what is left.
    floor = [step.cost[..., columns].min(axis=(0, 1)) for step in counting.steps]
    finish_floor = counting.finish[:, columns].min(axis=0)
    fixed = counting.start[columns] + sum(floor) + finish_floor
    _, most = extremes(counting)
    buckets = {0: 0, 1: 2048, 2: 128}.get(len(columns), 24) * fineness
    high = np.minimum([bounds[COLUMNS[c]][1] for c in columns], most[columns]) - fixed
    low = np.array([bounds[COLUMNS[c]][0] for c in columns]) - fixed
    width = np.maximum(1.0, high / buckets) if buckets else np.ones(0)
    last = np.floor(high / width).astype(np.int64)
    # Rounding down loses less than a bucket at each step and at the end.
    first = np.maximum(0, np.ceil(low / width).astype(np.int64) - len(counting.steps) - 1)

    shape = tuple(last + 1)
    rest = np.indices(shape).reshape(len(columns), -1) if columns else np.zeros((0, 1), np.int64)
    ends = np.floor((counting.finish[:, columns] - finish_floor) / width).astype(np.int64)
    left = rest[None] - ends[:, :, None]
    fits = ((left >= 0) & (left <= (last - first)[None, :, None])).all(axis=1)
    paths = [fits.astype(np.float64).reshape(len(ends), *shape)]
    bucket = [
        np.floor((step.cost[..., columns] - least) / width).astype(np.int64)
        for step, least in zip(counting.steps, floor, strict=True)
    ]
    for step, spent in zip(reversed(counting.steps), reversed(bucket), strict=True):
        paths.append(_paths_before(step, spent, paths[-1]))
    return Plan(tuple(bucket), tuple(reversed(paths)))


def _paths_before(step: Step, spent: Ints, after: Floats) -> Floats:
    """Number of paths from before a step, [states, *buckets], given those from behind it."""
    before = np.zeros((len(step.next), *after.shape[1:]))
    for s in range(len(step.next)):
        keys = np.column_stack([step.next[s], spent[s]])[step.distinct[s]]
        for key, times in zip(*np.unique(keys, axis=0, return_counts=True), strict=True):
            target, cut = key[0], key[1:]
            if all(c < n for c, n in zip(cut, after.shape[1:], strict=True)):
                ahead = tuple(slice(int(c), None) for c in cut)
                behind = tuple(slice(0, n - int(c)) for c, n in zip(cut, after.shape[1:], strict=True))
                before[s, ...][ahead] += times * after[target, ...][behind]
    return before


def draw(counting: Counting, design: Plan, n: int, rng: np.random.Generator) -> Ints:
    """Draw options [n, stages] uniformly from the paths of a plan; they may still miss the bounds by a bucket."""
    budgets = design.paths[0].shape[1:]
    state = np.zeros(n, np.int64)
    rest = np.tile(np.array(budgets, np.int64) - 1, (n, 1))
    options = np.empty((n, len(counting.steps)), np.int64)
    for i, (step, spent, after) in enumerate(zip(counting.steps, design.bucket, design.paths[1:], strict=True)):
        # Only the situations (state, rest of the budgets) that occur among the samples get a row of weights.
        situation = np.ravel_multi_index((state, *rest.T), (len(step.next), *budgets))
        occurs = np.bincount(situation) > 0
        met, row = np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[situation]
        met_state, *met_rest = np.unravel_index(met, (len(step.next), *budgets))
        left = np.array(met_rest, np.int64).reshape(-1, len(met)).T[:, None, :] - spent[met_state]
        open_ = step.distinct[met_state] & (left >= 0).all(axis=2)
        index = (step.next[met_state], *np.moveaxis(np.maximum(left, 0), 2, 0))
        weight = np.where(open_, after[index], 0.0)
        share = np.cumsum(weight, axis=1)
        share /= share[:, -1:]
        share += np.arange(len(met))[:, None]
        picked = np.searchsorted(share.ravel(), row + rng.random(n), side="right") - row * weight.shape[1]
        last = weight.shape[1] - 1 - np.argmax(weight[:, ::-1] > 0, axis=1)
        options[:, i] = np.minimum(picked, last[row])
        rest -= spent[state, options[:, i]]
        state = step.next[state, options[:, i]]
    return options


def sample(counting: Counting, n: int, rng: np.random.Generator, bounds: Bounds) -> Ints:
    """Draw options [n, stages] uniformly from the networks within the bounds.

    Raises UserError if there are none, with what the space can do.
    """
    design = plan(counting, bounds)
    if design.total <= _ENUMERABLE:
        feasible = listed(counting, design)
        feasible = feasible[within(costs(counting, feasible), bounds)]
        if not len(feasible):
            raise _empty(counting, bounds)
        return feasible[rng.integers(len(feasible), size=n)]
    found: list[Ints] = []
    have = drawn = 0
    fineness = 1
    while have < n:
        if drawn > _TRIES and have == 0:
            raise _empty(counting, bounds)
        batch = min(1 << 18, max(256, int((n - have) * 1.1 * max(1, drawn) / max(1, have))))
        options = draw(counting, design, batch, rng)
        good = options[within(costs(counting, options), bounds)]
        found.append(good)
        have, drawn = have + len(good), drawn + batch
        if have < drawn / 20 and fineness < 16 and len(bounds) == 1:  # mostly misses: finer buckets
            fineness *= 4
            design = plan(counting, bounds, fineness)
    return np.concatenate(found)[:n]


def listed(counting: Counting, design: Plan) -> Ints:
    """All options [paths, stages] that a plan draws from; only for plans of few paths."""
    options = np.empty((1, 0), np.int64)
    state = np.zeros(1, np.int64)
    rest = np.array(design.paths[0].shape[1:], np.int64)[None] - 1
    for step, spent, after in zip(counting.steps, design.bucket, design.paths[1:], strict=True):
        left = rest[:, None] - spent[state]  # [paths so far, options, budgets]
        affordable = step.distinct[state] & (left >= 0).all(axis=2)
        ahead = after[(step.next[state], *np.moveaxis(np.maximum(left, 0), 2, 0))]
        path, option = np.nonzero(affordable & (ahead > 0))
        options = np.column_stack([options[path], option])
        state, rest = step.next[state[path], option], left[path, option]
    return options


def _empty(counting: Counting, bounds: Bounds) -> UserError:
    least, most = extremes(counting)
    spans = [
        f"{name} from {format_count(least[COLUMNS.index(name)])} to {format_count(most[COLUMNS.index(name)])}"
        for name in bounds
    ]
    return UserError(
        f"no network of the space keeps this budget; it has {' and '.join(spans)}, {counting.counted}; widen the budget"
    )


Sums = tuple[Ints, Ints]  # sorted distinct sums, and how many paths have each


def count_within(counting: Counting, bounds: Bounds) -> int | None:
    """The exact number of networks within bounds on at most one column; None where that would take too long.

    Meet in the middle (Horowitz and Sahni 1974): the sums of all beginnings and of all ends of paths are listed, and
    each beginning, with each way through the few stages between, looks up how many ends still fit.
    """
    if size(counting) > 2**62 or len(bounds) > 1:
        return None
    if not bounds:
        return size(counting)
    ((name, (low, high)),) = bounds.items()
    column = COLUMNS.index(name)
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


def count(counting: Counting, bounds: Bounds) -> tuple[float, float | None]:
    """How many networks keep the bounds, and the standard error of that: None if the number is exact, an int.

    Raises UserError if there are none, with what the space can do.
    """
    refuse_impossible(counting, bounds)
    exact = count_within(counting, bounds)
    if exact is None:
        design = plan(counting, bounds)
        if design.total > _ENUMERABLE:  # estimated: the plan's paths times the share of them that keep the bounds
            options = draw(counting, design, DRAWS, np.random.default_rng(0))
            share = float(within(costs(counting, options), bounds).mean())
            spread = max(
                share * (1 - share), 1 / DRAWS if share == 0 else 0
            )  # no hit does not mean that there are none
            return design.total * share, design.total * (spread / DRAWS) ** 0.5
        exact = int(within(costs(counting, listed(counting, design)), bounds).sum())
    if not exact:
        raise _empty(counting, bounds)
    return exact, None


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
