"""Fronts, hypervolume and the choice of a baseline. Everything is minimized: negate what is to be large."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import ArrayLike

from nas.base.arrays import Bools, Floats

SOFT = -0.07  # w of the reward: twice the latency is worth 5 % of accuracy (MnasNet, section 3)


def non_dominated(points: ArrayLike) -> Bools:
    """Which points no other point dominates.

    `points` is [n, m] with m = 1, 2 or 3 objectives, all minimized; the mask is [n]. A point dominates another if it
    is nowhere worse and somewhere better, so equal points of the front are all kept. One sweep in lexicographic
    order, O(n log n) (Kung, Luccio and Preparata 1975). Raises ValueError for another shape and for NaN.
    """
    distinct, inverse = np.unique(_padded(points), axis=0, return_inverse=True)
    steps: list[tuple[float, float]] = []
    keep = np.zeros(len(distinct), dtype=bool)
    for index, (_, y, z) in enumerate(distinct.tolist()):
        span = _covered(steps, y, z)
        if span:
            steps[slice(*span)] = [(y, z)]
            keep[index] = True
    return keep[inverse.reshape(-1)]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The volume that the points dominate and the reference bounds (Zitzler and Thiele 1998), exactly.

    `points` is [n, m], `reference` [m], m = 1, 2 or 3, all minimized. Points that are not better than the reference
    everywhere add nothing. Raises ValueError as `non_dominated` does.
    """
    lower, upper = undominated_boxes(points, reference)
    height = np.asarray(reference, dtype=float)[-1] - upper[:, -1]
    dominated = height > 0  # the other boxes reach to -inf, and nothing lies above them
    base = np.prod((upper - lower)[dominated, :-1], axis=1)
    return float(np.sum(base * height[dominated]))


