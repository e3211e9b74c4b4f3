"""Fronts of accuracies that are noisy: how large the noise is, and how probably a network is non-dominated.

A network's accuracy differs from seed to seed. Its mean over several trainings is known to within the noise of one
training, which is pooled over all networks that were trained more than once; costs are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nas.base.arrays import Floats
from nas.selection.pareto import non_dominated

Repeat = tuple[int, int]  # the number of a trial, and of its repeat, from 1
Repeats = Mapping[int, Sequence[float]]  # accuracies of repeats by trial; a failed one is NaN

NEAR = 0.25  # a near miss of the front is non-dominated with at least this probability
DRAWS = 4000  # for up to MANY networks; for more, proportionally fewer
MANY = 1000
_ROUNDS = 40  # values of the noise's variance that the draws are made with
_SPREADS = np.linspace(0.0, 3.0, 61)  # of true accuracies around the trend, in units of the observed deviation
_FREE = 100.0  # prior variance of the trend's coefficients in the same units: nearly free


@dataclass(frozen=True)
class Noise:
    """The variance of one training's accuracy between seeds, and its degrees of freedom."""

    variance: float
    freedom: int

    def error(self, runs: ArrayLike) -> Floats:
        """The standard error of means over `runs` trainings."""
        return np.asarray(np.sqrt(self.variance / np.asarray(runs, dtype=float)))


def pooled_noise(accuracies: Iterable[Sequence[float]], images: float | None = None) -> Noise | None:
    """The noise of one training, pooled over networks; None where none was trained twice.

    accuracies: of each network, one per training. The sum of squared deviations from each network's own mean over the
    number of trainings less that of networks; given the number of images, never less than the rounding of a share of
    that many, 1 / (12 images²) (Sheppard 1898).
    """
    repeated = [np.asarray(runs, dtype=float) for runs in accuracies if len(runs) > 1]
    freedom = sum(len(runs) - 1 for runs in repeated)
    if not freedom:
        return None
    squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in repeated)
    return Noise(max(squares / freedom, 1 / (12 * images**2) if images else 0.0), freedom)


