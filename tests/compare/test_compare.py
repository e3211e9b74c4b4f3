"""Error distributions: the figures against their definitions, and the command from end to end."""

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from nas.selection.distributions import difference, distribution, equal_cost, gap_of
from tests.helpers.commands import SPACE, Command, search_arguments

errors = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12).map(np.array)


@given(errors, st.data())
def test_a_distribution_by_its_definition(values: "np.ndarray", data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.integers(1, 5), min_size=len(values), max_size=len(values))), dtype=float)
    at, shares = distribution(values, weights)
    assert list(at) == sorted(set(values))
    for error, share in zip(at, shares, strict=True):
        assert share == pytest.approx(weights[values <= error].sum() / weights.sum())


@given(errors, errors)
def test_the_largest_difference_by_its_definition(one: "np.ndarray", other: "np.ndarray") -> None:
    everywhere = np.concatenate([one, other])
    expected = max(abs((one <= x).mean() - (other <= x).mean()) for x in everywhere)
    assert gap_of(one, other) == pytest.approx(expected)


def test_the_test_finds_differences_and_only_those() -> None:
    rng = np.random.default_rng(0)
    one, same, worse = rng.normal(0, 1, 40), rng.normal(0, 1, 40), rng.normal(2, 1, 40)
    assert difference(one, same, 0)[1] > 0.05
    assert difference(one, worse, 0)[1] < 0.001
    assert difference(one, one, 0) == (0, 1)


def test_the_test_among_ties_is_that_of_all_permutations() -> None:
    one, other = np.array([0.0, 0, 0, 1]), np.array([0.0, 1, 1, 1])
    both, found = np.concatenate([one, other]), gap_of(one, other)
    parts = [list(part) for part in combinations(range(8), 4)]
    gaps = [gap_of(both[part], np.delete(both, part)) for part in parts]
    assert difference(one, other, 0)[1] == pytest.approx(np.mean(np.array(gaps) >= found - 1e-12), abs=0.02)


@given(st.lists(st.lists(st.floats(1, 100), min_size=1, max_size=20).map(np.array), min_size=2, max_size=3))
def test_samples_are_alike_in_cost(costs: "list[np.ndarray]") -> None:
    weights = equal_cost(costs, 4)
    low, high = max(c.min() for c in costs), min(c.max() for c in costs)
    totals = [w.sum() for w in weights]
    assert totals == pytest.approx([totals[0]] * len(totals))
    assert totals[0] == pytest.approx(1) or not totals[0]
    for c, w in zip(costs, weights, strict=True):
        assert (w >= 0).all()
        assert not w[(c < low) | (c > high)].any()


def test_weights_undo_a_difference_that_is_one_of_cost_only() -> None:
    """Two samples of one space, one of mostly cheap and one of mostly dear networks: error is a function of cost."""
    rng = np.random.default_rng(0)
    cheap, dear = 100 * rng.beta(1, 2, 2000), 100 * rng.beta(2, 1, 2000)
    weights = equal_cost([cheap, dear], 20)
    assert abs(cheap.mean() - dear.mean()) > 25
    assert abs(np.average(cheap, weights=weights[0]) - np.average(dear, weights=weights[1])) < 1.5


@pytest.mark.pictures("compare.png")
def test_comparing_two_spaces(command: Command, here: Path, images: Path) -> None:
    (here / "wide.toml").write_text(SPACE.replace("c{8|16}", "c{8|32}"))
    random = search_arguments(images, "--trials", "8", "--sampler", "random")
    for name, more in (
        ("a", []),
        ("b", ["--space", "wide.toml"]),
        ("c", ["--epochs", "3"]),
        ("d", ["--sampler", "auto", "--trials", "1"]),
    ):
        assert command("search", *random, "--run", name, *more).code == 0
    ended = command("compare", "a", "b")
    assert ended.code == 0, ended.err
    for name in "ab":
        table = pd.read_csv(here / f"runs/{name}/trials.csv")
        (row,) = (line for line in ended.out.splitlines() if line.startswith(f"│ {name} "))
        assert f"{100 * (1 - table['accuracy'].max()):.1f} %" in row
        assert f"{100 * (1 - table['accuracy'].median()):.1f} %" in row
    assert imread(here / "compare.png").std() > 0.05

    shutil.copytree(here / "runs/a", here / "old/a")  # a run of the same name
    ended = command("compare", "a", "old/a", "--out", "same.png")
    assert ended.code == 0, ended.err
    assert {line.split()[1] for line in ended.out.splitlines() if line.startswith("│ ")} == {"a", "old/a"}

    shutil.copytree(here / "runs/a", here / "runs/stopped")
    table = pd.read_csv(here / "runs/stopped/trials.csv")
    table.assign(state=["PRUNED", *table["state"][1:]]).to_csv(here / "runs/stopped/trials.csv", index=False)
    for arguments, said in (
        (["a", "d"], "runs/d: its networks were proposed by --sampler auto"),
        (["a", "c"], "a and c cannot be compared: the proxy training differs"),
        (["a", "stopped"], "some trials are PRUNED"),
        (["a", "nobody"], "no run of this name"),
        (["a", "runs/a"], "name each run once"),
        (["a", "b", "--out", "no/such.png"], "--out no/such.png"),
        (["../a"], "'../a': no run of this name"),
    ):
        ended = command("compare", *arguments)
        assert ended.code == 2
        assert ended.err.count("\n") == 1
        assert said in ended.err