def undominated_boxes(points: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    """Disjoint boxes that tile all that is better than the reference and that no point dominates.

    `points` is [n, m], `reference` [m], m = 1, 2 or 3, all minimized. Returns the lower and upper corners, [k, m]
    each, k <= 2n + 1. Lower corners may be -inf, and the last objective's always are: each box is a column along the
    last objective, and the points dominate just what lies between its upper corner and the reference. (Yang et al.
    2019, arXiv 1904.12672, use such boxes; here one sweep along the first objective over a staircase in the others.)
    Raises ValueError as `non_dominated` does.
    """
    values, limit = np.asarray(points, dtype=float), np.asarray(reference, dtype=float)
    if values.ndim != 2 or limit.shape != values.shape[1:] or not np.isfinite(limit).all():
        raise ValueError(f"the reference must be one finite number per objective, got {reference!r}")
    useful = np.unique(_padded(values[(values < limit).all(axis=1)]), axis=0)
    x_end, y_end, z_end = [0.0] * (3 - limit.size) + limit.tolist()
    # Open columns, sorted by y: from y to the next one's y and since x, nothing below z is dominated.
    steps: list[tuple[float, float, float]] = [(-math.inf, z_end, -math.inf)]
    boxes: list[tuple[float, ...]] = []  # closed ones: lower x, y, upper x, y, z

    def close(start: int, stop: int, x: float) -> None:
        ends = [y for y, _, _ in steps[start + 1 : stop + 1]] + [y_end] * (stop == len(steps))
        boxes.extend(
            (since, y, x, end, z) for (y, z, since), end in zip(steps[start:stop], ends, strict=True) if x > since
        )

    for x, y, z in useful.tolist():
        span = _covered(steps, y, z)
        if span:
            start, stop = span
            split = start == len(steps) or steps[start][0] != y  # the column before reaches beyond y
            close(start - split, stop, x)
            shortened = [(*steps[start - 1][:2], x)] if split else []
            steps[start - split : stop] = [*shortened, (y, z, x)]
    close(0, len(steps), x_end)
    table = np.array(boxes)
    lower = np.column_stack([table[:, :2], np.full(len(table), -np.inf)])
    return lower[:, 3 - limit.size :], table[:, 2:][:, 3 - limit.size :]


def reward(accuracy: ArrayLike, cost: ArrayLike, target: float, w: float = SOFT) -> Floats:
    """The reward of a network: accuracy * (cost / target) ** w.

    `accuracy` and `cost` are arrays of one shape (any units; `cost` and `target` share theirs and are positive), and
    so is the result; larger is better. Equation 2 of MnasNet (Tan et al. 2019, arXiv 1807.11626) with w = alpha =
    beta, as EfficientNet (Tan and Le 2019, arXiv 1905.11946, section 4) uses it with multiply-adds for latency.
    Raises ValueError unless costs and target are positive.
    """
    costs = np.asarray(cost, dtype=float)
    if not (target > 0 and (costs > 0).all()):
        raise ValueError(f"costs and their target must be positive, got target {target}")
    return np.asarray(np.asarray(accuracy, dtype=float) * (costs / target) ** w)


def hard_reward(accuracy: ArrayLike, cost: ArrayLike, target: float) -> Floats:
    """The reward with a hard target: accuracy, and above the target accuracy * target / cost.

    Equation 2 of MnasNet (arXiv 1807.11626) with alpha = 0 and beta = -1; arguments and errors as of `reward`.
    """
    return np.minimum(reward(accuracy, cost, target, 0.0), reward(accuracy, cost, target, -1.0))


def training_reward(
    accuracy: ArrayLike, step: ArrayLike, params: ArrayLike, reference: int = 0, w: float = -0.07, v: float = -0.05
) -> Floats:
    """The training-aware reward of EfficientNetV2: A · S^w · P^v, larger is better.

    `accuracy`, `step` (a training step's time) and `params` are [n], the last two positive, and so is the result. S
    and P are relative to network number `reference`: another one scales all rewards alike. Section 3.1 of Tan and Le
    2021 (arXiv 2104.00298). Raises ValueError unless times and parameters are positive.
    """
    steps, sizes = np.asarray(step, dtype=float), np.asarray(params, dtype=float)
    return reward(reward(accuracy, steps, steps[reference], w), sizes, sizes[reference], v)


def pick_baseline(rewards: ArrayLike, cost: ArrayLike) -> int:
    """The index of the largest reward; of equals the cheapest, then the first.

    `rewards` and `cost` are [n], n >= 1; NaN rewards are never picked. Raises ValueError if none is a number.
    """
    values = np.asarray(rewards, dtype=float)
    values = np.where(np.isnan(values), -np.inf, values)
    if not np.isfinite(values).any():
        raise ValueError("no network has an accuracy to pick a baseline by")
    return int(np.lexsort((np.asarray(cost), -values))[0])


def pick_within(mean: ArrayLike, covariance: ArrayLike, cost: ArrayLike, target: float, published: ArrayLike) -> int:
    """The index of the network to take within the target.

    Arguments as of `indistinguishable`; published [n]: which networks are. Of those that are indistinguishable from the
    most accurate, the most accurate published one, which others have found good already; if there is none the cheapest,
    and of equally cheap ones the more accurate, then the first. Where none is within the target, the largest
    `hard_reward`. Raises ValueError for no network.
    """
    means, costs, known = (np.asarray(values, dtype=float) for values in (mean, cost, published))
    level = np.flatnonzero(indistinguishable(means, covariance, costs, target))
    if not len(level):
        return pick_baseline(hard_reward(means, costs, target), costs)
    return int(min(level, key=lambda i: (not known[i], 0 if known[i] else costs[i], -means[i])))


def indistinguishable(mean: ArrayLike, covariance: ArrayLike, cost: ArrayLike, target: float) -> Bools:
    """Which networks within the target are indistinguishable from the most accurate of them, itself included.

    mean [n] and covariance [n, n]: the posterior of their accuracies; cost [n]. These are the networks whose mean is at
    most one standard error of the difference below the largest.
    """
    means, costs, known = (np.asarray(values, dtype=float) for values in (mean, cost, covariance))
    within = costs <= target
    if not within.any():
        return within
    best = int(np.flatnonzero(within)[np.argmax(means[within])])
    spread = np.sqrt(np.maximum(np.diag(known) + known[best, best] - 2 * known[best], 0.0))
    level: Bools = within & (means[best] - means <= spread)
    return level


def elasticity(accuracy: ArrayLike, cost: ArrayLike) -> float:
    """d ln accuracy / d ln cost of n networks by least squares; NaN where costs or accuracies do not allow it.

    The reward `accuracy * cost ** w` prefers the larger network only where this is above -w.
    """
    accuracies, costs = np.asarray(accuracy, dtype=float), np.log(np.asarray(cost, dtype=float))
    if len(costs) < 2 or np.ptp(costs) == 0 or (accuracies <= 0).any():
        return float("nan")
    return float(np.polyfit(costs, np.log(accuracies), 1)[0])


def _padded(points: ArrayLike) -> Floats:
    """[n, m] -> [n, 3]: leading objectives that are the same for all points; checks what the sweeps rely on."""
    values = np.asarray(points, dtype=float)
    if values.ndim != 2 or not 1 <= values.shape[1] <= 3:
        raise ValueError(f"points must be [n, m] with 1 to 3 objectives, got an array of shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("points must not be NaN")
    return np.pad(values, ((0, 0), (3 - values.shape[1], 0)), constant_values=-np.inf)


def _covered(steps: Sequence[tuple[float, ...]], y: float, z: float) -> tuple[int, int] | None:
    """The run of steps that (y, z) makes superfluous, start and stop; None if a step dominates or equals it.

    A staircase is sorted by strictly rising y and so by strictly falling z.
    """
    before = bisect_right(steps, y, key=_first) - 1
    if before >= 0 and steps[before][1] <= z:
        return None
    start = before if before >= 0 and steps[before][0] == y else before + 1
    stop = start
    while stop < len(steps) and steps[stop][1] >= z:
        stop += 1
    return start, stop


_first = itemgetter(0)
