"""Main effects against sums over a whole space, and against a truth that is known."""

import numpy as np
import pytest

from nas import SearchSpace
from nas.selection.sensitivity import COLUMNS, LEAST, main_effects, mean_madds
from nas.spaces.slots import Codes

SPACE = SearchSpace(
    "small",
    ("{ds_e1|ir_e3}_r{1|2}_k3_s1_c{8|16}", "ir_r{1|2|3}_k{3|5}_s2_e{2|3}_c{8|12}_se{0|0.25}", "er_k3_s1_e2_c{8|24}"),
    stem=8,
    head=16,
    resolution=32,
)
SIZES = [len(choice.texts) for choice in SPACE.choices]


def everything() -> Codes:
    return np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1).astype(np.int16)


def sample(n: int) -> Codes:
    return np.random.default_rng(0).integers(SIZES, size=(n, len(SIZES))).astype(np.int16)


def test_expected_costs_are_the_means_over_the_whole_space() -> None:
    codes = everything()
    costs = SPACE.costs(codes)
    for name, expected in SPACE.mean_costs().items():
        assert expected == pytest.approx(costs[name].mean())
    for column, size in enumerate(SIZES):
        for value in range(size):
            for name, expected in SPACE.mean_costs(column, value).items():
                assert expected == pytest.approx(costs[name][codes[:, column] == value].mean())


def test_madds_effects_are_the_differences_over_the_whole_space() -> None:
    codes = everything()
    madds = SPACE.costs(codes)["madds"]
    known = sample(20)
    effects = main_effects(SPACE, {}, known, np.linspace(0.5, 0.7, 20))
    assert list(effects.columns) == COLUMNS
    assert len(effects) == sum(SIZES)
    for column, choice in enumerate(SPACE.choices):
        rows = effects[effects["choice"] == choice.name]
        assert list(rows["value"]) == list(choice.texts)
        levels = np.array([madds[codes[:, column] == v].mean() for v in range(SIZES[column])])
        np.testing.assert_allclose(rows["madds_effect"], levels - levels.mean(), atol=1e-6)
        assert list(rows["trials"]) == [(known[:, column] == v).sum() for v in range(SIZES[column])]


def test_madds_effects_within_a_budget() -> None:
    codes = everything()
    madds = SPACE.costs(codes)["madds"]
    limit = float(np.quantile(madds, 0.3))
    effects = main_effects(SPACE, {"madds": (0, limit)}, sample(20), np.linspace(0.5, 0.7, 20))
    inside = codes[madds <= limit]
    for column in range(len(SIZES)):
        levels = []
        for value in range(SIZES[column]):
            changed = inside.copy()
            changed[:, column] = value
            levels.append(SPACE.costs(changed)["madds"].mean())
        rows = effects[effects["choice"] == SPACE.choices[column].name]
        np.testing.assert_allclose(rows["madds_effect"], np.array(levels) - np.mean(levels), rtol=0.05, atol=300)
    assert mean_madds(SPACE, {"madds": (0, limit)}, 0) == pytest.approx(madds[madds <= limit].mean(), rel=0.01)
    assert mean_madds(SPACE, {}, 0) == pytest.approx(madds.mean())


@pytest.mark.parametrize("noise", [0.001, 0.01])
def test_the_truth_is_within_the_errors(noise: float) -> None:
    off = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = [effects - effects.mean() for effects in (rng.normal(0, 0.01, size) for size in SIZES)]
        codes = sample(120)
        accuracy = 0.8 + sum(effects[codes[:, i]] for i, effects in enumerate(truth)) + noise * rng.standard_normal(120)
        found = main_effects(SPACE, {}, codes, accuracy)
        off.append((found["accuracy_effect"] - np.concatenate(truth)) / found["accuracy_effect_sd"])
        assert (found["accuracy_effect_sd"] < 5 * noise / np.sqrt(20)).all()
    assert (np.abs(off) < 2).mean() > 0.85
    assert np.abs(off).max() < 5


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="needs"):
        main_effects(SPACE, {}, sample(LEAST - 1), np.zeros(LEAST - 1))
