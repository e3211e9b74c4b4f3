"""From history to proposal: pure functions of rows of candidates, without Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nas.base.arrays import Floats, Ints
from nas.selection.pareto import non_dominated
from nas.selection.sampler.candidates import LISTED, POOL, Candidates, neighbours
from nas.selection.sampler.model import Features, expected_hypervolume_gain, fit

DESIGN = 4  # first proposals per objective, spread over the cost: a front has more of it to cover
MOST_OBSERVED = 300  # observations that the model takes at most
ELITE = 16  # observations whose neighbours are candidates of a larger space


@dataclass(frozen=True)
class Goal:
    """`signs`: 1 per objective to minimize, -1 to maximize. `known`: the keys of the columns of `Candidates.costs`,
    each the index of an objective, or past the last one a feature of the model only."""

    signs: tuple[int, ...]
    known: tuple[int, ...] = ()


@dataclass(frozen=True)
class History:
    """A study's trials as rows of candidates: `observed` [n] with their `values` [n, m], all minimized; `running`; and
    `taken`, which must not be proposed again."""

    observed: Ints
    values: Floats
    running: Ints
    taken: Ints


def propose(
    candidates: Candidates, goal: Goal, history: History, seed: int, number: int, fixed: Mapping[int, int] | None = None
) -> int:
    """The row for trial `number`: a pure function of its arguments.

    The first proposals `spread` over the cost, the others are what `choose` takes of all that is in reach. Taken
    networks are left out; if that leaves nothing in the whole space, all are open again. `fixed` gives slots and the
    choices that they must have.
    """
    rng = np.random.default_rng([seed, number])
    design = DESIGN * len(goal.signs)
    few = len(history.taken) < design or len(history.observed) < 2
    rows = candidates.pool if few or candidates.complete else reachable(candidates, history, rng)
    if not candidates.complete and not len(candidates.untaken(rows, history.taken)):
        small = math.prod(candidates.grid.sizes) <= LISTED
        rows = candidates.everything() if small else np.union1d(rows, candidates.random(POOL, rng))
    if fixed:
        codes = candidates.codes[rows]
        codes[:, list(fixed)] = list(fixed.values())
        rows = candidates.feasible_rows(codes) if len(candidates.feasible_rows(codes)) else rows
    left = candidates.untaken(rows, history.taken)
    rows = left if len(left) else rows
    if few:
        return spread(candidates, rows, history.taken, seed, design)
    return choose(candidates, rows, goal, history, rng)


def choose(candidates: Candidates, rows: Ints, goal: Goal, history: History, rng: np.random.Generator) -> int:
    """The row of largest expected hypervolume gain among `rows`, given two or more observations.

    Known objectives count as they are, the others by log regret. Running trials count as observed at their
    predicted values (kriging believer, Ginsbourger et al. 2010). `rng` picks what a large history leaves out.
    """
    objectives = sorted(range(len(goal.signs)), key=lambda j: j not in goal.known)  # known first: cheaper boxes
    costs = {j: goal.signs[j] * candidates.costs[:, goal.known.index(j)] for j in objectives if j in goal.known}
    values = [costs[j][history.observed] if j in costs else _log_regret(history.values[:, j]) for j in objectives]
    kept = _informative(np.column_stack(values), rng)
    seen, running, options = (_features(candidates, part) for part in (history.observed[kept], history.running, rows))
    points, means, stds = [], [], []
    for j, value in zip(objectives, values, strict=True):
        if j in costs:
            believed, mean, std = costs[j][history.running], costs[j][rows], None
        else:
            model = fit(seen, value[kept])
            believed = model.predict(running)[0] if len(history.running) else np.empty(0)
            if len(believed):
                model = model.believing(running)
            mean, std = model.predict(options)
        points.append(np.append(value, believed))
        means.append(mean)
        stds.append(std)
    spans = [p if std is not None else np.append(p, m) for p, m, std in zip(points, means, stds, strict=True)]
    reference = np.array([span.max() + 0.1 * np.ptp(span) for span in spans])
    gain = expected_hypervolume_gain(np.column_stack(points), reference, np.column_stack(means), stds)
    return int(rows[np.argmax(gain)])


def spread(candidates: Candidates, rows: Ints, taken: Ints, seed: int, design: int) -> int:
    """The row for one of `design` first proposals: from as many bands of the first known cost by turns, unlike all
    taken.

    A band is centred midway between an even share of the pool and an even step of log cost: the former alone would
    crowd the bulk of the space, the latter alone its thin ends.
    """
    turn = len(taken)
    rng = np.random.default_rng([seed, turn])
    if candidates.costs.shape[1]:
        cost = _log(candidates.costs[candidates.pool, 0])
        share = (np.random.default_rng(seed).permutation(design)[turn % design] + 0.5) / design
        level = (np.quantile(cost, share) + cost.min() + share * np.ptp(cost)) / 2
        near = np.argsort(np.abs(_log(candidates.costs[rows, 0]) - level), kind="stable")
        rows = rows[near[: max(4, len(rows) // (2 * design))]]
    rows = rng.permutation(rows)[:32]
    distance = (candidates.codes[rows, None] != candidates.codes[taken]).sum(axis=2)
    return int(rows[np.argmax(distance.min(axis=1, initial=len(candidates.grid.names)))])


def reachable(candidates: Candidates, history: History, rng: np.random.Generator) -> Ints:
    """The pool, and the networks one or two changes away from the best observed; feasible rows only, taken ones too."""
    best = np.argsort(_front_gap(history.values), kind="stable")[:ELITE]
    near = neighbours(candidates.codes[history.observed[best]], candidates.grid.sizes)
    far = rng.choice(neighbours(rng.choice(near, 32), candidates.grid.sizes), 128)
    return np.unique(np.concatenate([candidates.pool, candidates.feasible_rows(near), candidates.feasible_rows(far)]))


def _features(candidates: Candidates, rows: Ints) -> Features:
    """Features of rows [n]; costs are standardized by those of the pool."""
    standard = []
    for cost in candidates.costs.T:
        usual = _log(cost[candidates.pool])
        standard.append((_log(cost[rows]) - usual.mean()) / (usual.std() or 1.0))
    return Features.of(candidates.codes[rows], candidates.grid.sizes, standard)


def _log(cost: Floats) -> Floats:
    """A logarithm for any sign: costs are positive as a rule, but a known objective may be anything."""
    return np.asarray(np.sign(cost) * np.log1p(np.abs(cost)))


def _log_regret(values: Floats) -> Floats:
    """log(1 + (y - best) / spread), spread the median's distance from the best; [n] -> [n], the best is 0.

    The further from the best, the coarser: a few very poor networks then bend neither the model nor the volume.
    """
    regret = values - values.min()
    return np.asarray(np.log1p(regret / (np.median(regret) or regret.max() or 1.0)))


def _front_gap(points: Floats) -> Floats:
    """How far each point [n, m] is behind the front, 0 on it: the additive epsilon indicator (Zitzler et al. 2003)
    of the standardized front against the point."""
    scaled = points / np.where(np.ptp(points, axis=0) > 0, points.std(axis=0), 1.0)
    front = scaled[non_dominated(scaled)]
    return np.asarray(np.stack([(scaled - f).max(axis=1) for f in front]).min(axis=0))


def _informative(points: Floats, rng: np.random.Generator) -> Ints:
    """The points [n, m] that the model is fitted to: MOST_OBSERVED at most, half nearest the front, half at random."""
    if len(points) <= MOST_OBSERVED:
        return np.arange(len(points))
    half = MOST_OBSERVED // 2
    order = np.argsort(_front_gap(points), kind="stable")
    return np.sort(np.append(order[:half], rng.permutation(order[half:])[:half]))
