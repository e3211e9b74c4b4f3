"""Accuracy and balanced accuracy: what they are, and that everything of a run goes by the one that was asked for."""

import json
import re
import sqlite3
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from torch import Tensor, nn

from nas import Architecture
from nas.base.errors import UserError
from nas.base.metrics import METRICS, Score, metric_of, option_of, resolved, seed_noise
from nas.datasets import load_data
from nas.datasets.batches import Images
from nas.plots import figures as plots
from nas.search.config import Search
from nas.search.front import averaged, front_of, ranked
from nas.selection.pareto import reward
from nas.spaces.space import SearchSpace
from nas.training.distributed import Ranks
from nas.training.evaluate import evaluate
from nas.training.proxy import Proxy, train_proxy
from tests.helpers.commands import Command
from tests.helpers.searches import search_config

CPU = torch.device("cpu")


def counts(truth: list[int], said: list[int], classes: int) -> tuple[list[int], list[int]]:
    """Correct images and all images, by class."""
    right = [label for label, answer in zip(truth, said, strict=True) if label == answer]
    return np.bincount(right, minlength=classes).tolist(), np.bincount(truth, minlength=classes).tolist()


@given(answers=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_balanced_accuracy_is_scikit_learns(answers: list[tuple[int, int]]) -> None:
    """Of the classes that have images; some have none."""
    truth, said = (list(some) for some in zip(*answers, strict=True))
    score = Score.of(*counts(truth, said, 6))
    assert score.accuracy == pytest.approx(accuracy_score(truth, said))
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, said))


def test_the_standard_errors_are_the_spread_of_many_samples() -> None:
    rng = np.random.default_rng(0)
    images, shares = np.array([400, 50, 20, 0]), np.array([0.9, 0.6, 0.3, 0.5])
    samples = [Score.of(rng.binomial(images, shares).tolist(), images.tolist()) for _ in range(4000)]
    expected = Score.of((images * shares).round().astype(int).tolist(), images.tolist())
    spread = np.std([score.balanced_accuracy for score in samples])
    assert expected.balanced_accuracy_error == pytest.approx(spread, rel=0.05)
    n, p = images.sum(), expected.accuracy
    assert expected.accuracy_error == pytest.approx(np.sqrt(p * (1 - p) / n))


def test_a_rare_class_makes_balanced_accuracy_coarse() -> None:
    """Rounding a share of n images has the variance 1 / (12 n²), and the mean of two a quarter of their sum."""
    images = [38, 2, 0]
    assert resolved("accuracy", images) == 40
    rounding = sum(1 / (12 * n**2) for n in (38, 2)) / 4
    assert 1 / (12 * resolved("balanced_accuracy", images) ** 2) == pytest.approx(rounding)
    assert resolved("balanced_accuracy", [10]) == resolved("accuracy", [10])


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_noise_between_seeds_is_that_of_calibrated_trainings(metric: str) -> None:
    """Whose share of wrong answers to an image is distributed as Beta(1, 2): its mean is the error, 1/3."""
    rng = np.random.default_rng(0)
    images = [3000, 300, 100]
    wrong = [rng.random((1000, n)) < rng.beta(1, 2, n) for n in images]
    means = [some.mean(axis=1) for some in wrong]
    measured = np.mean(means, axis=0) if metric == "balanced_accuracy" else np.concatenate(wrong, axis=1).mean(axis=1)
    assert seed_noise(metric, [*images, 0], 1 / 3) == pytest.approx(measured.std(), rel=0.1)


