"""A Gaussian process over grids, of few settings and fitted in milliseconds, and the expected gain under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from scipy.special import ndtr

from nas.base.arrays import Floats, Ints
from nas.selection.pareto import undominated_boxes


@dataclass(frozen=True)
class Features:
    """What the model sees of n candidates.

    `slots` [n, D]: one-hot choices, scaled so that an inner product is the share of slots that agree. `trend` [n, p]:
    a constant, each log cost, standardized, and its square.
    """

    slots: Floats
    trend: Floats

    @classmethod
    def of(cls, codes: Ints, sizes: Sequence[int], costs: Sequence[Floats]) -> Features:
        """The features of codes [n, slots], slot i with sizes[i] choices; costs: logarithms, standardized, [n] each."""
        slots = np.zeros((len(codes), sum(sizes)))
        np.put_along_axis(slots, codes + np.cumsum([0, *sizes[:-1]]), 1 / math.sqrt(len(sizes)), axis=1)
        powers = [column for cost in costs for column in (cost, cost**2)]
        return cls(slots, np.column_stack([np.ones(len(codes)), *powers]))

    def __add__(self, more: Features) -> Features:
        return Features(np.concatenate([self.slots, more.slots]), np.concatenate([self.trend, more.trend]))


@dataclass(frozen=True)
class Setting:
    """A kernel of unit signal: mix * agreement + (1 - mix) * exp(-distance / length), plus the noise's variance.

    `agreement` is the share of slots with the same choice (an additive model), `distance` the share that differ.
    """

    length: float = 0.5
    mix: float = 0.3
    noise: float = 0.01


SETTINGS = {"length": (0.125, 0.25, 0.5, 1.0), "mix": (0.0, 0.3, 0.6, 0.9), "noise": (0.001, 0.01, 0.1)}
TREND = 25.0  # prior variance of the trend's coefficients in units of the signal: nearly free


@dataclass(frozen=True)
class Model:
    """A Gaussian process given its observations (Rasmussen and Williams 2006, algorithm 2.1)."""

    features: Features
    setting: Setting
    factor: Floats  # [n, n], Cholesky factor of the covariance
    white: Floats  # [n], the standardized observations divided by it
    centre: float
    scale: float

    @property
    def signal(self) -> float:
        """The signal's variance of largest likelihood, in units of scale ** 2."""
        return max(float(self.white @ self.white) / len(self.white), 1e-12)

    @property
    def evidence(self) -> float:
        """Log marginal likelihood at that signal, up to a constant."""
        return -0.5 * len(self.white) * math.log(self.signal) - float(np.log(np.diag(self.factor)).sum())

    def predict(self, features: Features) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of the objective without its noise."""
        cross = np.linalg.inv(self.factor) @ _kernel(self.features, features, self.setting)
        prior = 1.0 + TREND * (features.trend**2).sum(axis=1)
        variance = self.signal * np.maximum(prior - (cross**2).sum(axis=0), 1e-9)
        return self.centre + self.scale * (self.white @ cross), self.scale * np.sqrt(variance)

    def joint(self, features: Features) -> tuple[Floats, Floats]:
        """Mean [n] and covariance [n, n] of the objective without its noise."""
        cross = np.linalg.solve(self.factor, _kernel(self.features, features, self.setting))
        covariance = self.signal * (_kernel(features, features, self.setting) - cross.T @ cross)
        return self.centre + self.scale * (self.white @ cross), self.scale**2 * covariance


def _kernel(a: Features, b: Features, setting: Setting) -> Floats:
    kernel = a.slots @ b.slots.T  # the agreement; all in place, since memory is what takes the time
    hamming = kernel - 1
    hamming /= setting.length
    np.exp(hamming, out=hamming)
    hamming *= 1 - setting.mix
    kernel *= setting.mix
    kernel += hamming
    kernel += (TREND * a.trend) @ b.trend.T
    return np.asarray(kernel, dtype=float)


def condition(features: Features, values: Floats, setting: Setting) -> Model:
    """The model of n >= 1 observations under one setting."""
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    covariance = _kernel(features, features, setting) + setting.noise * np.eye(len(values))
    factor: Floats = np.linalg.cholesky(covariance).astype(float, copy=False)
    white: Floats = np.linalg.solve(factor, (values - centre) / scale).astype(float, copy=False)
    return Model(features, setting, factor, white, centre, scale)


def fit(features: Features, values: Floats) -> Model:
    """The model of largest evidence: two rounds over SETTINGS, one field at a time."""
    under = cache(partial(condition, features, values))
    model = under(Setting())
    for field, options in [*SETTINGS.items()] * 2:
        settings = [replace(model.setting, **{field: option}) for option in options]
        model = max(map(under, settings), key=lambda m: m.evidence)
    return model


def expected_gain(levels: Floats, mean: Floats, std: Floats | None) -> Floats:
    """E[max(level - y, 0)] for y ~ N(mean, std ** 2), [n, k] for n candidates and k levels, which may be -inf.

    The closed form of expected improvement (Jones, Schonlau and Welch 1998, equation 15). Without `std`, y is the mean.
    """
    margin = levels - mean[:, None]
    if std is None:
        return np.maximum(margin, 0.0)
    z = np.maximum(margin / std[:, None], -40.0)  # farther below the mean, the gain is 0 in floating point
    return np.asarray(std[:, None] * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi)))


def expected_hypervolume_gain(points: Floats, reference: Floats, mean: Floats, stds: Sequence[Floats | None]) -> Floats:
    """How much hypervolume each of n candidates is expected to add to points [k, m], exactly; [n].

    The objectives are minimized, independent and normal: `mean` [n, m], and one std [n] per objective, None where
    it is known. Within each undominated box a candidate's part is a product of one overlap per objective, and of
    independent factors the expectation is the product (Yang et al. 2019, arXiv 1904.12672). With one objective
    this is expected improvement.
    """
    lower, upper = undominated_boxes(points, reference)

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
