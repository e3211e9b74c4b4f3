"""Fronts and hypervolumes against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.selection.pareto import (
    elasticity,
    hard_reward,
    hypervolume,
    indistinguishable,
    non_dominated,
    pick_baseline,
    pick_within,
    reward,
    training_reward,
    undominated_boxes,
)


@st.composite
def point_sets(draw: st.DrawFn, most: int = 30) -> NDArray[np.float64]:
    """[n, m] points on a coarse grid, so that ties and duplicates are common."""
    objectives = draw(st.integers(1, 3))
    row = st.tuples(*[st.integers(0, 6).map(float)] * objectives)
    rows = draw(st.lists(row, max_size=most))
    return np.array(rows, dtype=float).reshape(-1, objectives)


def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool((a <= b).all() and (a < b).any())


def inclusion_exclusion(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The volume of a union of boxes, by the definition."""
    return sum(
        (-1) ** (size + 1) * np.prod(np.maximum(reference - np.max(subset, axis=0), 0.0))
        for size in range(1, len(points) + 1)
        for subset in combinations(points, size)
    )


@given(point_sets())
def test_non_dominated_agrees_with_the_definition(points: NDArray[np.float64]) -> None:
    expected = [not any(dominates(a, b) for a in points) for b in points]
    assert non_dominated(points).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(point_sets(most=7))
def test_hypervolume_agrees_with_inclusion_and_exclusion(points: NDArray[np.float64]) -> None:
    reference = np.full(points.shape[1], 5.0)
    assert hypervolume(points, reference) == pytest.approx(inclusion_exclusion(points, reference), abs=1e-9)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_hypervolume_agrees_with_monte_carlo(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    points, probes = rng.random((40, objectives)), rng.random((20_000, objectives))
    share = np.mean([(points <= probe).all(axis=1).any() for probe in probes])
    assert hypervolume(points, np.ones(objectives)) == pytest.approx(share, abs=0.015)


@given(point_sets())
def test_hypervolume_needs_only_the_front_and_no_order(points: NDArray[np.float64]) -> None:
    reference = np.full(points.shape[1], 5.5)
    volume = hypervolume(points, reference)
    assert hypervolume(points[non_dominated(points)][::-1], reference) == pytest.approx(volume)


@given(point_sets())
def test_boxes_tile_what_no_point_dominates(points: NDArray[np.float64]) -> None:
    reference = np.full(points.shape[1], 5.0)
    lower, upper = undominated_boxes(points, reference)
    assert len(lower) <= 2 * len(points) + 1
    probes = np.random.default_rng(0).uniform(-1, 6, (200, points.shape[1]))
    boxes = ((lower <= probes[:, None]) & (probes[:, None] < upper)).all(axis=2).sum(axis=1)
    dominated = (points <= probes[:, None]).all(axis=2).any(axis=1)
    assert boxes.tolist() == ((probes < reference).all(axis=1) & ~dominated).astype(int).tolist()


def test_infinite_points_and_no_points() -> None:
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert non_dominated([[1, np.inf], [-np.inf, 2], [3, np.inf]]).tolist() == [False, True, False]
    assert hypervolume(np.empty((0, 3)), [1, 1, 1]) == 0
    assert hypervolume([[1, 5], [2, 2]], [4, 4]) == 4


@pytest.mark.parametrize("points", [[1.0, 2.0], [[1.0, 2.0, 3.0, 4.0]], [[np.nan, 1.0]]])
def test_bad_points_are_refused(points: list[float]) -> None:
    with pytest.raises(ValueError, match="points must"):
        non_dominated(points)


def test_bad_references_are_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        hypervolume([[1.0, 2.0]], [3.0])


def test_reward_is_the_formula_of_mnasnet() -> None:
    np.testing.assert_allclose(reward([0.75, 0.75], [400e6, 800e6], 400e6), [0.75, 0.75 * 2**-0.07])
    with pytest.raises(ValueError, match="positive"):
        reward([0.5], [0.0], 1.0)


def test_training_reward_is_the_formula_of_efficientnetv2() -> None:
    accuracy, seconds, params = np.array([0.6, 0.8, 0.7]), np.array([0.1, 0.4, 0.1]), np.array([2e6, 1e6, 8e6])
    expected = [0.6, 0.8 * 4**-0.07 * 0.5**-0.05, 0.7 * 4**-0.05]
    np.testing.assert_allclose(training_reward(accuracy, seconds, params), expected)
    other = training_reward(accuracy, seconds, params, reference=2)
    assert np.ptp(other / expected) < 1e-12  # the reference changes no rank
    with pytest.raises(ValueError, match="positive"):
        training_reward([0.5], [0.0], [1])


def test_baseline_is_the_best_reward_and_ties_go_to_the_cheapest() -> None:
    assert pick_baseline(reward([0.70, 0.76, np.nan], [200, 400, 1], target=400), [200, 400, 1]) == 1
    assert pick_baseline([0.5, 0.5, 0.5], [2, 1, 1]) == 1
    with pytest.raises(ValueError, match="no network"):
        pick_baseline([np.nan], [1])


def test_hard_reward_takes_the_target_for_a_limit() -> None:
    np.testing.assert_allclose(hard_reward([0.7, 0.75, 0.8], [200, 400, 800], 400), [0.7, 0.75, 0.4])


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_the_pick_is_the_cheapest_that_cannot_be_told_from_the_best(n: int, seed: int) -> None:
    """Against the definition, network by network."""
    rng = np.random.default_rng(seed)
    mean, cost, root = rng.normal(size=n), rng.integers(1, 10, n), rng.normal(size=(n, n))
    covariance, target = root @ root.T, 6
    within = [i for i in range(n) if cost[i] <= target]
    published = rng.random(n) < 0.2
    chosen = pick_within(mean, covariance, cost, target, published)
    if not within:
        assert hard_reward(mean, cost, target)[chosen] == max(hard_reward(mean, cost, target))
        return
    best = max(within, key=lambda i: mean[i])
    level = [
        i
        for i in within
        if i == best
        or mean[best] - mean[i] <= np.sqrt(covariance[i, i] + covariance[best, best] - 2 * covariance[i, best])
    ]
    assert np.flatnonzero(indistinguishable(mean, covariance, cost, target)).tolist() == level
    assert chosen in level
    if published[level].any():
        assert published[chosen]
        assert mean[chosen] == max(mean[i] for i in level if published[i])
    else:
        assert cost[chosen] == min(cost[level])


def test_elasticity_is_the_exponent_of_a_power_law() -> None:
    cost = np.array([1e6, 3e6, 9e6])
    assert elasticity(0.5 * cost**0.03, cost) == pytest.approx(0.03)
    assert np.isnan(elasticity([0.5], [1e6]))
    assert np.isnan(elasticity([0.5, 0.6], [1e6, 1e6]))
