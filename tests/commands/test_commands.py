"""The commands from end to end, in an empty directory, on a few real images and a space of small networks."""

import io
import itertools
import json
import math
import re
import shutil
import signal
import sqlite3
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from matplotlib.image import imread
from PIL import Image

from nas import Architecture, SearchSpace, datasets
from nas.base.files import to_toml
from nas.base.units import format_count
from nas.devices.latency import Table
from nas.training import proxy
from nas.training.evaluate import Diverged
from nas.training.recipe import Recipe
from nas.training.schedule import Schedule
from nas.training.trainer import Trainer
from tests.helpers import needs
from tests.helpers.commands import SPACE, Command, deployed_cost, search_arguments
from tests.helpers.processes import ERR, interrupt


@pytest.mark.pictures
def test_a_search_and_the_family_of_its_baseline(command: Command, here: Path, images: Path) -> None:
    ended = command("search", *search_arguments(images))
    assert ended.code == 0, ended.err
    lines = [line for line in ended.out.splitlines() if line.startswith("trial ")]
    assert len(lines) == 6
    assert "MAdds" in lines[0]
    assert "left" in lines[0]

    run = here / "runs/r"
    trials = pd.read_csv(run / "trials.csv")
    begin = "trial,state,accuracy,madds,flops,params,activations,resolution,epochs,seconds,seed,architecture"
    assert ",".join(trials.columns).startswith(begin)
    assert len(set(trials["architecture"])) == 6
    assert trials["accuracy"].between(0, 1).all()
    for row in trials.itertuples():
        cost = deployed_cost(Architecture.parse(str(row.architecture)))
        assert (cost.madds, cost.flops, cost.params, cost.activations) == (
            row.madds,
            row.flops,
            row.params,
            row.activations,
        )

    front = pd.read_csv(run / "pareto.csv")
    dominated = {
        a.trial
        for a in trials.itertuples()
        for b in trials.itertuples()
        if b.accuracy >= a.accuracy and b.madds <= a.madds and (b.accuracy, b.madds) != (a.accuracy, a.madds)
    }
    picked = front[front["baseline"]].iloc[0]  # by the model of all trainings, so it may be off the front of means
    assert set(front["trial"]) == set(trials["trial"]) - dominated | {picked["trial"]}
    assert (trials["madds"] <= 400000).all()  # the space's target: what is above is not picked
    baseline = Architecture.load(run / "baseline.toml")
    assert str(baseline) == picked["architecture"]
    assert picked["expected"] >= front["expected"].max() - 3 * front["expected_error"].max()
    assert imread(run / "pareto.png").std() > 0.05

    facts = tomllib.loads((run / "run.toml").read_text())
    assert facts["arguments"]["trials"] == 6
    assert facts["proxy"]["classes"] == 3
    assert facts["cost"] == {"resolution": 28, "channels": 3, "classes": 3}
    assert facts["versions"]["torch"]

    scaling = ("scale", "--phi", "2", "--tolerance", "0.03", "--step", "0.1", "--seeds", "1", "--workers", "1")
    ended = command(*scaling)
    assert ended.code == 0, ended.err
    grid = pd.read_csv(run / "scale/grid.csv")
    assert ",".join(grid.columns).startswith("alpha,beta,gamma,product,counted_ratio,accuracy")
    assert np.allclose(grid["product"], grid["alpha"] * grid["beta"] ** 2 * grid["gamma"] ** 2)
    assert ((grid["product"] - 2).abs() <= 0.1).all()
    assert (grid[["alpha", "beta", "gamma"]] >= 1).all(axis=None)
    assert grid["accuracy"].notna().all()
    family = pd.read_csv(run / "scale/family.csv")
    begin = "phi,depth,width,resolution,madds,flops,params,activations,nominal_ratio,counted_ratio"
    assert ",".join(family.columns).startswith(begin)
    picked = grid[grid["picked"]].iloc[0]
    assert picked["accuracy"] == grid[grid["stage"] == grid["stage"].max()]["accuracy"].max()
    for row in family.itertuples():
        member = Architecture.load(run / f"scale/phi_{row.phi:g}.toml")
        scaled = baseline.scale(picked["alpha"] ** row.phi, picked["beta"] ** row.phi, picked["gamma"] ** row.phi)
        assert member == scaled
        assert deployed_cost(member).madds == row.madds
        assert row.nominal_ratio == pytest.approx(picked["product"] ** row.phi)
        assert row.counted_ratio == pytest.approx(deployed_cost(member).madds / deployed_cost(baseline).madds)
    for picture in ("grid.png", "family.png"):
        assert imread(run / "scale" / picture).std() > 0.05

    again = command(*scaling)
    assert again.code == 0
    assert not any(line.startswith("trial ") for line in again.out.splitlines())
    assert pd.read_csv(run / "scale/grid.csv").equals(grid)


