"""A search space as a trellis: what each option of each stage costs behind each shape that may come before it.

A path through the trellis is a network. Sums along paths give the costs of millions of networks at once; counts of
paths by dynamic programming give uniform samples under budgets. Numpy only.

Arrays: `options` [n, stages] holds one option per stage; costs are int64 [..., 4] in the order of `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Stage, canonical
from nas.blocks import Linear, head, stem
from nas.cost import Cost, Count, add, check_counting, count_layer, count_layers, count_stage
from nas.errors import UserError
from nas.units import format_count

COLUMNS = ("madds", "flops", "params", "activations")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bounds = Mapping[str, tuple[float, float]]  # column -> (least, most), both inclusive

_CHUNK = 1 << 16
_ENUMERABLE = 200_000
_TRIES = 4_000_000


@dataclass(frozen=True)
class Step:
    """One stage. A state is the shape (channels, size) of what comes in.

    cost: int64 [states, options, 4]. next: the state that comes out, [states, options]. distinct: False where an
    earlier option gives the same stage, [states, options].
    """

    cost: Ints
    next: Ints
    distinct: NDArray[np.bool_]


@dataclass(frozen=True)
class Trellis:
    """start: the stem's cost [4]; steps: one a stage; finish: head and classifier behind each last state."""

    start: Ints
    steps: tuple[Step, ...]
    finish: Ints


def build(
    stages: Sequence[Sequence[Stage]],
    stem_channels: int,
    head_channels: int,
    activation: str,
    resolution: int,
    num_classes: int = 1000,
    in_channels: int = 3,
) -> Trellis:
    """Count every option of every stage behind every shape that can come before it."""
    check_counting(resolution, num_classes, in_channels)
    count, size = count_layers(stem(in_channels, stem_channels), resolution)
    states, steps = [(stem_channels, size)], []
    for options in stages:
        following: dict[tuple[int, int], int] = {}
        cost = np.zeros((len(states), len(options), 4), np.int64)
        onward = np.zeros((len(states), len(options)), np.int64)
        distinct = np.zeros((len(states), len(options)), np.bool_)
        for s, (channels, size) in enumerate(states):
            seen: set[Stage] = set()
            for o, option in enumerate(options):
                stage = canonical(option, channels, activation)
                one, out = count_stage(stage, channels, size)
                cost[s, o] = _figures(one)
                onward[s, o] = following.setdefault((stage.channels, out), len(following))
                distinct[s, o] = stage not in seen
                seen.add(stage)
        steps.append(Step(cost, onward, distinct))
        states = list(following)
    finish = []
    for channels, size in states:
        one, out = count_layers(head(channels, head_channels), size)
        finish.append(_figures(add(one, count_layer(Linear(head_channels, num_classes), out))))
    return Trellis(np.array(_figures(count)), tuple(steps), np.array(finish))


def _figures(count: Count) -> tuple[int, int, int, int]:
    cost: Cost = count.cost
    return cost.madds, cost.flops, cost.params, cost.activations


def costs(trellis: Trellis, options: Ints) -> Ints:
    """The costs [n, 4] of networks given as options [n, stages]."""
    out = np.empty((len(options), 4), np.int64)
    for at in range(0, len(options), _CHUNK):
        rows = options[at : at + _CHUNK]
        state = np.zeros(len(rows), np.int64)
        total = np.tile(trellis.start, (len(rows), 1))
        for step, option in zip(trellis.steps, rows.T, strict=True):
            cell = state * step.next.shape[1] + option
            total += step.cost.reshape(-1, 4)[cell]
            state = step.next.reshape(-1)[cell]
        out[at : at + _CHUNK] = total + trellis.finish[state]
    return out


def size(trellis: Trellis) -> int:
    """The exact number of distinct networks."""
    paths = [1] * len(trellis.finish)
    for step in reversed(trellis.steps):
        paths = [
            sum(paths[n] for n, new in zip(nexts, fresh, strict=True) if new)
            for nexts, fresh in zip(step.next.tolist(), step.distinct.tolist(), strict=True)
        ]
    return paths[0]


def extremes(trellis: Trellis) -> tuple[Ints, Ints]:
    """The least and the most of each cost, [4] each, column by column."""
    least = most = trellis.finish
    for step in reversed(trellis.steps):
        least = (step.cost + least[step.next]).min(axis=1)
        most = (step.cost + most[step.next]).max(axis=1)
    return trellis.start + least[0], trellis.start + most[0]


def within(figures: Ints, bounds: Bounds) -> NDArray[np.bool_]:
    """Which rows of costs [n, 4] keep the bounds."""
    inside = np.ones(len(figures), np.bool_)
    for name, (low, high) in bounds.items():
        column = figures[:, COLUMNS.index(name)]
        inside &= (low <= column) & (column <= high)
    return inside


def refuse_impossible(trellis: Trellis, bounds: Bounds) -> None:
    """Raise a UserError that names the range of the space if a bound lies outside it."""
    least, most = extremes(trellis)
    for name, (low, high) in bounds.items():
        column = COLUMNS.index(name)
        span = f"the space reaches from {format_count(least[column])} to {format_count(most[column])} {name}"
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


