"""A Gaussian process over grids, averaged over its settings, and the expected gain under it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from scipy.special import ndtr

from nas.base.arrays import Floats, Ints

LEVEL, SLOPE, CURVE = 5.0, 0.5, 0.125  # prior deviations of a trend's constant and its coefficients of x and x ** 2
PRIOR = 5.0  # so many observations of a signal as large as the values' deviation count beforehand
LIGHT = 0.02  # one that weighs less than this share of the heaviest is left out


@dataclass(frozen=True)
class Features:
    """What the model sees of n networks.

    `slots` [n, D]: one-hot choices, scaled so that an inner product is the share of slots that agree. `trend` [n, p]:
    a constant, each log cost, standardized, and its square, each times its prior deviation. `sizes`: the number of
    columns of each choice.
    """

    slots: Floats
    trend: Floats
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, codes: Ints, sizes: Sequence[int], costs: Sequence[Floats]) -> Features:
        """The features of codes [n, slots], slot i with sizes[i] choices; costs: logarithms, standardized, [n] each."""
        slots = np.zeros((len(codes), sum(sizes)))
        np.put_along_axis(slots, codes + np.cumsum([0, *sizes[:-1]]), 1 / math.sqrt(len(sizes)), axis=1)
        trend = [np.full(len(codes), LEVEL)]
        trend += [column for cost in costs for column in (SLOPE * cost, CURVE * cost**2)]
        return cls(slots, np.column_stack(trend), tuple(sizes))

    def __getitem__(self, rows: Any) -> Features:
        return replace(self, slots=self.slots[rows], trend=self.trend[rows])

    def __add__(self, more: Features) -> Features:
        both = np.concatenate([self.slots, more.slots]), np.concatenate([self.trend, more.trend])
        return Features(*both, self.sizes)

    def weighted(self, weights: Floats) -> Features:
        """With weights [choices] of mean 1: an inner product of `slots` is the share of weight that agrees."""
        return replace(self, slots=self.slots * np.sqrt(np.repeat(weights, self.sizes)))


@dataclass(frozen=True)
class Setting:
    """A kernel of unit signal: mix * agreement + (1 - mix) * exp(-distance / length), and the noise's variance.

    `agreement` is the share of slots with the same choice (an additive model), `distance` the share that differ.
    """

    length: float
    mix: float
    noise: float


SETTINGS = tuple(Setting(*setting) for setting in product((1.0,), (0.1, 0.5, 0.9), (0.003, 0.1, 0.3, 1.0, 3.0)))

USUAL, STEPS = Setting(1.0, 0.5, 0.3), 4
EVEN = 2.0


@dataclass(frozen=True)
class Model:
    """Gaussian processes given the same observations, one per setting, weighted by their evidence.

    weights [s] sum to 1; signal [s]: the signal's variance, in units of scale ** 2; inverse [s, n, n]: of the Cholesky
    factor of the covariance in units of the signal; white [s, n]: it times the standardized observations; relevance
    [choices]: the weights of the choices. (Rasmussen and Williams 2006, algorithm 2.1 and section 5.2.)
    """

    features: Features
    relevance: Floats
    settings: tuple[Setting, ...]
    weights: Floats
    signal: Floats
    inverse: Floats
    white: Floats
    centre: float
    scale: float

    @property
    def noise(self) -> float:
        """The variance of one observation around the objective."""
        ratios = np.array([setting.noise for setting in self.settings])
        return self.scale**2 * float(self.weights @ (self.signal * ratios))

    def predict(self, features: Features) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of the objective without its noise."""
        features = features.weighted(self.relevance)
        prior = 1.0 + (features.trend**2).sum(axis=1)
        means = np.empty((len(self.settings), len(prior)))
        variances = np.empty_like(means)
        for i, kernel in enumerate(_kernels(self.features, features, self.settings)):
            cross = self.inverse[i] @ kernel
            means[i] = self.white[i] @ cross
            variances[i] = self.signal[i] * np.maximum(prior - np.einsum("ij,ij->j", cross, cross), 1e-9)
        mean = self.weights @ means
        variance = self.weights @ (variances + (means - mean) ** 2)
        return self.centre + self.scale * mean, self.scale * np.sqrt(variance)

    def joint(self, features: Features) -> tuple[Floats, Floats]:
        """Mean [n] and covariance [n, n] of the objective without its noise."""
        features = features.weighted(self.relevance)
        means = np.empty((len(self.settings), len(features.slots)))
        covariance = np.zeros((means.shape[1], means.shape[1]))
        among = _kernels(features, features, self.settings)
        for i, kernel in enumerate(_kernels(self.features, features, self.settings)):
            cross = self.inverse[i] @ kernel
            means[i] = self.white[i] @ cross
            covariance += self.weights[i] * self.signal[i] * (next(among) - cross.T @ cross)
        mean = self.weights @ means
        covariance += (self.weights * (means - mean).T) @ (means - mean)
        return self.centre + self.scale * mean, self.scale**2 * covariance

    def believing(self, features: Features) -> Model:
        """The model had these networks been observed without noise at their means; weights and signal stay.

        (Kriging believer, Ginsbourger et al. 2010.)
        """
        features = features.weighted(self.relevance)
        old, new = len(self.features.slots), len(features.slots)
        inverse = np.zeros((len(self.settings), old + new, old + new))
        inverse[:, :old, :old] = self.inverse
        among = _kernels(features, features, self.settings)
        for i, kernel in enumerate(_kernels(self.features, features, self.settings)):
            cross = self.inverse[i] @ kernel
            rest = next(among) - cross.T @ cross + self.settings[i].noise * np.eye(new)
            inverse[i, old:, old:] = np.linalg.inv(np.linalg.cholesky(rest))
            inverse[i, old:, :old] = -inverse[i, old:, old:] @ cross.T @ self.inverse[i]
        white = np.pad(self.white, ((0, 0), (0, new)))
        return replace(self, features=self.features + features, inverse=inverse, white=white)


