"""Distributions of errors: empirical functions, how far two are apart, and weights that make costs alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import permutation_test

from nas.base.arrays import Floats

SHUFFLES = 9999


def distribution(errors: ArrayLike, weights: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """The empirical distribution function: distinct errors, rising, and the share of weight at or below each.

    errors, weights: [n]; equal weights if None. Equations 1 and 3 of Radosavovic et al. 2020 and 2019, with ≤ for <.
    """
    values, inverse = np.unique(np.asarray(errors, dtype=float), return_inverse=True)
    weight = np.ones(len(inverse)) if weights is None else np.asarray(weights, dtype=float)
    return values, np.cumsum(np.bincount(inverse, weight, len(values))) / weight.sum()


def gap_of(one: Floats, other: Floats, axis: int = -1) -> Any:
    """The largest difference between two empirical distribution functions, along an axis: a float, or an array."""
    both = np.concatenate([one, other], axis)
    order = np.argsort(both, axis)
    rise = np.where(order < one.shape[axis], 1 / one.shape[axis], -1 / other.shape[axis])
    last = (
        np.diff(np.take_along_axis(both, order, axis), axis=axis, append=np.inf) > 0
    )  # compared after the last of ties only
    return np.where(last, np.abs(np.cumsum(rise, axis)), 0.0).max(axis)


def difference(one: Floats, other: Floats, seed: int) -> tuple[float, float]:
    """The two-sample Kolmogorov–Smirnov statistic, and its p-value by up to SHUFFLES permutations."""
    found = permutation_test(
        (one, other),
        gap_of,
        vectorized=True,
        batch=256,
        n_resamples=SHUFFLES,
        alternative="greater",
        random_state=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def equal_cost(costs: Sequence[Floats], bands: int) -> list[Floats]:
    """Weights [n] of the networks of each sample that make all samples alike in cost; each sums to 1.

    Networks between the largest of the least costs and the smallest of the largest are put in bands of as many
    networks, all samples taken together, and each band that all samples have weighs the same (Radosavovic et al. 2019,
    section 3.3); what is in no such band weighs nothing. Weights are all 0 where there is no such band.
    """
    low, high = max(c.min() for c in costs), min(c.max() for c in costs)
    pooled = np.concatenate([c[(low <= c) & (c <= high)] for c in costs])
    if not len(pooled):
        return [np.zeros(len(c)) for c in costs]
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, bands + 1)))
    band = [np.clip(np.searchsorted(edges, c, "right") - 1, 0, max(0, len(edges) - 2)) for c in costs]
    inside = [(low <= c) & (c <= high) for c in costs]
    counts = np.array([np.bincount(b[i], minlength=max(1, len(edges) - 1)) for b, i in zip(band, inside, strict=True)])
    shared = (counts > 0).all(axis=0)
    share = np.where(shared, 1 / np.maximum(counts, 1), 0.0) / max(1, shared.sum())
    return [np.where(i, s[b], 0.0) for s, b, i in zip(share, band, inside, strict=True)]