def test_other_programs_may_rely_on_the_same_result_for_the_same_seed(
    command: Command, here: Path, images: Path
) -> None:
    outcomes = []
    for seed in ("1", "1", "2"):
        name = f"r{len(outcomes)}"
        assert command("search", *search_arguments(images, "--trials", "3", "--seed", seed, "--run", name)).code == 0
        outcomes.append(pd.read_csv(here / f"runs/{name}/trials.csv")[["architecture", "accuracy"]])
    assert outcomes[0].equals(outcomes[1])
    assert not outcomes[0].equals(outcomes[2])


@pytest.mark.parametrize("sampler", ["auto", "tpe", "nsga2", "random"])
def test_every_sampler_keeps_the_budget_and_repeats_nothing(
    command: Command, here: Path, images: Path, sampler: str
) -> None:
    """The space has few networks within the budget: the search trains each once, and says that it is done."""
    space = SearchSpace.load(here / "small.toml")
    madds = sorted(deployed_cost(arch).madds for arch in space.enumerate())
    budget = madds[4]
    ended = command(
        "search", *search_arguments(images, "--trials", "20", "--max-madds", str(budget), "--sampler", sampler)
    )
    assert ended.code == 0, ended.err
    trials = pd.read_csv(here / "runs/r/trials.csv")
    assert sorted(trials["madds"]) == [m for m in madds if m <= budget]
    assert trials["architecture"].is_unique
    assert "no other network is left within the budget" in ended.out


def test_three_objectives_and_a_time_budget(command: Command, here: Path, images: Path) -> None:
    ended = command(
        "search", *search_arguments(images, "--objectives", "accuracy,madds,params", "--time-budget", "0.001s")
    )
    assert ended.code == 0, ended.err
    assert "time budget spent" in ended.out
    assert len(pd.read_csv(here / "runs/r/trials.csv")) == 1


def test_a_training_aware_search(command: Command, here: Path, images: Path) -> None:
    """Time is recorded per trial and searched for; the reward is EfficientNetV2's, computed here once more."""
    arguments = search_arguments(images, "--objectives", "accuracy,train_time,params", "--reward", "v2")
    ended = command("search", *arguments)
    assert ended.code == 0, ended.err
    assert "a training step of 64 images as measured on this machine" in ended.out
    trials, front = (pd.read_csv(here / f"runs/r/{name}.csv") for name in ("trials", "pareto"))
    assert (trials["step_seconds"] > 0).all()
    points = trials[["step_seconds", "params"]].assign(error=1 - trials["accuracy"]).to_numpy()
    dominated = [((points <= p).all(axis=1) & (points < p).any(axis=1)).any() for p in points]
    assert set(front[~front["baseline"]]["trial"]) <= set(trials["trial"][~np.array(dominated)]) <= set(front["trial"])
    first = trials.iloc[0]
    time_factor = (trials["step_seconds"] / first["step_seconds"]) ** -0.07
    factor = time_factor * (trials["params"] / first["params"]) ** -0.05
    assert np.allclose(front["reward"], front["expected"] * factor[front["trial"]].to_numpy())
    baseline = tomllib.loads((here / "runs/r/baseline.toml").read_text())["about"]
    assert baseline["trial"] == front[front["baseline"]]["trial"].item()
    assert front["reward"].idxmax() == front["baseline"].idxmax()
    assert baseline["why"].startswith("the largest accuracy * (step_seconds / ")
    assert "the largest accuracy * (step_seconds / " in ended.out
    assert tomllib.loads((here / "runs/r/run.toml").read_text())["arguments"]["reward"] == "v2"
    assert "started with --reward v2, now it is soft" in command("search", *arguments[:-1], "soft").err


