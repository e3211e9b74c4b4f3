"""Budgets on a space: how many networks keep one, and uniform samples of those that do.

Both count paths through the space's stages (`counting`). Bounds are inclusive. Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nas.base.arrays import Bools, Floats, Ints
from nas.base.errors import UserError
from nas.base.limits import Bounds, amount, figure, words
from nas.base.units import format_count
from nas.spaces.counting import Counting, Step, costs, extremes, limited, size, unit
from nas.spaces.exact import count_within

Limit = tuple[int, float, float]  # the number of a column, the least and the most

DRAWS = 100_000  # networks that an estimate is made from

_ENUMERABLE = 200_000
_TRIES = 4_000_000
_CELLS = {0: 1, 1: 2048, 2: 128**2, 3: 32**3}  # of the table by what is left of so many budgets
_NONE = 1e300  # the least cost where there is no way onward
_MOST_CELLS, _FINER = 600_000, 4
_SOUGHT, _ROUNDS = 1 << 14, 8  # draws for the nearest network, and how often more if none of them keeps the bounds
_PROBED, _ENOUGH = 4096, 0.05  # draws that a plan is judged by; the share of them to be kept that is good enough


def within(counting: Counting, figures: Ints, bounds: Bounds) -> Bools:
    """Which rows of costs [n, columns] keep the bounds."""
    inside = np.ones(len(figures), np.bool_)
    for column, low, high in _limits(counting, bounds):
        inside &= (low <= figures[:, column]) & (figures[:, column] <= high)
    return inside


def _limits(counting: Counting, bounds: Bounds) -> list[Limit]:
    """Bounds by the numbers of their columns, in the units of the counting; raises UserError for an unknown cost."""
    found: list[Limit] = []
    for name, (low, high) in bounds.items():
        if name not in counting.columns:
            raise UserError(f"no {name} is known of this space; known are {', '.join(counting.columns)}")
        per = unit(name)
        low, high = (x if per == 1 or x == np.inf else round(x * per) for x in (low, high))
        found.append((counting.columns.index(name), low, high))
    return found


def _refuse_impossible(counting: Counting, bounds: Bounds) -> None:
    """Raise a UserError that names the range of the space if a bound lies outside it."""
    least, most = extremes(counting)
    for (column, low, high), name in zip(_limits(counting, bounds), bounds, strict=True):
        start, end = (figure(name, value[column] / unit(name)) for value in (least, most))
        span = f"the space reaches from {start} to {end}, {counting.counted}"
        if low > high:
            raise UserError(f"{words({name: bounds[name]})} exclude each other; {span}")
        if high < least[column]:
            raise UserError(f"no network has at most {amount(name, bounds[name][1])}; {span}")
        if low > most[column]:
            raise UserError(f"no network has at least {amount(name, bounds[name][0])}; {span}")


@dataclass(frozen=True, eq=False)
class Plan:
    """How to draw networks that keep bounds: counts of paths by what is left of each budget.

    Costs are rounded down to buckets, so the counted paths are a superset of the feasible ones, and drawing one
    uniformly and rejecting the infeasible is uniform over the feasible: exact, whatever the buckets' width, and
    whichever budgets have buckets. counting: without what a bound on the peak rules out. bucket: int64 [states,
    options, budgets] per step. paths: float64 [states, *buckets] before each step and at the end.
    """

    counting: Counting
    bounds: Bounds
    bucket: tuple[Ints, ...]
    paths: tuple[Floats, ...]

    @property
    def total(self) -> float:
        """The number of paths that the plan draws from."""
        return float(self.paths[0][(0, *(n - 1 for n in self.paths[0].shape[1:]))])

    def kept(self, options: Ints) -> Ints:
        """Those of these options [n, stages] that keep the bounds."""
        return options[within(self.counting, costs(self.counting, options), self.bounds)]


def plan(counting: Counting, bounds: Bounds, cells: int | None = None) -> Plan:
    """Count the paths behind every state for every rest of the budgets (dynamic programming over the stages).

    cells: about so many buckets in all.
    """
    if "peak" in bounds:
        counting = limited(counting, *bounds["peak"])
    limits = _binding(counting, bounds)
    columns = [column for column, _, _ in limits]
    # What the cheapest way onward costs is taken out first: the buckets then divide only what may be left.
    least = [counting.finish[:, columns].astype(float)]
    reduced = []
    for step in reversed(counting.steps):
        spent = step.cost[..., columns] + least[-1][step.next]
        least.append(np.where(step.distinct[..., None], spent, _NONE).min(axis=1))
        reduced.append(np.where(step.distinct[..., None], spent - least[-1][:, None], 0))
    fixed = counting.start[columns] + least[-1][0]
    if not size(counting) or any(high < floor for (_, _, high), floor in zip(limits, fixed, strict=True)):
        nothing = tuple(np.zeros((len(step.next), *[1] * len(columns))) for step in counting.steps)
        none = tuple(np.zeros((*step.next.shape, len(columns)), np.int64) for step in counting.steps)
        return Plan(counting, bounds, none, (*nothing, np.zeros((len(counting.finish), *[1] * len(columns)))))
    buckets = (cells or _CELLS[len(columns)]) ** (1 / max(1, len(columns)))
    _, most = extremes(counting)
    high = np.array([min(high, most[column]) for column, _, high in limits]) - fixed
    low = np.array([low for _, low, _ in limits]) - fixed
    width = np.maximum(1.0, high / buckets)
    last = np.floor(high / width).astype(np.int64)
    # Rounding down loses less than a bucket at each step.
    first = np.maximum(0, np.ceil(low / width).astype(np.int64) - len(counting.steps))

    left = np.indices(tuple(last + 1))  # of each budget, by cell
    fits = (left <= (last - first).reshape(-1, *[1] * len(columns))).all(axis=0)
    paths = [np.broadcast_to(fits.astype(float), (len(counting.finish), *last + 1)).copy()]
    bucket = [np.floor(spent / width).astype(np.int64) for spent in reversed(reduced)]
    for step, spent in zip(reversed(counting.steps), reversed(bucket), strict=True):
        paths.append(_paths_before(step, spent, paths[-1]))
    return Plan(counting, bounds, tuple(bucket), tuple(reversed(paths)))


def _binding(counting: Counting, bounds: Bounds) -> list[Limit]:
    """The bounds on sums that rule networks out; of more than three those that rule out most."""
    least, most = extremes(counting)
    limits = [
        (column, low, high)
        for column, low, high in _limits(counting, bounds)
        if counting.columns[column] != "peak" and (low > least[column] or high < most[column])
    ]
    if len(limits) <= max(_CELLS):
        return limits
    everywhere = plan(counting, {})
    figures = costs(counting, draw(everywhere, _PROBED, np.random.default_rng(0)))
    shares = [((low <= figures[:, column]) & (figures[:, column] <= high)).mean() for column, low, high in limits]
    return [limits[i] for i in np.argsort(shares)[: max(_CELLS)]]


@lru_cache(maxsize=2)  # each of up to hundreds of megabytes
def _prepared(counting: Counting, bounds: tuple[tuple[str, tuple[float, float]], ...]) -> tuple[Plan, float]:
    """A plan, if need be with finer buckets, and the share of its paths that keep the bounds, roughly; cached.

    Raises UserError if a bound lies outside the space.
    """
    _refuse_impossible(counting, dict(bounds))
    design = plan(counting, dict(bounds))
    while True:
        options = draw(design, _PROBED, np.random.default_rng(0)) if design.total > _ENUMERABLE else listed(design)
        share = max(1, len(design.kept(options))) / max(1, len(options))
        cells = _FINER * design.paths[0][0].size
        if design.total <= _ENUMERABLE or share >= _ENOUGH or cells > _MOST_CELLS or design.paths[0].ndim == 1:
            return design, share
        design = plan(counting, dict(bounds), cells)


def _paths_before(step: Step, spent: Ints, after: Floats) -> Floats:
    """Number of paths from before a step, [states, *buckets], given those from behind it."""
    before = np.zeros((len(step.next), *after.shape[1:]))
    axes = range(after.ndim)
    ends = [np.flatnonzero(after.any(axis=tuple({*axes} - {axis}))).max(initial=-1) + 1 for axis in axes[1:]]
    for s in range(len(step.next)):
        keys = np.column_stack([step.next[s], spent[s]])[step.distinct[s]]
        for key, times in zip(*np.unique(keys, axis=0, return_counts=True), strict=True):
            target, cuts = key[0], key[1:].tolist()
            lengths = [min(n - cut, end) for n, cut, end in zip(after.shape[1:], cuts, ends, strict=True)]
            if min(lengths, default=1) > 0:
                ahead = tuple(slice(cut, cut + length) for cut, length in zip(cuts, lengths, strict=True))
                before[s, ...][ahead] += times * after[(target, *map(slice, lengths))]
    return before


def draw(design: Plan, n: int, rng: np.random.Generator) -> Ints:
    """Draw options [n, stages] uniformly from the paths of a plan; they may still miss the bounds by some buckets."""
    budgets = design.paths[0].shape[1:]
    state = np.zeros(n, np.int64)
    rest = np.tile(np.array(budgets, np.int64) - 1, (n, 1))
    options = np.empty((n, len(design.counting.steps)), np.int64)
    for i, (step, spent, after) in enumerate(zip(design.counting.steps, design.bucket, design.paths[1:], strict=True)):
        # Only the situations (state, rest of the budgets) that occur among the samples get a row of weights.
        situation = np.ravel_multi_index((state, *rest.T), (len(step.next), *budgets))
        met, row = _distinct(situation)
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


def _distinct(numbers: Ints) -> tuple[Ints, Ints]:
    """The distinct whole numbers of many, none below 0, and the place of each among them."""
    if numbers.max() > 16 * len(numbers):  # few of what there might be: sorted sooner than looked up
        found, place = np.unique(numbers, return_inverse=True)
        return found, place
    occurs = np.bincount(numbers) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[numbers]


def sample(counting: Counting, n: int, rng: np.random.Generator, bounds: Bounds) -> Ints:
    """Draw options [n, stages] uniformly from the networks within the bounds.

    Raises UserError if there are none, with the nearest that are possible.
    """
    found = _drawn(*_prepared(counting, tuple(bounds.items())), n, rng)
    if found is None:
        raise _empty(counting, bounds)
    return found


def _drawn(design: Plan, share: float, n: int, rng: np.random.Generator) -> Ints | None:
    """n networks drawn uniformly from those that keep the bounds; None where _TRIES draws find none.

    share: of the plan's paths that keep the bounds, roughly.
    """
    if design.total <= _ENUMERABLE:
        feasible = design.kept(listed(design))
        return feasible[rng.integers(len(feasible), size=n)] if len(feasible) else None
    found: list[Ints] = []
    have = drawn = 0
    while have < n:
        if drawn > _TRIES and have == 0:
            return None
        batch = min(1 << 18, 16 + int(1.1 * (n - have) / share))
        good = design.kept(draw(design, batch, rng))
        found.append(good)
        have, drawn = have + len(good), drawn + batch
    return np.concatenate(found)[:n]


def listed(design: Plan) -> Ints:
    """All options [paths, stages] that a plan draws from; only for plans of few paths."""
    options = np.empty((1, 0), np.int64)
    state = np.zeros(1, np.int64)
    rest = np.array(design.paths[0].shape[1:], np.int64)[None] - 1
    for step, spent, after in zip(design.counting.steps, design.bucket, design.paths[1:], strict=True):
        left = rest[:, None] - spent[state]  # [paths so far, options, budgets]
        affordable = step.distinct[state] & (left >= 0).all(axis=2)
        ahead = after[(step.next[state], *np.moveaxis(np.maximum(left, 0), 2, 0))]
        path, option = np.nonzero(affordable & (ahead > 0))
        options = np.column_stack([options[path], option])
        state, rest = step.next[state[path], option], left[path, option]
    return options


def count(counting: Counting, bounds: Bounds) -> tuple[float, float | None]:
    """How many networks keep the bounds, and the standard error of that: None if the number is exact, an int.

    Raises UserError if there are none, with the nearest that are possible.
    """
    _refuse_impossible(counting, bounds)
    narrowed = limited(counting, *bounds["peak"]) if "peak" in bounds else counting
    limits = _binding(narrowed, bounds)
    exact = count_within(narrowed, *limits[0]) if len(limits) == 1 else None if limits else size(narrowed)
    if exact is None:
        design, _ = _prepared(counting, tuple(bounds.items()))
        if design.total > _ENUMERABLE:  # estimated: the plan's paths times the share of them that keep the bounds
            share = len(design.kept(draw(design, DRAWS, np.random.default_rng(0)))) / DRAWS
            # No hit does not mean that there are none.
            spread = max(share * (1 - share), 1 / DRAWS if share == 0 else 0)
            return design.total * share, design.total * (spread / DRAWS) ** 0.5
        exact = len(design.kept(listed(design)))
    if not exact:
        raise _empty(counting, bounds)
    return exact, None


def _empty(counting: Counting, bounds: Bounds) -> UserError:
    """The error that no network keeps all bounds: it names, for each, the nearest with which one keeps the others."""
    near = {name: nearest(counting, bounds, name) for name in bounds}
    options = [amount(name, value) for name, value in near.items() if value is not None]
    hint = f"with the others as they are, the nearest possible is {' or '.join(options)}" if options else "widen two"
    return UserError(f"no network has {words(bounds)}; {hint}; {counting.counted}")


def nearest(counting: Counting, bounds: Bounds, name: str) -> float | None:
    """The value of one cost nearest to its bounds, of all networks that keep the other bounds; None if none does.

    Networks are drawn, and again from those that are nearer than the nearest of them, until all that are left can be
    listed; where draws find no more before that, it is the nearest that was found.
    """
    column, (low, high) = counting.columns.index(name), bounds[name]
    rng = np.random.default_rng(0)
    best, window = None, (0.0, np.inf)
    while True:
        design = plan(counting, {**bounds, name: window})
        all_left = design.total <= _ENUMERABLE
        found = design.kept(listed(design) if all_left else draw(design, _SOUGHT, rng))
        for _ in range(0 if all_left else _ROUNDS):
            found = found if len(found) else design.kept(draw(design, _SOUGHT, rng))
        if not len(found):
            return best
        values = costs(design.counting, found)[:, column] / unit(name)
        off = np.maximum(low - values, values - high)
        best, far = float(values[off.argmin()]), float(off.min()) - 1 / unit(name)
        if all_left or far < 0:
            return best
        window = (low - far, high + far)


def count_text(number: float, error: float | None, size: int) -> str:
    """A number of networks as text, with its share of the space and whether it is exact."""
    share = number / size
    part = f"{100 * share:.4g} %" if share >= 1e-4 else f"one in {format_count(1 / share)}" if share else "almost none"
    if error is None:
        return f"{int(number):,} networks, {part} of the space (exact)"
    return (
        f"about {format_count(number)} networks, {part} of the space (estimated from {DRAWS:,} draws; "
        f"standard error {format_count(error)})"
    )