def draws(means: ArrayLike, runs: ArrayLike, cost: ArrayLike, noise: Noise, seed: int, count: int = DRAWS) -> Floats:
    """Draws [count, n] of the true accuracies of n networks from their posterior; of n > MANY, count * MANY / n.

    means: of `runs` trainings each; cost: positive, as MAdds; all [n]. The model is the hierarchical one of Rubin 1981
    (Gelman et al., Bayesian Data Analysis, section 5.4): a mean is normal around the true accuracy with the noise's
    variance over its runs, and true accuracies are normal around a parabola in log cost. Its coefficients, the spread
    around it (uniform prior) and the noise's variance (scaled inverse chi-squared) are drawn too. This corrects for the
    luck of the best among many networks trained once.
    """
    rng = np.random.default_rng(seed)
    observed, log_cost = np.asarray(means, dtype=float), np.log(np.asarray(cost, dtype=float))
    centre = observed.mean()
    scale = max(float(observed.std()), noise.variance**0.5)
    z = (log_cost - log_cost.mean()) / (log_cost.std() or 1.0)
    trend = np.column_stack([np.ones_like(z), z, z**2])
    y = (observed - centre) / scale
    freedom = noise.freedom
    count = max(1, count * MANY // max(MANY, len(observed)))
    variances = noise.variance * freedom / rng.chisquare(freedom, _ROUNDS) / scale**2
    worlds = [_World.of(y, trend, variance / np.asarray(runs, dtype=float)) for variance in variances]
    evidence = np.array([world.evidence for world in worlds])
    weights = np.exp(evidence - evidence.max()).sum(axis=1)
    shares = rng.multinomial(count, weights / weights.sum())
    parts = [world.draws(int(share), rng) for world, share in zip(worlds, shares, strict=True) if share]
    return np.asarray(centre + scale * np.concatenate(parts))


@dataclass(frozen=True)
class _World:
    """The model of observations y [n] given their variances `error` [n], for each of _SPREADS.

    inverse: 1 / the variance of y around the trend, [spreads, n]. precision [spreads, p, p] and best [spreads, p]: of
    the trend's coefficients. evidence: log likelihood, [spreads].
    """

    y: Floats
    trend: Floats
    error: Floats
    inverse: Floats
    precision: Floats
    best: Floats
    evidence: Floats

    @classmethod
    def of(cls, y: Floats, trend: Floats, error: Floats) -> _World:
        inverse = 1 / (_SPREADS[:, None] ** 2 + error)
        precision = np.einsum("np,nq,sn->spq", trend, trend, inverse, optimize=True) + np.eye(trend.shape[1]) / _FREE
        toward = (inverse * y) @ trend
        best = np.linalg.solve(precision, toward[..., None])[..., 0]
        fit = np.log(inverse).sum(axis=1) - inverse @ y**2 + (toward * best).sum(axis=1)
        return cls(y, trend, error, inverse, precision, best, (fit - np.linalg.slogdet(precision)[1]) / 2)

    def draws(self, count: int, rng: np.random.Generator) -> Floats:
        """Draws [count, n] of what y are observations of."""
        weights = np.exp(self.evidence - self.evidence.max())
        picked = rng.choice(len(_SPREADS), count, p=weights / weights.sum())
        # With precision L Lᵀ, L⁻ᵀ times standard normal numbers has the coefficients' covariance.
        factor = np.linalg.cholesky(self.precision)[picked]
        normal = rng.standard_normal((count, self.trend.shape[1], 1))
        level = (self.best[picked] + np.linalg.solve(factor.transpose(0, 2, 1), normal)[..., 0]) @ self.trend.T
        trust = (_SPREADS[picked] ** 2)[:, None] * self.inverse[picked]
        spread = np.sqrt(trust * self.error)
        return np.asarray(level + trust * (self.y - level) + spread * rng.standard_normal(level.shape))


def probabilities(accuracies: Floats, costs: ArrayLike) -> Floats:
    """The probability that each of n networks is non-dominated: the share of draws [count, n] in which it is; [n].

    costs: [n, k], exact, minimized, k >= 0. A network is dominated where another that costs no more in anything is
    at least as accurate. The probabilities sum to the expected size of the front.
    """
    figures = np.asarray(costs, dtype=float).reshape(accuracies.shape[1], -1)
    drawn = np.ascontiguousarray(accuracies.T)
    # What the front of means dominates in a draw is left out of it: whatever that dominates, the front dominates too.
    left = np.ones(drawn.shape, dtype=bool)
    for leader in np.flatnonzero(non_dominated(np.column_stack([-drawn.mean(axis=1), figures]))):
        behind = (figures[leader] <= figures).all(axis=1)
        behind[leader] = False
        left[behind] &= drawn[behind] > drawn[leader]
    open_ = np.flatnonzero(left.any(axis=1))
    found = np.zeros(len(figures))
    for i in open_:
        rivals = open_[(figures[open_] <= figures[i]).all(axis=1) & (open_ != i)]
        among = np.flatnonzero(left[i])
        best = drawn[np.ix_(rivals, among)].max(axis=0, initial=-np.inf)
        found[i] = (drawn[i, among] > best).sum() / drawn.shape[1]
    return found


def next_repeats(
    contenders: Callable[[Repeats], Iterable[int]], recorded: Mapping[Repeat, float], repeats: int
) -> list[Repeat]:
    """The repeats to make next, all of one round; none once each contender has `repeats`.

    contenders: the trials to repeat, given the repeats so far; recorded: accuracies of the repeats made so far. Each
    round repeats all contenders that lack repeats once, then the contenders are determined anew. Rounds are gone
    through again from the first, so that what is next does not depend on where a run was interrupted or who was first.
    """
    known: dict[int, list[float]] = {}
    while True:
        due = [(t, len(known.get(t, ())) + 1) for t in contenders(known) if len(known.get(t, ())) < repeats]
        left = [repeat for repeat in due if repeat not in recorded]
        if left or not due:
            return left
        for trial, number in due:
            known.setdefault(trial, []).append(recorded[trial, number])