def test_a_recipe_stays_with_a_run_and_its_scaling(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule is a part of it; the scaling may have another."""
    schedule = "until = [0.5, 1]\nsize = [1, 2]\nrandaugment = [3, 6]\nmixup = [0, 0.2]\ndropout = [0, 0.1]\n"
    (here / "grow.toml").write_text(schedule)
    (here / "fast.toml").write_text('epochs = 1\nlearning_rate = 0.01\nema = 0.5\nprogressive = "grow.toml"\n')
    arguments = search_arguments(images, "--trials", "2", "--recipe", "fast.toml", "--epochs", "2")
    ended = command("search", *arguments)
    assert ended.code == 0, ended.err
    assert "recipe fast, epochs: 2" in ended.out
    assert "progressive grow: training images of 14, 28 px in turn" in ended.out
    facts = tomllib.loads((here / "runs/r/run.toml").read_text())
    assert facts["progressive"] == {"name": "grow", **tomllib.loads(schedule)}
    kept = {key: facts["proxy"][key] for key in ("name", "epochs", "learning_rate", "ema")}
    assert kept == {"name": "fast", "epochs": 2, "learning_rate": 0.01, "ema": 0.5}
    assert command("search", *arguments).code == 0
    plain = [word if word != "fast.toml" else "proxy" for word in arguments]
    assert "started with --recipe fast.toml, now it is proxy" in command("search", *plain).err
    (here / "grow.toml").write_text(schedule.replace("[3, 6]", "[3, 7]"))
    assert "the schedule of its recipe (progressive) has changed" in command("search", *arguments).err
    (here / "fast.toml").write_text("learning_rate = 0.02\nema = 0.5\n")
    assert "its recipe had learning_rate 0.01, now it is 0.02" in command("search", *arguments).err

    recipes = []

    def refuse(arch: Architecture, data: datasets.Dataset, recipe: Recipe, *_: object, **__: object) -> None:
        recipes.append(recipe)
        raise Diverged("a test")

    monkeypatch.setattr(proxy, "train_proxy", refuse)
    scaling = ("--phi", "1", "--baseline", "r", "--step", "0.4", "--workers", "1")
    for more, expected in (
        ((), ("fast", Schedule("grow", (0.5, 1), (1, 2), (3, 6), (0, 0.2), (0, 0.1)), 2)),
        (("--recipe", "proxy"), ("proxy", None, 2)),
        (("--recipe", "default", "--epochs", "3"), ("default", None, 3)),
    ):
        recipes.clear()
        assert command("scale", *scaling, *more).code == 1
        assert {(recipe.name, recipe.progressive, recipe.epochs) for recipe in recipes} == {expected}


def test_a_run_of_an_older_version_is_continued(command: Command, here: Path, images: Path) -> None:
    """Its run.toml names no recipe, and has fewer fields of it."""
    assert command("search", *search_arguments(images, "--trials", "2")).code == 0
    facts = tomllib.loads((here / "runs/r/run.toml").read_text())
    del facts["arguments"]["recipe"]
    names = ("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "warmup", "image_size", "classes")
    facts["proxy"] = {name: facts["proxy"][name] for name in names}
    (here / "runs/r/run.toml").write_text(to_toml(facts))
    ended = command("search", *search_arguments(images, "--trials", "3"))
    assert ended.code == 0, ended.err
    assert "continued, 2 of 3 trials done" in ended.out


def test_a_failed_training_is_a_failed_trial_with_its_cause(
    command: Command, here: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other loss is not a number, and one network is too large for the memory: the search goes on."""
    step, calls = Trainer.step, itertools.count()

    def sick(self: Trainer, *arguments: Any) -> torch.Tensor:
        if (call := next(calls)) == 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
        return step(self, *arguments) * (math.nan if call < 5 else 1)

    monkeypatch.setattr(Trainer, "step", sick)
    ended = command("search", *search_arguments(images, "--workers", "1"))
    assert ended.code == 0, ended.err
    trials = pd.read_csv(here / "runs/r/trials.csv")
    assert list(trials["state"]) == ["FAIL"] * 3 + ["COMPLETE"] * 3
    assert trials["note"][0].startswith("out of memory")
    assert list(trials["note"][1:3]) == ["epoch 1, step 2 of 4: loss nan"] * 2
    assert trials["accuracy"].isna().tolist() == [True] * 3 + [False] * 3
    assert "failed: epoch 1, step 2 of 4: loss nan" in ended.out
    assert not set(pd.read_csv(here / "runs/r/pareto.csv")["trial"]) & {0, 1, 2}


def test_limits_on_memory_and_latency(command: Command, here: Path, images: Path) -> None:
    """No network over either is trained; the table is measured before the first trial."""
    space = SearchSpace.load(here / "small.toml").deployed(3, 3)
    least, most = space.extremes()["peak"]
    memory = (least + most) // 2
    arguments = search_arguments(images, "--trials", "4", "--objectives", "accuracy,memory")
    arguments += ["--max-memory", f"{memory} B", "--max-latency", "10s", "--min-latency", "1e-9"]
    ended = command("search", *arguments)
    assert ended.code == 0, ended.err
    assert "KB memory and at least 1e-06 ms latency and at most 1e+04 ms latency: " in ended.out
    run = here / "runs/r"
    trials, table = pd.read_csv(run / "trials.csv"), Table.load(run / "latency.csv")
    assert len(trials) == 4
    for row in trials.itertuples():
        arch = Architecture.parse(str(row.architecture))
        assert row.peak == deployed_cost(arch).peak <= memory
        assert row.latency == pytest.approx(table.predict(arch))
    assert (pd.read_csv(run / "pareto.csv")["latency_measured"] > 0).all()
    ended = command("search", *arguments[:-4], "--run", "s", "--max-latency", "0.000001ms")
    assert ended.code == 2
    assert "no network has at most 1e-06 ms latency; the space reaches from " in ended.err
    assert not (here / "runs/s/run.toml").exists()


def test_latency_as_an_objective(command: Command, here: Path, images: Path) -> None:
    arguments = search_arguments(images, "--objectives", "accuracy,latency", "--trials", "3", "--time-budget", "1h")
    ended = command("search", *arguments)
    assert ended.code == 0, ended.err
    assert "predicted from" in ended.out
    run = here / "runs/r"
    table = Table.load(run / "latency.csv")
    assert tomllib.loads((run / "run.toml").read_text())["latency"]["device"] == table.conditions.device
    trials = pd.read_csv(run / "trials.csv")
    for row in trials.itertuples():
        assert row.latency == pytest.approx(table.predict(Architecture.parse(str(row.architecture))))
    assert (pd.read_csv(run / "pareto.csv")["latency_measured"] > 0).all()

    before = {file: (run / file).read_bytes() for file in ("latency.csv", "latency_front.csv", "pareto.csv")}
    again = command("search", *arguments)
    assert again.code == 0, again.err
    assert "measuring" not in again.out
    assert {file: (run / file).read_bytes() for file in before} == before
    (run / "latency.csv").unlink()
    ended = command("search", *arguments)
    assert ended.code == 2
    assert "latency.csv: cannot be read" in ended.err


def test_measuring_a_network(command: Command) -> None:
    ended = command("cost", "ds_r1_k3_s1_e1_c8 32px stem8 head8", "--latency", "--batch", "2", "--threads", "1")
    assert ended.code == 0, ended.err
    assert "threads: 1, batch 2, float32, 32 px" in ended.out


@needs.fork
def test_an_interrupted_search_ends_like_one_that_was_not(command: Command, here: Path, images: Path) -> None:
    """By Ctrl-C, with two workers; a search with one is killed in test_survival."""
    arguments = search_arguments(images, "--trials", "5", "--epochs", "10", "--workers", "2")
    assert interrupt(here, "search", arguments, "r", signal.SIGINT, finished=2) == 130
    assert (here / ERR).read_text() == "error: interrupted; the same command continues the run\n"
    before = pd.read_csv(here / "runs/r/trials.csv", dtype=str)

    ended = command("search", *arguments)
    assert ended.code == 0, ended.err
    assert "continued" in ended.out
    after = pd.read_csv(here / "runs/r/trials.csv", dtype=str)
    assert len(after) == after["architecture"].nunique() == 5
    assert list(after["trial"]) == list("01234")
    assert after[after["trial"].isin(before["trial"])].reset_index(drop=True).equals(before)

    assert command("search", *arguments, "--run", "whole").code == 0
    whole = pd.read_csv(here / "runs/whole/trials.csv", dtype=str)
    same = ["architecture", "accuracy", "state", "epochs"]
    assert whole[same].equals(after[same])


def test_a_space_without_choices_is_one_network(command: Command, here: Path, images: Path) -> None:
    (here / "small.toml").write_text(re.sub(r"stages = .*", 'stages = ["ds_r1_k3_s2_e1_c8"]', SPACE))
    ended = command("search", *search_arguments(images))
    assert ended.code == 0, ended.err
    assert "stopped after 1 of 6 trials: no other network is left within the budget\n" in ended.out


def test_a_stream_that_cannot_say_it_all_is_no_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert command("scale", "--baseline", "mobilenet_v2", "--rule", "fast", "--no-measure").code == 0
    stream.seek(0)
    assert "? 3: depth" in stream.read()


def test_a_run_is_repeated_from_its_run_toml(command: Command, here: Path, images: Path) -> None:
    assert (
        command(
            "search", *search_arguments(images, "--trials", "3", "--objectives", "accuracy,params", "--seed", "3")
        ).code
        == 0
    )
    file = here / "runs/r/run.toml"
    ended = command("search", "--from", str(file))
    assert ended.code == 0, ended.err
    assert "but for:\n  nothing\n" in ended.out
    first, second = (pd.read_csv(here / "runs" / name / "trials.csv") for name in ("r", "r-again"))
    assert first.drop(columns=["seconds", "step_seconds"]).equals(second.drop(columns=["seconds", "step_seconds"]))

    file.write_text(re.sub(r'torch = ".*"', 'torch = "1.0"', file.read_text()).replace("train = 120", "train = 119"))
    ended = command("search", "--from", str(file), "--run", "other", "--seed", "4")
    assert ended.code == 0, ended.err
    assert "versions: torch was 1.0, now it is" in ended.out
    assert "arguments: seed was 3, now it is 4" in ended.out
    assert "data: train was 119, now it is 120" in ended.out
    file.write_text("[arguments]\nspice = 1\n")
    ended = command("search", "--from", str(file))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "is no run.toml of a search" in ended.err


def test_every_command_says_first_what_misleads(command: Command, here: Path) -> None:
    noise = np.random.default_rng(0)
    for name, count in (("ok", 24), ("defect", 4)):
        (here / "rare" / name).mkdir(parents=True)
        for i in range(count):
            pixels = noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / "rare" / name / f"{i}.png")
    given = ["--epochs", "1", "--device", "cpu"]
    searched = command(
        "search", "--space", "small.toml", "--data", "rare", "--run", "r", "--trials", "1", "--workers", "1", *given
    )
    scaled = command(
        "scale",
        "--baseline",
        "r",
        "--phi",
        "1",
        "--coefficients",
        "1.2,1.1,1.15",
        "--train",
        "--no-measure",
        "--seeds",
        "1",
        "--workers",
        "1",
    )
    trained = command("train", "r", "--data", "rare", "--run", "t", *given)
    for ended, first in ((searched, "trial "), (scaled, "trial "), (trained, "epoch ")):
        assert ended.code == 0, ended.err
        before = ended.out.split(first)[0]
        assert "data rare: 2 classes, defect and ok; validation: 7 of the 28 images" in before
        assert "warning: class ok has 86 % of the images" in before
        assert ": defect 1, ok 6" in before


