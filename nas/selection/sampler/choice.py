"""From history to proposal: pure functions of rows of candidates, without Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nas.base.arrays import Bools, Floats, Ints
from nas.selection.pareto import non_dominated, undominated_boxes
from nas.selection.sampler.candidates import LISTED, POOL, Candidates, neighbours
from nas.selection.sampler.model import Features, expected_hypervolume_gain, fit

DESIGN = 4  # first proposals per objective, at least
LONGEST = 16  # first proposals at most, for choices of many alternatives
BONUS = 1.0
UNKNOWN = 4  # of so many proposals one is for combinations that were not tried yet
PROMISING = 0.25  # among this share of the candidates with the largest gain
FENCE = 10.0  # regrets larger than so many times the median count as that
MOST_OBSERVED = 300  # observations that the model takes at most
STARTS, RANDOM = 3, 1  # of the local search: the best, and others at random
OFFERED = 1024  # candidates of the pool that it chooses them from
STEPS = 12  # of each of them at most

Score = Callable[[Ints], Floats]


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

    First come proposals that are spread over the cost and show each alternative of each choice twice, if need be some
    more. Then come those of largest expected gain, the more so the less of them was tried before; every UNKNOWN-th is
    the least tried of the promising. Taken networks are left out; if that leaves nothing in the whole space, all are
    open again. `fixed` gives slots and the choices that they must have.
    """
    rng = np.random.default_rng([seed, number])
    fixed = fixed or {}
    rows = _offered(candidates, history, fixed, rng)
    novel = novelty(candidates, history.taken)
    turn, first = len(history.taken), _design(candidates, goal)
    if turn < first or len(history.observed) < 2:
        inside = _band(candidates, rows, turn, first, np.random.default_rng(seed))
        rows, score = rows[inside(rows)], _within(inside, novel)
    elif turn < 2 * first and novel(rows).max() >= 0.5 and not candidates.complete:
        score = novel
    else:
        gain = expected_gain_of(candidates, goal, history, rng)
        if number % UNKNOWN:
            score = _times(gain, novel)
        else:
            least = np.quantile(gain(rows), 1 - PROMISING)
            score = _within(lambda rows: np.asarray(gain(rows) >= least), novel)
    return climb(candidates, rows, score, history.taken, fixed, rng)


def _within(inside: Callable[[Ints], Bools], score: Score) -> Score:
    """The score of rows that are inside, -inf of others."""
    return lambda rows: np.where(inside(rows), score(rows), -np.inf)


def _times(gain: Score, novel: Score) -> Score:
    return lambda rows: gain(rows) * (1 + BONUS * novel(rows))


def _design(candidates: Candidates, goal: Goal) -> int:
    """The number of first proposals: enough to see each alternative twice."""
    return max(DESIGN * len(goal.signs), min(2 * max(candidates.grid.sizes), LONGEST))


def _offered(candidates: Candidates, history: History, fixed: Mapping[int, int], rng: np.random.Generator) -> Ints:
    """Rows to choose from, none of them taken if there are others: the whole space, or a part of the pool and the
    neighbours of the best."""
    rows = candidates.pool
    if not candidates.complete:
        if not len(candidates.untaken(rows, history.taken)):
            small = math.prod(candidates.grid.sizes) <= LISTED
            rows = candidates.everything() if small else np.union1d(rows, candidates.random(POOL, rng))
        rows = rng.permutation(rows)[:OFFERED]
        if len(history.observed):
            best = history.observed[np.argsort(_front_gap(history.values), kind="stable")[:STARTS]]
            rows = np.union1d(rows, candidates.feasible_rows(neighbours(candidates.codes[best], candidates.grid.sizes)))
    if fixed:
        codes = candidates.codes[rows]
        codes[:, list(fixed)] = list(fixed.values())
        found = candidates.feasible_rows(codes)
        rows = found if len(found) else rows
    left = candidates.untaken(rows, history.taken)
    return left if len(left) else rows


def climb(
    candidates: Candidates, rows: Ints, score: Score, taken: Ints, fixed: Mapping[int, int], rng: np.random.Generator
) -> int:
    """The row of largest score that is found: of `rows`, and of what is met from the best of them, and from random
    ones, by changing one choice at a time as long as that helps."""
    values = score(rows)
    order = np.argsort(-values, kind="stable")
    best, top = int(rows[order[0]]), float(values[order[0]])
    if candidates.complete or not len(candidates.untaken(rows, taken)):
        return best
    sizes, starts = candidates.grid.sizes, np.append(order[:STARTS], rng.permutation(order[STARTS:])[:RANDOM])
    at, level = rows[starts], values[starts]
    for _ in range(STEPS):
        near = neighbours(candidates.codes[at], sizes)
        met = candidates.rows(near)
        new = candidates.feasible[met] & ~np.isin(candidates.network[met], candidates.network[taken])
        new &= (near[:, list(fixed)] == list(fixed.values())).all(axis=1)
        found = np.full(len(met), -np.inf)
        distinct, place = np.unique(met[new], return_inverse=True)
        if not len(distinct):
            break
        found[new] = score(distinct)[place]
        step, column = found.reshape(-1, len(at)).argmax(axis=0), np.arange(len(at))
        reached = step * len(at) + column
        better = reached[found[reached] > level]
        at, level = met[better], found[better]
        if not len(at):
            break
        if level.max() > top:
            best, top = int(at[level.argmax()]), float(level.max())
    return best


