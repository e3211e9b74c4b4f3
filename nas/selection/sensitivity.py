"""The effects of each choice of a space on accuracy, by the sampler's model, and on multiply-adds.

A main effect is what an alternative does compared with the average over all alternatives of its choice, everything
else being equal, averaged over the networks of the space (Friedman 2001's partial dependence).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nas.base.arrays import Floats
from nas.base.limits import Bounds
from nas.selection.sampler.model import Features, Model, fit
from nas.spaces.slots import Codes
from nas.spaces.space import SearchSpace

LEAST = 8  # networks that a model needs at least
MOST = 500  # networks that a model uses at most, drawn at random
_POINTS = 600  # networks that the effects of one choice are averaged over, all its alternatives together
_COUNTED = 4096  # networks that MAdds are averaged over where there is a budget

COLUMNS = ["choice", "stage", "kind", "value", "trials", "accuracy_effect", "accuracy_effect_sd", "madds_effect"]


def main_effects(
    space: SearchSpace, bounds: Bounds, codes: ArrayLike, accuracy: ArrayLike, seed: int = 0, metric: str = "accuracy"
) -> pd.DataFrame:
    """The main effect of each alternative of each choice, in the order of the space.

    codes [n, choices] and accuracy [n], shares, n >= LEAST: networks that were trained; bounds: the budget, which the
    networks averaged over keep. Columns: choice, such as stage3.kernel; its stage and kind; value, the alternative as
    written; trials, the networks that have it; accuracy_effect, a share; accuracy_effect_sd, its standard deviation in
    the posterior of the sampler's model, averaged over its settings; madds_effect, in multiply-adds (without bounds the
    exact mean over the space, else over some thousand networks, each counted exactly). With another metric its name
    stands in the columns' names in place of accuracy. Raises ValueError for fewer networks.
    """
    rng = np.random.default_rng(seed)
    known, measured = np.asarray(codes, dtype=np.int16), np.asarray(accuracy, dtype=float)
    if len(known) < LEAST:
        raise ValueError(f"a model needs {LEAST} networks, got {len(known)}")
    if len(known) > MOST:
        kept = rng.choice(len(known), MOST, replace=False)
        known, measured = known[kept], measured[kept]
    others = _drawn(space, bounds, _COUNTED, rng)
    usual = np.log(space.costs(others)["madds"].astype(float))
    centre, width = float(usual.mean()), float(usual.std()) or 1.0
    model = fit(_features(space, known, centre, width), measured)
    rows = []
    for column, choice in enumerate(space.choices):
        size = len(choice.texts)
        options = _features(space, _changed(others[: max(1, _POINTS // size)], column, size), centre, width)
        effect, error = _accuracy_effects(model, options, size)
        madds = _madds_effects(space, bounds, others, column)
        stage, kind = choice.name.removeprefix("stage").split(".")
        for value, text in enumerate(choice.texts):
            trials = int((known[:, column] == value).sum())
            rows.append((choice.name, int(stage), kind, text, trials, effect[value], error[value], madds[value]))
    return pd.DataFrame(rows, columns=[name.replace("accuracy", metric) for name in COLUMNS])


def mean_madds(space: SearchSpace, bounds: Bounds, seed: int) -> float:
    """The mean MAdds of all networks of the space, or of networks drawn uniformly within the bounds."""
    if not bounds:
        return space.mean_costs()["madds"]
    return float(space.costs(_drawn(space, bounds, _COUNTED, np.random.default_rng(seed)))["madds"].mean())


def _drawn(space: SearchSpace, bounds: Bounds, n: int, rng: np.random.Generator) -> Codes:
    if bounds:
        return space.draw_codes(n, rng, bounds)
    return rng.integers([len(choice.texts) for choice in space.choices], size=(n, len(space.choices))).astype(np.int16)


def _changed(codes: Codes, column: int, size: int) -> Codes:
    """The codes [n, choices] with each alternative of one choice in turn, [size * n, choices]."""
    changed = np.tile(codes, (size, 1))
    changed[:, column] = np.repeat(np.arange(size), len(codes))
    return changed


def _accuracy_effects(model: Model, options: Features, size: int) -> tuple[Floats, Floats]:
    """Posterior mean and standard deviation of the effects of one choice's alternatives, each with its networks."""
    of_each = len(options.slots) // size
    contrast = np.eye(size) - 1 / size  # makes levels those less their mean
    average = np.kron(contrast, np.full((1, of_each), 1 / of_each))
    mean, covariance = model.joint(options)
    variance = np.einsum("ij,jk,ik->i", average, covariance, average, optimize=True)
    return average @ mean, np.sqrt(np.maximum(variance, 0.0))


def _madds_effects(space: SearchSpace, bounds: Bounds, others: Codes, column: int) -> Floats:
    size = len(space.choices[column].texts)
    if bounds:
        levels = space.costs(_changed(others, column, size))["madds"].reshape(size, -1).mean(axis=1)
    else:
        levels = np.array([space.mean_costs(column, value)["madds"] for value in range(size)])
    return np.asarray(levels - levels.mean())


def _features(space: SearchSpace, codes: Codes, centre: float, width: float) -> Features:
    """The model's features of networks: their choices, and their log MAdds, standardised as in the sampler."""
    sizes = [len(choice.texts) for choice in space.choices]
    cost = (np.log(space.costs(codes)["madds"].astype(float)) - centre) / width
    return Features.of(codes.astype(np.int64), sizes, [cost])