def test_scaling_without_a_run_says_what_it_uses(command: Command, here: Path) -> None:
    ended = command("scale", "--phi", "3", "--coefficients", "1.2,1.1,1.15", "--no-measure")
    assert ended.code == 0, ended.err
    assert "scaling efficientnet_b0" in ended.out
    family = pd.read_csv(here / "runs/efficientnet_b0/scale/family.csv")
    assert list(family["phi"]) == [0, 1, 2, 3]
    assert family["madds"].iloc[0] == 385814752
    assert not (here / "runs/efficientnet_b0/scale/grid.csv").exists()


@pytest.mark.parametrize("rule", ["depth", "width", "resolution", "fast"])
def test_scaling_by_a_rule(command: Command, here: Path, rule: str) -> None:
    assert command("scale", "--rule", rule, "--baseline", "mnasnet_a1", "--phi", "-1", "--no-measure").code == 0
    family = pd.read_csv(here / "runs/mnasnet_a1/scale/family.csv")
    assert list(family["phi"]) == [-1, 0]
    assert family["counted_ratio"].iloc[0] < 0.75


def test_counting_a_network(command: Command) -> None:
    ended = command("cost", "efficientnet_b0", "--check")
    assert ended.code == 0, ended.err
    assert "385,814,752" in ended.out
    assert "5,288,548" in ended.out
    assert ended.out.endswith("fvcore on the built network: 0 flops, 0 params\n")
    assert "1,404,928" in ended.out
    assert "1.34 MB in int8, 2.68 MB in fp16, 5.359 MB in fp32; weights: 5.044 MB in int8" in ended.out


