"""Searches that confirm their front, from end to end."""

import signal
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from nas.plots import figures as plots
from nas.selection.noise import Noise
from nas.selection.pareto import non_dominated
from nas.training import proxy
from nas.training.evaluate import Diverged
from nas.training.proxy import Outcome, train_proxy
from tests.helpers import needs
from tests.helpers.commands import Command, search_arguments
from tests.helpers.processes import interrupt

FILES = ("trials.csv", "repeats.csv", "pareto.csv", "baseline.toml", "sensitivity.csv")


def confirmed(images: Path, *more: str) -> list[str]:
    return search_arguments(images, "--trials", "8", "--confirm", "2", "--epochs", "2", *more)


def test_a_front_of_means(command: Command, here: Path, images: Path) -> None:
    ended = command("search", *confirmed(images))
    assert ended.code == 0, ended.err
    trials, repeats, front = (pd.read_csv(here / f"runs/r/{name}.csv") for name in ("trials", "repeats", "pareto"))
    assert len(trials) == trials["architecture"].nunique() == 8
    assert list(repeats.columns[:12]) == list(trials.columns[:12])
    assert repeats["seed"].nunique() == len(repeats)
    assert 0 not in set(repeats["seed"])
    assert not repeats.duplicated(["trial", "repeat"]).any()

    first = dict(zip(trials["trial"], trials["accuracy"], strict=True))
    runs = {trial: [a, *repeats["accuracy"][repeats["trial"] == trial]] for trial, a in first.items()}
    assert list(trials["runs"]) == [len(some) for some in runs.values()]
    means = np.array([np.mean(some) for some in runs.values()])
    np.testing.assert_allclose(trials["mean_accuracy"], means)
    squares = sum(np.var(some) * len(some) for some in runs.values())
    deviation = (squares / len(repeats)) ** 0.5  # each repeat is one degree of freedom
    np.testing.assert_allclose(trials["mean_error"], deviation / np.sqrt(trials["runs"]))
    assert f"noise of one training: {100 * deviation:.2f} %" in ended.out

    on_front = non_dominated(np.column_stack([-means, trials["madds"]]))
    picked = front[front["baseline"]]["trial"].item()
    assert set(front["trial"]) == set(trials["trial"][on_front]) | {picked}
    assert front["probability"].between(0, 1).all()
    baseline = tomllib.loads((here / "runs/r/baseline.toml").read_text())["about"]
    assert baseline["trial"] == picked
    assert baseline["accuracy"] == pytest.approx(means[picked])
    assert baseline["trainings"] == 3
    best = front[front["madds"] <= 400000]["expected"].idxmax()
    assert front["runs"][best] == 3
    assert pd.read_csv(here / "runs/r/sensitivity.csv")["choice"].nunique() == 6

    before = {name: (here / "runs/r" / name).read_bytes() for name in FILES}
    ended = command("search", *confirmed(images))
    assert ended.code == 0, ended.err
    assert "repeat of" not in ended.out
    assert before == {name: (here / "runs/r" / name).read_bytes() for name in FILES}

    ended = command("search", *search_arguments(images, "--trials", "8", "--epochs", "2", "--run", "single"))
    assert ended.code == 0, ended.err
    assert "unconfirmed" in ended.out
    single = pd.read_csv(here / "runs/single/trials.csv")
    assert single[["architecture", "accuracy"]].equals(trials[["architecture", "accuracy"]])
    assert not (here / "runs/single/repeats.csv").exists()


@needs.fork
def test_interrupted_repeats_end_like_others(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before it is said what is repeated, and then while one is in training."""
    note = optuna.Trial.set_user_attr

    def killed(trial: optuna.Trial, name: str, value: Any) -> None:
        if trial.number == 3 and name == "repeat_of":
            raise KeyboardInterrupt
        note(trial, name, value)

    run, whole = here / "runs/r", here / "runs/whole"
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", killed)
        assert command("search", *confirmed(images)).code == 130
    befores = [pd.read_csv(run / "repeats.csv")]
    interrupt(here, "search", confirmed(images), "r", signal.SIGKILL, finished=12)
    befores.append(pd.read_csv(run / "repeats.csv"))
    assert 3 == len(befores[0]) < len(befores[1])

    ended = command("search", *confirmed(images))
    assert ended.code == 0, ended.err
    after = pd.read_csv(run / "repeats.csv")
    for before in befores:
        assert after[: len(before)].equals(before)
    assert command("search", *confirmed(images, "--run", "whole")).code == 0
    columns = ["trial", "repeat", "seed", "accuracy"]
    assert after[columns].equals(pd.read_csv(whole / "repeats.csv")[columns])
    for name in ("trials.csv", "pareto.csv"):
        mine, others = (pd.read_csv(folder / name) for folder in (run, whole))
        kept = [column for column in mine.columns if "seconds" not in column]
        assert mine[kept].equals(others[kept])


def test_repeats_that_fail(
    command: Command,
    here: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sick(arch: Any, data: Any, recipe: Any, seed: int, *more: Any, **others: Any) -> Outcome:
        if seed:
            raise Diverged("loss nan")
        return train_proxy(arch, data, recipe, seed, *more, **others)

    monkeypatch.setattr(proxy, "train_proxy", sick)
    ended = command("search", *confirmed(images, "--trials", "2"))  # not five in a row
    assert ended.code == 0, ended.err
    repeats = pd.read_csv(here / "runs/r/repeats.csv")
    assert set(repeats["state"]) == {"FAIL"}
    assert (pd.read_csv(here / "runs/r/trials.csv")["runs"] == 1).all()
    assert "unconfirmed" in ended.out


def test_a_picture_says_whether_its_front_is_confirmed() -> None:
    trials = pd.DataFrame(
        {
            "trial": [0, 1],
            "state": "COMPLETE",
            "accuracy": [0.5, 0.6],
            "accuracy_error": 0.01,
            "madds": [1e6, 2e6],
            "runs": [1, 2],
            "mean_accuracy": [0.5, 0.55],
            "mean_error": [0.01, 0.007],
            "probability": [1.0, 0.99],
        }
    )
    single = plots.pareto(trials.assign(runs=1, mean_accuracy=trials["accuracy"]), trials, 0, "madds", "run", "")
    assert "unconfirmed" in single.get_suptitle()
    assert "one training" in single.axes[0].get_ylabel()
    means = plots.pareto(trials, trials, 0, "madds", "run", "", Noise(0.01**2, 5))
    assert "unconfirmed" not in means.get_suptitle()
    assert "mean over trainings" in means.axes[0].get_ylabel()
    assert any("5 degrees of freedom" in text.get_text() for text in means.texts)
    assert {"0.99", "1.00"} <= {text.get_text() for text in means.axes[0].texts}