def _kernels(a: Features, b: Features, settings: Sequence[Setting]) -> Iterator[Floats]:
    """The covariance [n, m] of two sets of networks under each setting, in units of the signal."""
    agreement, trend = a.slots @ b.slots.T, a.trend @ b.trend.T
    near = {length: np.exp((agreement - 1) / length) for length in {setting.length for setting in settings}}
    for setting in settings:
        yield setting.mix * agreement + (1 - setting.mix) * near[setting.length] + trend


def fit(
    features: Features, values: Floats, runs: Floats | None = None, repeated: tuple[float, int] = (0.0, 0)
) -> Model:
    """The model of n >= 1 observations [n], averaged over SETTINGS.

    A setting weighs by its marginal likelihood, the signal's variance integrated out under an inverse gamma prior of
    PRIOR observations. runs [n]: the number of trainings that each observation is the mean of, 1 by default.
    repeated: the sum of squared deviations of repeated trainings from their networks' means, and its degrees of
    freedom.
    """
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    standard = (values - centre) / scale
    squares, freedom = repeated[0] / scale**2, repeated[1]
    each = np.ones(len(values)) if runs is None else 1 / np.asarray(runs, dtype=float)
    relevance = _relevance(features, standard, each)
    features = features.weighted(relevance)
    # The covariance with the observations as one more row: in the last row of its factor they are white.
    covariance = np.empty((len(SETTINGS), len(values) + 1, len(values) + 1))
    for i, kernel in enumerate(_kernels(features, features, SETTINGS)):
        covariance[i, :-1, :-1] = kernel
        np.fill_diagonal(covariance[i, :-1, :-1], np.diag(kernel) + SETTINGS[i].noise * each)
    covariance[:, -1, :-1] = covariance[:, :-1, -1] = standard
    covariance[:, -1, -1] = 1e6 * len(values)
    factor: Floats = np.linalg.cholesky(covariance).astype(float, copy=False)
    white, factor = factor[:, -1, :-1], factor[:, :-1, :-1]
    noise = np.array([setting.noise for setting in SETTINGS])
    weight = len(values) + freedom + PRIOR
    signal = ((white**2).sum(axis=1) + squares / noise + PRIOR) / weight
    logs = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1) + freedom * np.log(noise) / 2
    evidence = -weight / 2 * np.log(signal) - logs
    kept = np.flatnonzero(evidence > evidence.max() + math.log(LIGHT))
    weights = np.exp(evidence[kept] - evidence.max())
    return Model(
        features,
        relevance,
        tuple(SETTINGS[i] for i in kept),
        weights / weights.sum(),
        signal[kept],
        np.asarray(np.linalg.inv(factor[kept]), dtype=float),
        np.ascontiguousarray(white[kept]),
        centre,
        scale,
    )