def test_counting_for_a_script(command: Command) -> None:
    counted = json.loads(
        command("cost", "mobilenet_v2", "--json", "--check", "--resolution", "96", "--classes", "7").out
    )
    arch = Architecture.parse(counted["architecture"])
    names = ("madds", "flops", "params", "activations")
    assert {name: counted[name] for name in (*names, "peak")} == asdict(arch.cost(96, 7))
    assert max(part["peak"] for part in counted["parts"]) == counted["peak"]
    assert (counted["resolution"], counted["classes"], counted["channels"]) == (96, 7, 3)
    for name in names:
        assert sum(part[name] for part in counted["parts"]) == counted[name]
    assert counted["fvcore"] == {"flops": counted["flops"], "params": counted["params"]}
    counted = json.loads(command("cost", "ds_r1_k3_s1_c8 32px", "--json", "--latency").out)
    assert 0 < counted["latency"]["low"] <= counted["latency"]["median"] <= counted["latency"]["high"]


@pytest.mark.pictures
def test_counting_a_space_within_a_budget(command: Command, here: Path) -> None:
    space = SearchSpace.load(here / "small.toml")
    madds = sorted(arch.cost(48).madds for arch in space.enumerate())
    arguments = ["--space", "small.toml", "--max-madds", str(madds[4]), "--resolution", "48"]
    ended = command("cost", *arguments)
    assert ended.code == 0, ended.err
    assert f"small: {space.size} distinct networks; costs at 48 px" in ended.out
    fitting = sum(m <= madds[4] for m in madds)
    assert f"{fitting} networks, {100 * fitting / len(madds):.4g} % of the space (exact)" in ended.out
    (row,) = (line.split() for line in ended.out.splitlines() if line.startswith("madds"))
    assert row[1:3] == [format_count(madds[0]), format_count(madds[-1])]
    assert row[-1] == format_count(madds[4])
    assert "histogram: small_madds.png" in ended.out
    assert imread(here / "small_madds.png").std() > 0.05

    ended = command("cost", *arguments, "--max-params", "1G", "--out", "b.png")
    assert ended.code == 0, ended.err
    assert f"{fitting} networks" in ended.out
    assert (here / "b.png").is_file()


