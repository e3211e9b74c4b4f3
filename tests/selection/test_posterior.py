"""What is believed of networks after their trainings, against tables whose truth is known."""

from typing import Any

import numpy as np
import pytest

from nas.selection.noise import Noise
from nas.selection.posterior import posterior

SIZES = [3] * 10


def table(seed: int, count: int = 30, noise: float = 0.01) -> dict[str, Any]:
    """Networks whose accuracy is a trend in log cost and effects of their choices, of deviation 0.01 each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(SIZES, size=(count, len(SIZES)))
    costs = np.exp(rng.normal(size=(count, 2)))
    effects = rng.normal(size=(len(SIZES), 3)) * 0.01 / len(SIZES) ** 0.5
    truth = 0.7 + 0.01 * np.log(costs[:, 0]) + effects[np.arange(len(SIZES)), codes].sum(axis=1)
    return {"codes": codes, "costs": costs, "truth": truth, "accuracy": truth + noise * rng.normal(size=count)}


def test_means_are_closer_to_the_truth_than_what_was_measured_and_the_best_is_not_taken_at_its_word() -> None:
    measured, believed, apart, above = [], [], [], []
    for seed in range(30):
        t = table(seed)
        found = posterior(t["codes"], SIZES, t["costs"], t["accuracy"])
        measured.append(np.mean((t["accuracy"] - t["truth"]) ** 2))
        believed.append(np.mean((found.mean - t["truth"]) ** 2))
        apart.append((found.mean - t["truth"]) / found.std)
        above.append(t["accuracy"].max() - found.mean[t["accuracy"].argmax()])
    assert np.mean(believed) < 0.7 * np.mean(measured)
    assert 0.7 < np.std(apart) < 1.4
    assert np.mean(above) > 0.003


def test_networks_that_were_not_trained_are_predicted() -> None:
    t = table(0, 200, 0.002)
    known = np.where(np.arange(200) < 150, t["accuracy"], np.nan)
    found = posterior(t["codes"], SIZES, t["costs"], known)
    assert np.corrcoef(found.mean[150:], t["truth"][150:])[0, 1] > 0.9
    assert found.std[150:].mean() > found.std[:150].mean()
    drawn = found.draws(2000, seed=0)
    np.testing.assert_allclose(drawn.mean(axis=0), found.mean, atol=0.001)
    np.testing.assert_allclose(drawn.std(axis=0), found.std, rtol=0.15)


def test_more_trainings_count_more_and_repeats_tell_the_noise() -> None:
    t = table(1)
    runs = np.where(np.arange(30) == 4, 50, 1)
    often = posterior(t["codes"], SIZES, t["costs"], t["accuracy"], runs)
    assert often.std[4] < 0.5 * np.median(often.std)
    assert abs(often.mean - t["accuracy"])[4] < 0.003
    small, large = (
        posterior(t["codes"], SIZES, t["costs"], t["accuracy"], noise=Noise(sd**2, 20)) for sd in (0.001, 0.03)
    )
    assert small.noise < 0.003
    assert large.noise > 0.01
    assert np.ptp(large.mean) < np.ptp(small.mean)


def test_it_is_the_same_in_any_units_and_a_diverged_training_does_not_bend_it() -> None:
    t = table(2)
    found = posterior(t["codes"], SIZES, t["costs"], t["accuracy"])
    for unit in (1e-9, 1e9):
        other = posterior(t["codes"], SIZES, t["costs"], unit * t["accuracy"])
        np.testing.assert_allclose(other.mean, unit * found.mean, rtol=1e-6)
        np.testing.assert_allclose(other.std, unit * found.std, rtol=1e-6)
    lost = np.append(t["accuracy"], 0.1)
    codes, costs = np.vstack([t["codes"], t["codes"][:1]]), np.vstack([t["costs"], t["costs"][:1]])
    bent = posterior(codes, SIZES, costs, lost)
    assert np.mean((bent.mean[:30] - t["truth"]) ** 2) < np.mean((t["accuracy"] - t["truth"]) ** 2)


def test_one_network_equal_ones_and_none() -> None:
    found = posterior([[0, 1]], [2, 2], [[1e6]], [0.5])
    assert found.mean[0] == pytest.approx(0.5)
    found = posterior([[0, 1]] * 3, [2, 2], np.empty((3, 0)), [0.5] * 3)
    np.testing.assert_allclose(found.mean, 0.5)
    with pytest.raises(ValueError, match="trained network"):
        posterior([[0, 1]], [2, 2], [[1e6]], [np.nan])
