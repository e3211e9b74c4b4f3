"""The posterior of networks' accuracies after their trainings, by the sampler's model without a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nas.base.arrays import Floats
from nas.selection.noise import Noise
from nas.selection.sampler.model import Features, fit

FENCE = 2.0  # limit below the median, in distances of the best above it: lower accuracies are raised to it


@dataclass(frozen=True)
class Posterior:
    """True accuracies of n networks: mean [n] and covariance [n, n]; noise: deviation of a single training."""

    mean: Floats
    covariance: Floats
    noise: float

    @property
    def std(self) -> Floats:
        """Standard deviations [n]."""
        return np.sqrt(np.diag(self.covariance))

    def draws(self, count: int, seed: int) -> Floats:
        """Draws [count, n] of the accuracies."""
        rng = np.random.default_rng(seed)
        return rng.multivariate_normal(self.mean, self.covariance, size=count, method="eigh")


def posterior(
    codes: ArrayLike,
    sizes: Sequence[int],
    costs: ArrayLike,
    accuracy: ArrayLike,
    runs: ArrayLike | None = None,
    noise: Noise | None = None,
) -> Posterior:
    """The posterior of the true accuracies of n networks, in their order, averaged over the model's settings.

    codes: int [n, choices], below sizes [choices] (a network from outside the space may have alternatives of its own:
    count them in sizes); costs [n, k], positive, such as MAdds, params and activations, k >= 0: their logarithms are
    trends of the model; accuracy [n]: means over the trainings of each network, NaN of one not trained; runs [n]: how
    many trainings, by default 1; noise: of one training, from repeats or assumed beforehand, weighted by its degrees of
    freedom; None lets the model estimate it. Raises ValueError unless a network was trained.
    """
    known, measured = np.asarray(codes, dtype=np.int64), np.asarray(accuracy, dtype=float)
    trained = np.isfinite(measured)
    if not trained.any():
        raise ValueError("a posterior needs a trained network")
    logs = np.log(np.asarray(costs, dtype=float).reshape(len(known), -1))
    standard = (logs - logs[trained].mean(axis=0)) / np.where(np.ptp(logs[trained], axis=0) > 0, logs.std(axis=0), 1.0)
    features = Features.of(known, sizes, list(standard.T))
    values = measured[trained]
    middle = float(np.median(values))
    if values.max() > middle:
        values = np.maximum(values, middle - FENCE * (values.max() - middle))
    counts = None if runs is None else np.asarray(runs, dtype=float)[trained]
    repeated = (noise.variance * noise.freedom, noise.freedom) if noise else (0.0, 0)
    model = fit(features[trained], values, counts, repeated)
    mean, covariance = model.joint(features)
    return Posterior(mean, covariance, model.noise**0.5)