def test_the_published_families_beside_the_rule(command: Command) -> None:
    ended = command("cost", "--families")
    assert ended.code == 0, ended.err
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines() if line.startswith("B")}
    assert list(rows) == [f"B{i}" for i in range(8)]
    assert rows["B0"][5:7] == rows["B0"][10:12] == ["0.386G", "5.29M"]
    assert rows["B7"][1:7] == ["6", "2", "3.1", "600", "37.746G", "66.35M"]
    assert rows["B7"][7:10] == [f"{1.1**6:.3f}", f"{1.2**6:.3f}", str(round(224 * 1.15**6))]
    assert rows["B4"][-3:] == ["4.2B", "82.9", "%"]
    assert "cannot be computed from φ" in ended.out


BAD = [
    # search spaces
    ("search --space mnass", "nearest is 'mnas'"),
    ("search --space none.toml", "none.toml"),
    ("search --space .", "unknown search space '.'; known are efficientnet_v1"),
    ("search --space bad.toml", "bad.toml: not valid TOML", "stages = ["),
    ("search --space bad.toml", "bad.toml: unknown key 'stagess'; nearest is 'stages'", "stagess = []"),
    ("search --space bad.toml", "bad.toml: key 'stages' is missing", "stem = 8"),
    (
        "search --space bad.toml",
        "bad.toml: stage 1, column 7: kernel must be odd",
        'stages = ["ir_r1_k{3|4}_s1_e2_c8"]',
    ),
    ("search --space bad.toml", "bad.toml: stage 1, column 8: empty choice", 'stages = ["ir_r1_k{}_s1_e2_c8"]'),
    ("search --space bad.toml", "unknown op 'xx'", 'stages = ["xx_r1_k3_s1_e2_c8"]'),
    # options
    ("search --trials 0", "--trials"),
    ("search --trials many", "--trials"),
    ("search --trails 3", "--trails"),
    ("search --max-madds huge", "--max-madds: 'huge' is not a positive count"),
    ("search --max-madds 1", "no network has at most 1 madds; the space reaches from"),
    ("search --max-madds 200K --min-madds 300K", "--min-madds 300K is above --max-madds 200K"),
    ("search --min-madds 500K", "at least 500K madds and at most 400K madds exclude each other"),
    ("search --max-memory 5ms", "--max-memory: '5ms' is not a positive number of bytes"),
    ("search --max-memory 1KB", "no network has at most 1 KB memory; the space reaches from"),
    ("search --max-latency nan", "--max-latency: 'nan' is not a positive duration"),
    ("cost --space small.toml --max-activations -1", "--max-activations: '-1' is not a positive count"),
    ("cost efficientnet_b0 --max-memory 1MB", "--max-memory does not go with a network"),
    ("search --objectives speed,accuracy", "--objectives: unknown 'speed'"),
    ("search --sampler best", "--sampler 'best'"),
    ("search --recipe fast", "unknown recipe 'fast'; "),
    ("search --recipe bad.toml", "bad.toml: epochs must be a whole number, got many", 'epochs = "many"'),
    ("search --recipe bad.toml", "bad.toml: unknown key 'until'", "until = [1]"),
    ("search --reward v3", "--reward 'v3': nearest is 'v"),
    ("search --time-budget soon", "--time-budget: 'soon' is not a positive duration"),
    ("search --device cuda:77", "device 'cuda:77' is not here"),
    ("search --epochs 0", "--epochs"),
    ("search --seed -1", "--seed"),
    ("search --confirm -1", "--confirm"),
    ("search --run ../x", "--run '../x'"),
    ("search --storage nonsense", "--storage 'nonsense' is not a database URL"),
    ("search --storage sqlite:////no/such/folder/x.db", "sqlite:////no/such/folder/x.db: cannot be opened"),
    # data
    ("search --data fashion", "did you mean fashion-mnist?"),
    ("search --data empty", "empty"),
    ("search --data small.toml", "small.toml"),
    # scaling and counting
    ("scale --baseline nobody", "no run of this name"),
    ("scale --baseline bad.toml", "bad.toml: stage 1, column 1: unknown op 'zz'", 'stages = ["zz_r1_k3_s1_e1_c8"]'),
    ("scale --coefficients 1.2,1.1", "--coefficients '1.2,1.1': give three positive numbers"),
    ("scale --coefficients 1,1,1 --rule fast", "exclude each other"),
    ("scale --rule best", "--rule 'best': unknown"),
    ("scale --phi 99", "--phi"),
    ("scale --phi 20 --rule resolution", "--phi 9: scaled too far: the resolution"),
    ("scale --step 0", "--step"),
    ("scale --tolerance 0 --step 0.3", "the nearest is"),
    ("cost efficientnet_b9", "nearest is 'efficientnet_b"),
    ("cost", "give one of a network, --space NAME or --families"),
    ("cost efficientnet_b0 --families", "given were a network and --families"),
    ("cost efficientnet_b0 --max-madds 400M", "--max-madds does not go with a network"),
    ("cost --families --json", "--json does not go with --families"),
    ("cost --families --resolution 240", "--resolution does not go with --families"),
    ("cost --space mnass", "nearest is 'mnas'"),
    ("cost --space small.toml --max-madds much", "--max-madds: 'much' is not a positive count"),
    ("cost --space small.toml --max-madds 1", "no network has at most 1 madds; the space reaches from"),
    ("cost --space small.toml --resolution 0", "resolution"),
    ("cost --space small.toml --out no/such.png", "--out no/such.png"),
    ("cost efficientnet_b0 --resolution 0", "resolution"),
    ("cost efficientnet_b0 --latency --device abacus", "device 'abacus' is not here"),
    ("cost efficientnet_b0 --latency --classes 10 --check", "--classes, --check: latency is measured with 3 channels"),
    ("cost efficientnet_b0 --latency --batch 0", "batch must be a whole number from 1"),
    ("cost efficientnet_b0 --latency --threads 0", "threads must be a whole number from 1"),
    ("cost ir_r1_k2_s1_e1_c8", "column 7: kernel must be odd"),
]