def _relevance(features: Features, values: Floats, each: Floats) -> Floats:
    """Weights [choices] of mean 1: how much the values, standardized, depend on each choice.

    A few steps of expectation maximization (MacKay 1992's automatic relevance determination) under the setting USUAL,
    with an inverse gamma prior of two alternatives' worth around equal weights.
    """
    sizes, starts = np.array(features.sizes), np.cumsum([0, *features.sizes[:-1]])
    weights = np.ones(len(sizes))
    for _ in range(STEPS):
        seen = features.weighted(weights)
        covariance = next(_kernels(seen, seen, (USUAL,)))
        inverse = np.linalg.inv(covariance + np.diag(USUAL.noise * each))
        toward = inverse @ values
        signal = (values @ toward + PRIOR) / (len(values) + PRIOR)
        prior = USUAL.mix * np.repeat(weights, sizes)  # variance of the effects on these columns
        told = (features.slots.T @ toward) ** 2 / signal - np.einsum(
            "ij,ij->j", features.slots, inverse @ features.slots
        )
        square = prior + prior**2 * told
        weights = (np.add.reduceat(square, starts) / USUAL.mix + EVEN) / (sizes + EVEN)
        weights /= weights.mean()
    return weights


def expected_gain(levels: Floats, mean: Floats, std: Floats | None) -> Floats:
    """E[max(level - y, 0)] for y ~ N(mean, std ** 2), [n, k] for n candidates and k levels, which may be -inf.

    The closed form of expected improvement (Jones, Schonlau and Welch 1998, equation 15). Without `std`, y is the mean.
    """
    margin = levels - mean[:, None]
    if std is None:
        return np.maximum(margin, 0.0)
    z = np.maximum(margin / std[:, None], -40.0)  # farther below the mean, the gain is 0 in floating point
    return np.asarray(std[:, None] * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi)))


def expected_hypervolume_gain(boxes: tuple[Floats, Floats], mean: Floats, stds: Sequence[Floats | None]) -> Floats:
    """How much hypervolume each of n candidates is expected to add, exactly; [n].

    `boxes`: what no point dominates, as `undominated_boxes` has it. The objectives are minimized, independent and
    normal: `mean` [n, m], and one std [n] per objective, None where it is known. Within each box a candidate's part is
    a product of one overlap per objective, and of independent factors the expectation is the product (Yang et al.
    2019, arXiv 1904.12672). With one objective this is expected improvement.
    """
    lower, upper = boxes

    def overlaps(part: slice) -> Floats:
        volume = np.ones(1)
        for j, std in enumerate(stds):
            deviation = None if std is None else std[part]
            length = expected_gain(upper[:, j], mean[part, j], deviation)
            if np.isfinite(lower[:, j]).any():
                length = length - expected_gain(lower[:, j], mean[part, j], deviation)
            volume = volume * length
        return np.asarray(volume.sum(axis=1))

    step = max(1, 2**20 // len(lower))  # bounds the memory
    return np.concatenate([overlaps(slice(start, start + step)) for start in range(0, len(mean), step)])