def plan(trellis: Trellis, bounds: Bounds, fineness: int = 1) -> Plan:
    """Count the paths behind every state for every rest of the budgets (dynamic programming over the stages).

    fineness multiplies the number of buckets. Raises UserError if a bound lies outside the space's range.
    """
    refuse_impossible(trellis, bounds)
    columns = [COLUMNS.index(name) for name in bounds]
    # What every path spends at each step is taken out first: the buckets then divide only what is left.
    floor = [step.cost[..., columns].min(axis=(0, 1)) for step in trellis.steps]
    finish_floor = trellis.finish[:, columns].min(axis=0)
    fixed = trellis.start[columns] + sum(floor) + finish_floor
    _, most = extremes(trellis)
    buckets = {0: 0, 1: 2048, 2: 128}.get(len(columns), 24) * fineness
    high = np.minimum([bounds[COLUMNS[c]][1] for c in columns], most[columns]) - fixed
    low = np.array([bounds[COLUMNS[c]][0] for c in columns]) - fixed
    width = np.maximum(1.0, high / buckets) if buckets else np.ones(0)
    last = np.floor(high / width).astype(np.int64)
    # Rounding down loses less than a bucket at each step and at the end.
    first = np.maximum(0, np.ceil(low / width).astype(np.int64) - len(trellis.steps) - 1)

    shape = tuple(last + 1)
    rest = np.indices(shape).reshape(len(columns), -1) if columns else np.zeros((0, 1), np.int64)
    ends = np.floor((trellis.finish[:, columns] - finish_floor) / width).astype(np.int64)
    left = rest[None] - ends[:, :, None]
    fits = ((left >= 0) & (left <= (last - first)[None, :, None])).all(axis=1)
    paths = [fits.astype(np.float64).reshape(len(ends), *shape)]
    bucket = [
        np.floor((step.cost[..., columns] - least) / width).astype(np.int64)
        for step, least in zip(trellis.steps, floor, strict=True)
    ]
    for step, spent in zip(reversed(trellis.steps), reversed(bucket), strict=True):
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


def draw(trellis: Trellis, design: Plan, n: int, rng: np.random.Generator) -> Ints:
    """Draw options [n, stages] uniformly from the paths of a plan; they may still miss the bounds by a bucket."""
    budgets = design.paths[0].shape[1:]
    state = np.zeros(n, np.int64)
    rest = np.tile(np.array(budgets, np.int64) - 1, (n, 1))
    options = np.empty((n, len(trellis.steps)), np.int64)
    for i, (step, spent, after) in enumerate(zip(trellis.steps, design.bucket, design.paths[1:], strict=True)):
        # Only the situations (state, rest of the budgets) that occur among the samples get a row of weights.
        flat = np.ravel_multi_index((state, *rest.T), (len(step.next), *budgets))
        met, row = np.unique(flat, return_inverse=True)
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


def sample(trellis: Trellis, n: int, rng: np.random.Generator, bounds: Bounds) -> Ints:
    """Draw options [n, stages] uniformly from the networks within the bounds.

    Raises UserError if there are none, with what the space can do.
    """
    design = plan(trellis, bounds)
    if design.total <= _ENUMERABLE:
        feasible = listed(trellis, design)
        feasible = feasible[within(costs(trellis, feasible), bounds)]
        if not len(feasible):
            raise _empty(trellis, bounds)
        return feasible[rng.integers(len(feasible), size=n)]
    found: list[Ints] = []
    have = drawn = 0
    fineness = 1
    while have < n:
        if drawn > _TRIES and have == 0:
            raise _empty(trellis, bounds)
        batch = min(1 << 18, max(256, int((n - have) * 1.1 * max(1, drawn) / max(1, have))))
        options = draw(trellis, design, batch, rng)
        good = options[within(costs(trellis, options), bounds)]
        found.append(good)
        have, drawn = have + len(good), drawn + batch
        if have < drawn / 20 and fineness < 16 and len(bounds) == 1:  # mostly misses: finer buckets
            fineness *= 4
            design = plan(trellis, bounds, fineness)
    return np.concatenate(found)[:n]


def listed(trellis: Trellis, design: Plan) -> Ints:
    """All options [paths, stages] that a plan draws from; only for plans of few paths."""
    rows: list[tuple[tuple[int, ...], int, tuple[int, ...]]] = [
        ((), 0, tuple(n - 1 for n in design.paths[0].shape[1:]))
    ]
    for step, spent, after in zip(trellis.steps, design.bucket, design.paths[1:], strict=True):
        grown = []
        for chosen, state, rest in rows:
            for option in np.flatnonzero(step.distinct[state]):
                left = tuple(r - c for r, c in zip(rest, spent[state, option], strict=True))
                target = int(step.next[state, option])
                if all(r >= 0 for r in left) and after[(target, *left)] > 0:
                    grown.append(((*chosen, int(option)), target, left))
        rows = grown
    return np.array([chosen for chosen, _, _ in rows], np.int64).reshape(-1, len(trellis.steps))


def _empty(trellis: Trellis, bounds: Bounds) -> UserError:
    least, most = extremes(trellis)
    spans = [
        f"{name} from {format_count(least[COLUMNS.index(name)])} to {format_count(most[COLUMNS.index(name)])}"
        for name in bounds
    ]
    return UserError(f"no network of the space keeps this budget; it has {' and '.join(spans)}: widen the budget")