@pytest.mark.parametrize("case", BAD, ids=[case[0] for case in BAD])
def test_bad_input_gets_one_line_and_writes_nothing(
    command: Command, here: Path, images: Path, case: tuple[str, ...]
) -> None:
    call, said, *content = case
    (here / "bad.toml").write_text("".join(content))
    (here / "empty/train").mkdir(parents=True)
    name, *arguments = call.split()
    if name == "search" and "--space" not in arguments:
        arguments += ["--space", "small.toml"]
    if name == "search" and "--data" not in arguments:
        arguments += ["--data", str(images)]
    ended = command(name, *arguments)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert "Traceback" not in ended.out
    assert not list(here.glob("runs/*/*.toml"))


def test_a_run_that_cannot_be_continued(command: Command, here: Path, images: Path) -> None:
    assert command("search", *search_arguments(images, "--trials", "2", "--epochs", "1")).code == 0
    run, kept = here / "runs/r", here / "kept"
    run.rename(kept)

    def refused(said: str, *more: str) -> None:
        ended = command("search", *search_arguments(images, "--trials", "2", "--epochs", "1", *more))
        assert ended.code == 2
        assert ended.err.count("\n") == 1
        assert said in ended.err
        assert (run / "trials.csv").read_bytes() == (kept / "trials.csv").read_bytes()
        shutil.rmtree(run)
        shutil.copytree(kept, run)

    shutil.copytree(kept, run)
    database = run / "study.db"
    refused("this run was started with --seed 0, now it is 7", "--seed", "7")
    database.write_bytes(b"no database" * 1000)
    refused("study.db: cannot be opened as a study")
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    refused("study.db: cannot be opened as a study")
    with sqlite3.connect(database) as opened:
        opened.execute("update trial_user_attributes set value_json = '{'")
    opened.close()
    refused("study.db: cannot be opened as a study")
    database.unlink()
    refused("study.db: is missing")
    (run / "run.toml").write_text("arguments = [")
    refused("run.toml: not valid TOML")
    with FileLock(run / ".lock"):
        refused("another process has this run open")
    (here / "small.toml").write_text(SPACE.replace("{3|5}", "{3|7}"))
    refused("the search space has changed")