def expected_gain_of(candidates: Candidates, goal: Goal, history: History, rng: np.random.Generator) -> Score:
    """The expected hypervolume gain of rows, given two or more observations.

    Known objectives count as they are, the others by log regret as the model has it, at networks that were observed
    too. Running trials count as observed at their predicted values. `rng` picks what a large history leaves out.
    """
    objectives = sorted(range(len(goal.signs)), key=lambda j: j not in goal.known)  # known first: cheaper boxes

    def exact(j: int, rows: Ints) -> Floats:
        return np.asarray(goal.signs[j] * candidates.costs[rows, goal.known.index(j)])

    features = _features_of(candidates)
    values = [exact(j, history.observed) if j in goal.known else _log_regret(history.values[:, j]) for j in objectives]
    kept = _informative(np.column_stack(values), rng)
    seen, running = features(history.observed), features(history.running)
    models, columns, reference = {}, [], []
    for j, value in zip(objectives, values, strict=True):
        if j in goal.known:
            columns.append(exact(j, np.append(history.observed, history.running)))
            span = np.append(columns[-1], exact(j, candidates.pool))
        else:
            model = fit(seen[kept], value[kept])
            believed = model.predict(running)[0] if len(history.running) else np.empty(0)
            columns.append(np.append(model.predict(seen)[0], believed))
            models[j] = model.believing(running) if len(believed) else model
            span = columns[-1]
        reference.append(span.max() + 0.1 * (np.ptp(span) or 1.0))
    boxes = undominated_boxes(np.column_stack(columns), reference)

    def score(rows: Ints) -> Floats:
        options = features(rows)
        guesses = [models[j].predict(options) if j in models else (exact(j, rows), None) for j in objectives]
        mean, stds = np.column_stack([mean for mean, _ in guesses]), [std for _, std in guesses]
        return expected_hypervolume_gain(boxes, mean, stds)

    return score


def novelty(candidates: Candidates, taken: Ints) -> Score:
    """How much of rows was not seen in taken ones: alternatives of choices less than twice, and pairs of alternatives
    of two choices not yet; an alternative counts as much as all pairs of a network."""
    sizes = candidates.grid.sizes
    starts, pairs = np.cumsum([0, *sizes[:-1]]), len(sizes) * (len(sizes) - 1) or 1

    def columns(rows: Ints) -> Floats:
        shown = np.zeros((len(rows), sum(sizes)))
        np.put_along_axis(shown, candidates.codes[rows] + starts, 1.0, axis=1)
        return shown

    told = columns(taken)
    count = told.T @ told
    worth = (count == 0) / pairs
    np.fill_diagonal(worth, np.maximum(2 - np.diag(count), 0) / 2)

    def score(rows: Ints) -> Floats:
        shown = columns(rows)
        return np.asarray(((shown @ worth) * shown).sum(axis=1))

    return score


def _band(
    candidates: Candidates, rows: Ints, turn: int, bands: int, rng: np.random.Generator
) -> Callable[[Ints], Bools]:
    """Which rows are within band number `turn` of as many bands of the first known cost; without costs all are.

    A band is centred midway between an even share of the pool and an even step of log cost: the former alone would
    crowd the bulk of the space, the latter alone its thin ends.
    """
    if not candidates.costs.shape[1]:
        return lambda rows: np.ones(len(rows), dtype=bool)
    log = _log(candidates.costs[:, 0])
    cost = log[candidates.pool]
    share = (_order(bands, rng)[turn % bands] + 0.5) / bands
    level = (np.quantile(cost, share) + cost.min() + share * np.ptp(cost)) / 2
    width = np.sort(np.abs(log[rows] - level))[min(len(rows), max(4, len(rows) // (2 * bands))) - 1]

    def inside(rows: Ints) -> Bools:
        return np.asarray(np.abs(_log(candidates.costs[rows, 0]) - level) <= width)

    return inside


def _order(bands: int, rng: np.random.Generator) -> Ints:
    """A random order of bands in which each DESIGN in a row cover all quarters or so."""
    parts = [rng.permutation(part) for part in np.array_split(np.arange(bands), DESIGN)]
    rounds = max(map(len, parts))
    return np.concatenate([rng.permutation([part[i] for part in parts if i < len(part)]) for i in range(rounds)])


def _features_of(candidates: Candidates) -> Callable[[Ints], Features]:
    """Makes features of rows [n]; costs are standardized by those of the pool."""
    usual = _log(candidates.costs[candidates.pool])
    centre, width = usual.mean(axis=0), usual.std(axis=0)
    width[width == 0] = 1.0

    def features(rows: Ints) -> Features:
        standard = (_log(candidates.costs[rows]) - centre) / width
        return Features.of(candidates.codes[rows], candidates.grid.sizes, list(standard.T))

    return features


def _log(cost: Floats) -> Floats:
    """A logarithm for any sign: costs are positive as a rule, but a known objective may be anything."""
    return np.asarray(np.sign(cost) * np.log1p(np.abs(cost)))


def _log_regret(values: Floats) -> Floats:
    """log(1 + r), r = (y - best) / spread at most FENCE, spread the median's distance from the best; [n] -> [n].

    The further from the best, the coarser: very poor networks then bend neither the model nor the volume.
    """
    regret = values - values.min()
    return np.asarray(np.log1p(np.minimum(regret / (np.median(regret) or regret.max() or 1.0), FENCE)))


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
