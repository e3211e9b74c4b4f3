"""Fronts of noisy accuracies against brute force, and whether the probabilities are what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.selection import noise as confirm
from nas.selection.noise import Noise, Repeat, Repeats, draws, next_repeats, pooled_noise, probabilities
from nas.selection.pareto import non_dominated

accuracies = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), max_size=6)


@given(accuracies)
def test_noise_is_pooled_over_what_was_repeated(runs: list[list[float]]) -> None:
    noise = pooled_noise(runs, 100)
    repeated = [np.array(some) for some in runs if len(some) > 1]
    if not repeated:
        assert noise is None
        return
    assert noise is not None
    freedom = [len(some) - 1 for some in repeated]
    variance = np.average([some.var(ddof=1) for some in repeated], weights=freedom)
    assert noise.freedom == sum(freedom)
    assert noise.variance == pytest.approx(max(variance, 1 / (12 * 100**2)))
    np.testing.assert_allclose(noise.error([1, 4]), noise.variance**0.5 / np.array([1, 2]))


@given(st.integers(1, 8), st.integers(0, 2), st.integers(0, 2**31))
def test_probabilities_agree_with_the_front_of_each_draw(n: int, costs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn, figures = rng.normal(rng.normal(0, 2, n), 1, (50, n)), rng.integers(0, 3, (n, costs)).astype(float)
    fronts = [non_dominated(np.column_stack([-row, figures])) for row in drawn]
    found = probabilities(drawn, figures)
    np.testing.assert_allclose(found, np.mean(fronts, axis=0))
    assert found.sum() == pytest.approx(np.mean([front.sum() for front in fronts]))


def dense_posterior(
    y: NDArray[np.float64], cost: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of the true values, with whole covariance matrices and a sum over spreads."""
    z = (np.log(cost) - np.log(cost).mean()) / np.log(cost).std()
    trend = np.column_stack([np.ones_like(z), z, z**2])
    weights, means, squares = [], [], []
    for spread in np.linspace(0, 3, 61):
        prior = spread**2 * np.eye(len(y)) + 100 * trend @ trend.T
        whole = prior + np.diag(error)
        weights.append(np.exp(-0.5 * (y @ np.linalg.solve(whole, y) + np.linalg.slogdet(whole)[1])))
        means.append(prior @ np.linalg.solve(whole, y))
        squares.append(np.diag(prior - prior @ np.linalg.solve(whole, prior)) + means[-1] ** 2)
    mean = np.average(means, axis=0, weights=weights)
    return mean, np.sqrt(np.average(squares, axis=0, weights=weights) - mean**2)


def test_draws_agree_with_the_dense_posterior() -> None:
    rng = np.random.default_rng(0)
    cost, runs = rng.uniform(1e8, 8e8, 10), rng.integers(1, 4, 10)
    means = rng.normal(0.8, 0.02, 10)
    noise = Noise(0.01**2, 10**9)  # of a variance that is known
    scale = means.std()
    expected, deviation = dense_posterior((means - means.mean()) / scale, cost, noise.variance / runs / scale**2)
    found = draws(means, runs, cost, noise, 0, 40_000)
    assert found.shape == (40_000, 10)
    np.testing.assert_allclose(found.mean(axis=0), means.mean() + scale * expected, atol=3e-4)
    np.testing.assert_allclose(found.std(axis=0), scale * deviation, rtol=0.05)
    exact = draws(means, runs, cost, Noise(1e-12, 1), 0)
    np.testing.assert_allclose(exact.mean(axis=0), means, atol=1e-4)


def test_of_many_networks_there_are_fewer_draws_of_the_same_kind() -> None:
    rng = np.random.default_rng(1)
    few, many = confirm.MANY, 5 * confirm.MANY
    cost, means = rng.uniform(1e8, 8e8, many), rng.normal(0.8, 0.02, many)
    means[0] += 0.1
    runs = rng.integers(1, 3, many)
    some = draws(means[:few], runs[:few], cost[:few], Noise(0.02**2, 30), 0, 1000)
    found = draws(means, runs, cost, Noise(0.02**2, 30), 0, 1000)
    assert (some.shape, found.shape) == ((1000, few), (200, many))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.std(axis=0).mean(), some.std(axis=0).mean(), rtol=0.1)
    assert probabilities(found, cost)[0] > 0.9


def test_one_variance_may_explain_everything() -> None:
    """Then it has all of the draws, whichever way its weight was rounded."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        means, runs = rng.normal(0.5, 0.04, 500), np.ones(500)
        assert draws(means, runs, np.exp(rng.normal(size=500)), Noise(0.02, 1), seed).shape == (4000, 500)


def test_probabilities_are_calibrated_and_better_than_the_front_of_single_trainings() -> None:
    """Of networks said to be non-dominated with probability p, a share p is."""
    said, single, true = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cost = np.exp(rng.normal(19, 0.6, 24))
        truth = 0.8 + 0.01 * (np.log(cost) - 19) + rng.normal(0, 0.01, 24)
        runs = [[*rng.normal(value, 0.01, 3 if i < 6 else 1)] for i, value in enumerate(truth)]
        noise = pooled_noise(runs, 2000)
        assert noise is not None
        means = [np.mean(some) for some in runs]
        said.append(probabilities(draws(means, list(map(len, runs)), cost, noise, seed, 400), cost[:, None]))
        single.append(non_dominated(np.column_stack([[-some[0] for some in runs], cost])))
        true.append(non_dominated(np.column_stack([-truth, cost])))
    p, observed = np.concatenate(said), np.concatenate(true)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.9)):
        inside = (low <= p) & (p < high)
        error = (p[inside].mean() * (1 - p[inside].mean()) / inside.sum()) ** 0.5
        assert abs(p[inside].mean() - observed[inside].mean()) < 4 * error + 0.02
    assert ((p - observed) ** 2).mean() < 0.75 * (np.concatenate(single) != observed).mean()


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 3), st.data())
def test_what_is_repeated_does_not_depend_on_the_order_or_on_interruptions(
    seed: int, repeats: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    first, again = rng.normal(0, 1, 6), rng.normal(0, 1, (6, repeats))

    def contenders(known: Repeats) -> list[int]:
        means = [np.mean([first[t], *known.get(t, ())]) for t in range(6)]
        return [t for t in range(6) if means[t] >= sorted(means)[-2]]

    def all_at_once() -> dict[Repeat, float]:
        recorded: dict[Repeat, float] = {}
        while left := next_repeats(contenders, recorded, repeats):
            recorded.update({(t, k): again[t, k - 1] for t, k in left})
        return recorded

    recorded: dict[Repeat, float] = {}
    while left := next_repeats(contenders, recorded, repeats):
        t, k = data.draw(st.sampled_from(left))
        recorded[t, k] = again[t, k - 1]
    assert recorded == all_at_once()
    known: dict[int, list[float]] = {}
    for (t, _), accuracy in sorted(recorded.items()):
        known.setdefault(t, []).append(accuracy)
    assert all(len(known[t]) == repeats for t in contenders(known))