def test_a_run_with_options_that_are_gone(command: Command, here: Path, images: Path) -> None:
    """Early stopping and progressive learning: its tables can be read, it cannot be continued or repeated."""
    arguments = search_arguments(images, "--trials", "3", "--epochs", "1")
    assert command("search", *arguments).code == 0
    run = here / "runs/r"
    written = (run / "run.toml").read_text()
    with sqlite3.connect(run / "study.db") as database:  # a trial that was stopped
        database.execute("update trials set state = 'PRUNED' where number = 1")
        database.execute("delete from trial_values where trial_id = (select trial_id from trials where number = 1)")
    database.close()
    trials = pd.read_csv(run / "trials.csv")
    trials.loc[1, ["state", "mean_accuracy"]] = ["PRUNED", None]
    trials.to_csv(run / "trials.csv", index=False)
    for line, option in (("early_stopping = true", "--early-stopping"), ('progressive = "default"', "--progressive")):
        (run / "run.toml").write_text(written.replace("[arguments]", f"[arguments]\n{line}"))
        for given in (arguments, ["--from", "runs/r/run.toml"]):
            ended = command("search", *given)
            assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
            assert f"{option}, which nas.search no longer has" in ended.err
        assert command("report", "r").code == 0


def test_help_names_every_option_of_the_contract(command: Command) -> None:
    ended = command("search", "--help")
    assert ended.code == 0
    contract = "space data run trials time-budget epochs objectives max-madds min-madds max-params target-madds sampler"
    for option in [
        *contract.split(),
        "recipe",
        "confirm",
        "reward",
        "workers",
        "storage",
        "seed",
        "device",
    ]:
        assert f"--{option}" in ended.out