class Answers(nn.Module):
    """Gives each image, of which the first pixel is its class, the logits of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x[:, 0, 0, 0].long()]


def test_an_evaluation_finds_what_scikit_learn_does() -> None:
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.choice(4, 700, p=[0.9, 0.06, 0.04, 0]))  # more than one batch, and a class without images
    codes = torch.tensor(rng.integers(0, 10, 700), dtype=torch.uint8)
    table = torch.tensor(rng.normal(size=(10, 5)), dtype=torch.float32)
    pixels = codes[:, None, None, None].expand(-1, 8, 8, 1).contiguous()
    images = Images(pixels, labels, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    said = table.argmax(1)[codes.long()]
    found = evaluate(Answers(table), images, 5, Ranks(CPU))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, said, labels=range(5)))
    present = said[said < 3]
    assert len(present)
    shares = [float((said[labels == label] == label).float().mean()) for label in range(3)]
    assert found.score.balanced_accuracy == pytest.approx(np.mean(shares))
    assert found.score.accuracy == pytest.approx(float((said == labels).float().mean()))


def test_every_epoch_has_both(proxy: Proxy) -> None:
    arch = Architecture.parse("16px stem8 ds_r1_k3_s2_c8 head16")
    outcome = train_proxy(arch, load_data(proxy.data), proxy.recipe, 0, "cpu", image_size=16)
    assert len(outcome.scores) == 2
    assert outcome.score == outcome.scores[-1]
    assert outcome.accuracy == outcome.score.accuracy
    assert outcome.score.accuracy == pytest.approx(outcome.score.balanced_accuracy)  # classes of equal size


def test_a_run_that_does_not_say_its_metric_is_by_accuracy() -> None:
    assert metric_of(None) == metric_of(None, {"arguments": {}}) == "accuracy"
    assert metric_of(None, {"arguments": {"metric": "balanced"}}) == "balanced_accuracy"
    assert [option_of(column) for column in METRICS.values()] == list(METRICS)
    with pytest.raises(UserError, match=r"--metric 'balance': nearest is 'balanced'"):
        metric_of("balance", {"arguments": {"metric": "accuracy"}})
    with pytest.raises(UserError, match=r"run.toml, argument metric '\[1\]'"):
        metric_of(None, {"arguments": {"metric": [1]}})


@pytest.fixture
def by_balanced(here: Path, images: Path) -> Search:
    """A search by balanced accuracy."""
    space = SearchSpace.load(str(here / "small.toml"))
    return search_config(space, str(images), confirm=1, metric="balanced_accuracy")


def test_a_constant_network_does_not_win(by_balanced: Search) -> None:
    """95 of 100 images are of one class: whoever always names it has an accuracy of 0.95, and a balanced one of 0.5."""
    constant, learned = Score.of([95, 0], [95, 5]), Score.of([85, 4], [95, 5])
    cost = {"madds": 4e5, "params": 1e4, "activations": 1e4, "step_seconds": 1}
    space = by_balanced.space
    some = [str(space.decode(code)) for code in space.sample_codes(2)]
    rows = [
        {"trial": i, "state": "COMPLETE", "architecture": arch, **cost, **vars(score)}
        for i, (arch, score) in enumerate(zip(some, [constant, learned], strict=True))
    ]

    def picked(metric: str) -> int:
        means, noise = averaged(pd.DataFrame(rows), {}, 100, metric)
        judged = ranked(means, noise, replace(by_balanced, metric=metric))
        assert front_of(judged)["trial"].tolist() == judged[judged["baseline"]]["trial"].tolist()
        return int(judged[judged["baseline"]]["trial"].item())

    assert picked("accuracy") == 0
    assert picked("balanced_accuracy") == 1
    assert by_balanced.columns == ["balanced_accuracy", "madds"]
    assert by_balanced.costs == ["madds"]
    assert by_balanced.directions == ["maximize", "minimize"]


def test_repeats_are_averaged_by_the_metric() -> None:
    table = pd.DataFrame({"trial": [0], "state": ["COMPLETE"], "accuracy": [0.95], "balanced_accuracy": [0.5]})
    means, noise = averaged(table, {0: [0.7]}, 100, "balanced_accuracy")
    assert means["mean_balanced_accuracy"].tolist() == pytest.approx([0.6])
    assert "mean_accuracy" not in means
    assert noise
    assert noise.variance == pytest.approx(0.02)


@pytest.fixture
def uneven(here: Path) -> Path:
    """Dark and light pictures, 95 % of them dark."""
    rng = np.random.default_rng(0)
    for part, numbers in (("train", {"dark": 57, "light": 5}), ("val", {"dark": 38, "light": 2})):
        for name, number in numbers.items():
            (here / "uneven" / part / name).mkdir(parents=True)
            for i in range(number):
                shade = rng.normal(90 if name == "dark" else 150, 40, (12, 12)).clip(0, 255).astype(np.uint8)
                Image.fromarray(shade).save(here / "uneven" / part / name / f"{i}.png")
    return here / "uneven"


SEARCH = ("--space", "small.toml", "--run", "r", "--trials", "8", "--confirm", "1", "--epochs", "2", "--workers", "1")


@pytest.mark.pictures
def test_a_run_by_balanced_accuracy(
    command: Command, here: Path, uneven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its search, its report, its family and the training of its baseline."""
    labels: list[str] = []
    name = Axes.set_ylabel
    monkeypatch.setattr(Axes, "set_ylabel", lambda axes, text, **more: (labels.append(text), name(axes, text, **more)))
    run = here / "runs/r"
    ended = command("search", *SEARCH, "--data", str(uneven), "--metric", "balanced")
    assert ended.code == 0, ended.err
    assert "balanced accuracy " in ended.out
    said = [line for line in ended.out.splitlines() if not line.startswith("warning")]
    assert not re.search(r"(?<!balanced[ _])accuracy", "\n".join(said))
    assert any(text.startswith(plots.LABELS["balanced_accuracy"]) for text in labels)
    assert not any(text.startswith(plots.LABELS["accuracy"]) for text in labels)
    trials, front, repeats = (pd.read_csv(run / f"{name}.csv") for name in ("trials", "pareto", "repeats"))
    assert ",".join(trials.columns).startswith(
        "trial,state,accuracy,madds,flops,params,activations,resolution,epochs,seconds,seed,architecture"
    )
    for table in (trials, front, repeats):
        assert (table["accuracy"] * 40 % 1 < 1e-9).all()  # a share of all validation images still
        assert (table["balanced_accuracy"] * 2 * 38 * 2 % 1 < 1e-9).all()
        assert table["balanced_accuracy_error"].notna().all()
    assert "mean_accuracy" not in trials
    rewards = reward(trials["mean_balanced_accuracy"], trials["madds"], 400000)
    about = tomllib.loads((run / "baseline.toml").read_text())["about"]
    assert about["trial"] == np.argmax(rewards)
    assert about["balanced_accuracy"] == pytest.approx(trials["mean_balanced_accuracy"][about["trial"]])
    assert "accuracy" not in about
    assert set(pd.read_csv(run / "sensitivity.csv")) >= {"balanced_accuracy_effect", "balanced_accuracy_effect_sd"}
    assert tomllib.loads((run / "run.toml").read_text())["arguments"]["metric"] == "balanced"
    with sqlite3.connect(run / "study.db") as database:
        stored = database.execute(
            "select number, value from trial_values join trials using (trial_id) join studies using (study_id) "
            "where study_name = 'r' and objective = 0 order by number"
        ).fetchall()
    assert dict(stored) == pytest.approx(dict(zip(trials["trial"], trials["balanced_accuracy"], strict=True)))

    other = command("search", *SEARCH, "--data", str(uneven))
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--metric balanced, now it is accuracy" in other.err

    ended = command("report", "r")
    assert ended.code == 0, ended.err
    text = (run / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.+?)</script>', text, re.DOTALL)
    found = json.loads(data)
    assert found["metric"] == {"key": "balanced_accuracy", "name": "balanced accuracy"}
    assert found["trials"]["mean_balanced_accuracy"] == pytest.approx(trials["mean_balanced_accuracy"], rel=1e-5)
    assert "accuracy" not in found["trials"]
    assert found["texts"]["basis"].startswith("Balanced accuracy")
    assert not re.search(r"(?i)(?<!balanced )accuracy", " ".join(map(str, found["texts"].values())))

    scaling = ("--baseline", "r", "--rule", "auto", "--coefficients", "1.2,1.1,1.15", "--phi", "0..1", "--train")
    more = ("--seeds", "2", "--epochs", "1", "--no-measure", "--workers", "1")
    ended = command("scale", *scaling, *more)
    assert ended.code == 0, ended.err
    assert "proxy balanced accuracy" in ended.out
    family, rules = (pd.read_csv(run / f"scale/{name}.csv") for name in ("family", "rules"))
    for table in (family, rules):
        assert (table["accuracy"] * 40 * 2 % 1 < 1e-9).all()
        assert table["balanced_accuracy"].notna().all()
        assert "balanced_accuracy_error" in table
    assert rules["balanced_accuracy"][rules["picked"]].item() == rules["balanced_accuracy"].max()
    assert tomllib.loads((run / "scale/scale.toml").read_text())["arguments"]["metric"] == "balanced"
    other = command("scale", *scaling, *more, "--metric", "accuracy")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--metric accuracy: run r is by balanced" in other.err

    training = ("r", "--run", "t", "--epochs", "2", "--device", "cpu")
    ended = command("train", *training)
    assert ended.code == 0, ended.err
    assert re.search(r"^balanced accuracy \S+ ± \S+ %, top-1 ", ended.out, re.MULTILINE)
    assert re.search(r"^epoch   2/2 .+ balanced accuracy +\S+ %  top-1", ended.out, re.MULTILINE)
    result = tomllib.loads((here / "runs/t/result.toml").read_text())["validation"]
    assert next(iter(result)) == "balanced_accuracy"
    confusion = pd.read_csv(here / "runs/t/confusion.csv", index_col=0)
    shares = np.diag(confusion) / confusion.sum(axis=1)
    assert result["balanced_accuracy"] == pytest.approx(shares.mean())
    assert pd.read_csv(here / "runs/t/curve.csv")["balanced_accuracy"].iloc[-1] == pytest.approx(shares.mean())
    other = command("train", *training, "--metric", "accuracy")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--metric balanced, now it is accuracy" in other.err


