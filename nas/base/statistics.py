"""Intervals of what was measured with noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from nas.base.arrays import Floats

NORMAL = 1.96  # half the 95 % interval of the normal distribution, in standard errors


def half_intervals(error: ArrayLike, freedom: ArrayLike) -> Floats:
    """Half the 95 % intervals of values with these standard errors, of one shape.

    freedom: the degrees of freedom of each error, for Student's t; 0 for an error that follows from the number of
    validation images, for the normal distribution.
    """
    known = np.asarray(freedom, dtype=float)
    factors = np.where(known > 0, stats.t.ppf(0.975, np.maximum(known, 1)), NORMAL)
    return np.asarray(factors * np.asarray(error, dtype=float))