def test_the_grid_is_ranked_by_balanced_accuracy(command: Command, here: Path, uneven: Path) -> None:
    network = "32px stem8 ds_r1_k3_s1_c8 ir_r2_k3_s2_e2_c16 head16"
    more = ("--data", str(uneven), "--phi", "1", "--seeds", "2", "--epochs", "1", "--no-measure", "--workers", "1")
    ended = command("scale", "--baseline", network, "--run", "g", "--step", "0.2", "--metric", "balanced", *more)
    assert ended.code == 0, ended.err
    assert ", balanced accuracy " in ended.out
    grid = pd.read_csv(here / "runs/g/scale/grid.csv")
    assert ",".join(grid.columns).startswith("alpha,beta,gamma,product,counted_ratio,accuracy")
    assert set(grid) >= {"balanced_accuracy", "balanced_accuracy_error", "first_balanced_accuracy"}
    last = grid[grid["stage"] == grid["stage"].max()]
    assert last["balanced_accuracy"][last["picked"]].item() == last["balanced_accuracy"].max()
    again = command("scale", "--baseline", network, "--run", "g", "--step", "0.2", "--metric", "accuracy", *more)
    assert again.code == 0, again.err
    assert sum(line.startswith("trial ") for line in again.out.splitlines()) < len(grid)  # both were measured


def test_runs_of_older_versions(command: Command, here: Path, uneven: Path) -> None:
    """They have no balanced accuracy: they are continued, reported, scaled and trained by accuracy."""
    arguments = (*SEARCH[:4], "--trials", "3", "--epochs", "1", "--workers", "1", "--data", str(uneven))
    run = here / "runs/r"
    assert command("search", *arguments).code == 0
    scaling = ("--baseline", "r", "--coefficients", "1.2,1.1,1.15", "--phi", "0..1", "--train")
    more = ("--seeds", "2", "--no-measure", "--workers", "1")
    assert command("scale", *scaling, *more).code == 0
    with sqlite3.connect(run / "study.db") as database:
        database.execute("delete from trial_user_attributes where key like 'balanced%'")
    (run / "run.toml").write_text((run / "run.toml").read_text().replace('metric = "accuracy"\n', ""))
    for file in ("trials.csv", "pareto.csv", "scale/family.csv"):
        table = pd.read_csv(run / file)
        table[[name for name in table if "balanced" not in name]].to_csv(run / file, index=False)

    assert command("report", "r").code == 0
    ended = command("search", *arguments)
    assert ended.code == 0, ended.err
    trials = pd.read_csv(run / "trials.csv")
    assert trials["accuracy"].notna().all()
    assert trials[["balanced_accuracy", "balanced_accuracy_error"]].isna().all(axis=None)
    ended = command("scale", *scaling, *more)
    assert ended.code == 0, ended.err
    assert not any(line.startswith("trial ") for line in ended.out.splitlines())  # none again
    family = pd.read_csv(run / "scale/family.csv")
    assert family["accuracy"].notna().all()
    assert family["balanced_accuracy"].isna().all()
    assert command("train", "r", "--run", "t", "--epochs", "1", "--device", "cpu").code == 0
    other = command("search", *arguments, "--metric", "balanced")
    assert other.code == 2
    assert "--metric accuracy, now it is balanced" in other.err

    file = here / "runs/t/result.toml"  # a training that is done
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("balanced")))
    facts = here / "runs/t/run.toml"
    facts.write_text(facts.read_text().replace('metric = "accuracy"\n', ""))
    ended = command("train", "r", "--run", "t", "--epochs", "1", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert "top-1 " in ended.out


def test_trainings_without_the_metric_are_made_again(command: Command, here: Path, uneven: Path) -> None:
    """Those that an older version left in a scaling's study, and nothing else."""
    network = "32px stem8 ds_r1_k3_s1_c8 ir_r2_k3_s2_e2_c16 head16"
    arguments = ("--baseline", network, "--run", "g", "--coefficients", "1.2,1.1,1.15", "--phi", "0..1", "--train")
    more = ("--data", str(uneven), "--seeds", "1", "--epochs", "1", "--no-measure", "--workers", "1")
    assert command("scale", *arguments, *more).code == 0
    with sqlite3.connect(here / "runs/g/study.db") as database:
        database.execute("delete from trial_user_attributes where key like 'balanced%'")
    for trained in (2, 0):
        ended = command("scale", *arguments, *more, "--metric", "balanced")
        assert ended.code == 0, ended.err
        assert sum(line.startswith("trial ") for line in ended.out.splitlines()) == trained
        assert pd.read_csv(here / "runs/g/scale/family.csv")["balanced_accuracy"].notna().all()


def test_trainings_of_an_older_version_are_known(command: Command, here: Path, uneven: Path) -> None:
    """Jobs had a field `stop` then, which was always empty in a scaling."""
    network = "32px stem8 ds_r1_k3_s1_c8 ir_r2_k3_s2_e2_c16 head16"
    arguments = ("--baseline", network, "--run", "g", "--coefficients", "1.2,1.1,1.15", "--phi", "0", "--train")
    more = ("--data", str(uneven), "--seeds", "1", "--epochs", "1", "--no-measure", "--workers", "1")
    assert command("scale", *arguments, *more).code == 0
    with sqlite3.connect(here / "runs/g/study.db") as database:
        database.execute(
            "update trial_user_attributes set value_json = json_set(value_json, '$.stop', json('null')) "
            "where key = 'job'"
        )
    database.close()
    ended = command("scale", *arguments, *more)
    assert ended.code == 0, ended.err
    assert "trial " not in ended.out


def test_comparisons_go_by_the_metric_of_the_runs(command: Command, here: Path, uneven: Path) -> None:
    arguments = ("--space", "small.toml", "--data", str(uneven), "--sampler", "random", "--trials", "5")
    more = ("--epochs", "1", "--workers", "1", "--confirm", "0")
    for name, metric in (("a", "balanced"), ("b", "balanced"), ("c", "accuracy")):
        assert command("search", *arguments, *more, "--run", name, "--metric", metric).code == 0
    ended = command("compare", "a", "b")
    assert ended.code == 0, ended.err
    least = 100 * (1 - pd.read_csv(here / "runs/a/trials.csv")["balanced_accuracy"].max())
    assert "least balanced error" in ended.out
    assert f"{least:.1f} %" in ended.out
    ended = command("compare", "a", "c")
    assert ended.code == 2
    assert "a and c cannot be compared: --metric balanced differs from accuracy" in ended.err
