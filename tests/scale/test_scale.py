"""Choosing and scaling from end to end, and its parts: successive halving, what is told apart, memory."""

import signal
import sqlite3
import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy import stats
from torch.profiler import ProfilerActivity, profile

from nas import Architecture
from nas.base.statistics import half_intervals
from nas.devices import memory
from nas.networks import scaling
from nas.networks.cost import Deployment
from nas.scale import config, trainings
from nas.scale.halving import FINALISTS, Network, SuccessiveHalving, error, gap, margin
from nas.scale.trainings import recipe_key
from nas.training.proxy import Job
from nas.training.recipe import Recipe
from nas.training.schedule import Schedule
from tests.helpers import needs
from tests.helpers.commands import Command
from tests.helpers.processes import interrupt

TINY = "ds_r1_k3_s1_e1_c8 ir_r2_k3_s2_e2_c16 48px stem8 head16"
OPTIONS = ["--baseline", "tiny.toml", "--workers", "1", "--no-measure"]


@pytest.fixture
def tiny(here: Path) -> Architecture:
    """A small baseline, in tiny.toml."""
    arch = Architecture.parse(TINY)
    (here / "tiny.toml").write_text(arch.to_toml())
    return arch


def halvings() -> st.SearchStrategy[SuccessiveHalving]:
    def made(count: int, always_kept: int | None, epochs: int, seeds: int) -> SuccessiveHalving:
        networks = tuple(Network(f"n{i}", 8) for i in range(count))
        return SuccessiveHalving(
            networks, networks[always_kept % count] if always_kept is not None else None, epochs, 0, seeds
        )

    return st.builds(made, st.integers(1, 40), st.none() | st.integers(0, 39), st.integers(1, 3), st.integers(1, 4))


@given(halvings(), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.3]))
def test_halving_keeps_the_best_whatever_the_order(halving: SuccessiveHalving, random, failing: float) -> None:
    known: dict[Job, float | None] = {}
    while left := [job for job in halving.plan(known) if job not in known]:
        known[random.choice(left)] = None if random.random() < failing else random.random()
    plan = halving.plan(known)
    assert len(set(plan)) == len(plan) == len(known)
    *rungs, final = halving.stages(known)
    assert len(plan) == halving.total or None in known.values()
    alive = set(halving.networks)
    scores: dict[Network, float | None] = {}
    for stage, (size, epochs) in zip([*rungs, final], [*halving.rungs, (FINALISTS, halving.final_epochs)], strict=True):
        assert set(stage) <= alive
        assert len(stage) == min(size, len(alive))
        assert (halving.always_kept in alive) == (halving.always_kept in stage)
        others = [scores[network] for network in stage if network != halving.always_kept and scores]
        assert all(scores[out] <= min(others) for out in alive - set(stage) if others)
        assert {job.epochs for jobs in stage.values() for job in jobs} <= {epochs}
        scores = {network: known[jobs[0]] for network, jobs in stage.items()}
        alive = {network for network, score in scores.items() if score is not None}
    used = {job.seed for stage in rungs for jobs in stage.values() for job in jobs}
    assert not used & {job.seed for jobs in final.values() for job in jobs}


def test_rungs_cost_alike() -> None:
    halving = SuccessiveHalving(tuple(Network(f"n{i}", 8) for i in range(28)), None, 1, 0, 3)
    assert halving.rungs == [(28, 1), (14, 2), (7, 4)]


@given(*[st.lists(st.integers(0, 1000), min_size=2, max_size=5)] * 2)
def test_a_gap_is_students_interval(one: list[int], other: list[int]) -> None:
    scores = {"one": [x / 1000 for x in one], "other": [x / 1000 for x in other]}
    found = gap(scores, "one", "other")
    if len(set(one)) == len(set(other)) == 1:
        assert found.margin == pytest.approx(0)
        return
    tested = stats.ttest_ind(scores["one"], scores["other"])
    assert (tested.pvalue < 0.05) == found.distinguishable
    interval = tested.confidence_interval(0.95)
    assert (found.difference - found.margin, found.difference + found.margin) == pytest.approx(tuple(interval))


def test_one_training_each_tells_nothing() -> None:
    found = gap({"a": [0.9], "b": [0.1]}, "a", "b")
    assert not found.distinguishable
    assert margin({"a": [0.9, 0.92], "b": [0.1]}, "b") == pytest.approx(12.7062 * 0.0141421, rel=1e-4)
    assert error({"a": [0.9, 0.92], "b": [0.1]}, "a") == pytest.approx(0.01)
    assert half_intervals([0.01, 0.02], [1, 0]) == pytest.approx([0.127062, 0.0392], rel=1e-4)


@pytest.mark.parametrize("text", [TINY, "er_r2_k3_s2_e4_c24 ir_r2_k5_s2_e4_c40_se0.25 96px stem16 head64"])
def test_predicted_memory_is_what_the_allocator_gives(text: str) -> None:
    arch, batch = Architecture.parse(text), 8
    model = arch.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, arch.resolution, arch.resolution)

    def step() -> None:
        model(images).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # moments are there from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    grown = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    there = 3 * 4 * arch.cost().params + images.nbytes
    assert memory.training_memory(arch, batch) == pytest.approx(there + grown.max(), rel=0.1)
    assert memory.least_memory(arch) < memory.training_memory(arch, 2)


def test_the_choice_of_a_grid(command: Command, here: Path, images: Path, tiny: Architecture) -> None:
    arguments = [*OPTIONS, "--phi", "1", "--data", str(images), "--step", "0.1", "--seeds", "2"]
    ended = command("scale", *arguments)
    assert ended.code == 0, ended.err
    folder = here / "runs/tiny/scale"
    grid = pd.read_csv(folder / "grid.csv")
    assert ",".join(grid.columns).startswith("alpha,beta,gamma,product,counted_ratio,accuracy")
    paper = grid[grid["paper"]].iloc[0]
    assert tuple(paper[["alpha", "beta", "gamma"]]) == scaling.PAPER
    last = grid[grid["stage"] == grid["stage"].max()].drop_duplicates("hash")
    assert paper["hash"] in set(last["hash"])
    assert len(last) == FINALISTS
    assert (last["trainings"] == 2).all()
    picked = grid[grid["picked"]].iloc[0]
    assert picked["accuracy"] == last["accuracy"].max()
    for row in grid.itertuples():
        arch = tiny.scale(row.alpha, row.beta, row.gamma)
        assert arch.hash == row.hash
        assert row.counted_ratio == pytest.approx(arch.cost().madds / tiny.cost().madds)
        assert row.image_size == max(8, round(28 * arch.resolution / grid["resolution"].max()))
    same = grid.groupby("hash")["first_accuracy"].nunique()
    assert (same == 1).all()
    assert same.size < len(grid)  # some triples round to one network, which is trained once
    with sqlite3.connect(folder.parent / "study.db") as database:
        ((count,),) = database.execute("select count(*) from trials")
    sizes = [same.size]
    while sizes[-1] // 2 > 2 * FINALISTS:
        sizes.append(sizes[-1] // 2)
    assert count == sum(sizes) + 2 * FINALISTS
    assert "distinguishable from the runner-up" in ended.out
    assert "the paper's α 1.2 β 1.1 γ 1.15" in ended.out

    again = command("scale", *arguments)
    assert again.code == 0
    assert not any(line.startswith("trial ") for line in again.out.splitlines())
    assert pd.read_csv(folder / "grid.csv").equals(grid)

    more = command("scale", *arguments[:-1], "3")  # one seed more: what is trained is kept
    assert sum(line.startswith("trial ") for line in more.out.splitlines()) == FINALISTS


@needs.fork
def test_an_interrupted_choice_ends_like_one_that_was_not(
    command: Command, here: Path, images: Path, tiny: Architecture
) -> None:
    arguments = [*OPTIONS, "--phi", "1", "--data", str(images), "--seeds", "2", "--step", "0.2", "--epochs", "2"]
    interrupt(here, "scale", arguments, "tiny", signal.SIGKILL, finished=2)
    ended = command("scale", *arguments)
    assert ended.code == 0, ended.err
    assert command("scale", *arguments, "--run", "whole").code == 0
    one, other = (
        pd.read_csv(here / f"runs/{name}/scale/grid.csv").drop(columns="total_seconds") for name in ("tiny", "whole")
    )
    assert one.equals(other)


def test_matching_counted_ratios(command: Command, here: Path, images: Path, tiny: Architecture) -> None:
    arguments = [*OPTIONS, "--phi", "1", "--data", str(images), "--match", "counted", "--tolerance", "0.03"]
    ended = command("scale", *arguments, "--seeds", "1", "--step", "0.2")
    assert ended.code == 0, ended.err
    grid = pd.read_csv(here / "runs/tiny/scale/grid.csv")
    found = grid[~grid["paper"]]
    assert ((found["counted_ratio"] - 2).abs() <= 0.03).all()
    assert (found["product"] - 2).abs().max() > 0.03
    assert found["moved"].abs().max() > 0
    family = pd.read_csv(here / "runs/tiny/scale/family.csv")
    picked = grid[grid["picked"]].iloc[0]
    assert family["counted_ratio"].iloc[-1] == pytest.approx(picked["counted_ratio"])
    assert Architecture.load(here / "runs/tiny/scale/phi_1.toml").hash == picked["hash"]


@pytest.mark.pictures("rules.png", "family.png")
def test_the_best_rule_and_the_accuracy_of_its_family(
    command: Command, here: Path, images: Path, tiny: Architecture
) -> None:
    arguments = [*OPTIONS, "--rule", "auto", "--coefficients", "1.2,1.1,1.15", "--phi", "-1..1", "--train"]
    ended = command("scale", *arguments, "--data", str(images), "--seeds", "2")
    assert ended.code == 0, ended.err
    folder = here / "runs/tiny/scale"
    rules = pd.read_csv(folder / "rules.csv")
    assert set(rules["rule"]) == {"compound", "depth", "width", "resolution", "fast"}
    assert (rules["counted_ratio"] - 2).abs().max() < 0.1
    assert (rules["trainings"] == 2).all()
    best = rules[rules["picked"]].iloc[0]
    assert best["accuracy"] == rules["accuracy"].max()
    assert f"rule: {best['rule']}" in ended.out
    assert tomllib.loads((folder / "scale.toml").read_text())["rule"] == best["rule"]
    family = pd.read_csv(folder / "family.csv")
    assert list(family["phi"]) == [-1, 0, 1]
    assert np.allclose(family["width"], best["beta"] ** family["phi"])
    assert np.allclose(
        family["nominal_ratio"], (best["alpha"] * best["beta"] ** 2 * best["gamma"] ** 2) ** family["phi"]
    )
    assert family["accuracy"].between(0, 1).all()
    assert (family["trainings"] == 2).all()
    for picture in ("rules.png", "family.png"):
        assert imread(folder / picture).std() > 0.03
    assert "not beside it, being its baseline or never of such MAdds: EfficientNet-B0, MnasNet-A1, MobileN" in ended.out
    again = command("scale", *arguments, "--data", str(images), "--seeds", "2")
    assert not any(line.startswith("trial ") for line in again.out.splitlines())


def test_the_columns_of_a_family(command: Command, here: Path, tiny: Architecture) -> None:
    """Members of an earlier, longer family stay: a training may name them."""
    given = ["--baseline", "tiny.toml", "--coefficients", "1.2,1.1,1.15"]
    assert command("scale", *given, "--phi", "3", "--no-measure").code == 0
    ended = command("scale", *given, "--phi", "0..1.5")
    assert ended.code == 0, ended.err
    assert "of earlier families, kept: phi_2.toml, phi_3.toml" in ended.out
    folder = here / "runs/tiny/scale"
    family = pd.read_csv(folder / "family.csv")
    begin = "phi,depth,width,resolution,madds,flops,params,activations,nominal_ratio,counted_ratio"
    assert ",".join(family.columns).startswith(begin)
    assert sorted(path.name for path in folder.glob("phi_*")) == [
        f"phi_{phi}.toml" for phi in ("0", "1.5", "1", "2", "3")
    ]
    for row in family.itertuples():
        arch = Architecture.load(folder / f"phi_{row.phi:g}.toml")
        assert arch == tiny.scale(1.2**row.phi, 1.1**row.phi, 1.15**row.phi)
        assert row.hash == arch.hash
        assert row.nominal_ratio == pytest.approx((1.2 * 1.1**2 * 1.15**2) ** row.phi)
        assert row.train_memory == memory.training_memory(arch, row.train_memory_batch)
        assert row.dropout == pytest.approx(0.2 + 0.05 * row.phi)
        about = tomllib.loads((folder / f"phi_{row.phi:g}.toml").read_text())["about"]
        assert about["madds"] == row.madds
        assert about["resolution"] == row.resolution == arch.resolution
    assert not {"pixels", "latency"} & set(family.columns)
    assert set(family["train_memory_source"]) == {"predicted"}
    assert (family["latency_measured_low"] <= family["latency_measured"]).all()
    assert family["latency_source"].str.startswith("measured: cpu").all()


def test_published_networks_are_trained_beside_a_family(command: Command, here: Path, images: Path) -> None:
    """At the members' costs, with the noise between the members' trainings."""
    text = "28px stem8 ds_r1_k3_s1_c8 ir_r2_k3_s1_e3_c16_se0.25 ir_r3_k3_s2_e4_c24_se0.25 head64"
    (here / "base.toml").write_text(Architecture.parse(text).to_toml())
    arguments = ["--baseline", "base.toml", *OPTIONS[2:], "--coefficients", "1.2,1.1,1.15", "--phi", "0"]
    arguments += ["--data", str(images), "--train", "--seeds", "2", "--epochs", "1"]
    ended = command("scale", *arguments)
    assert ended.code == 0, ended.err
    assert "to train: 1 member, 2 times each, and 3 published networks of their costs, 1 time each: 5" in ended.out
    folder = here / "runs/base/scale"
    family, published = (pd.read_csv(folder / name) for name in ("family.csv", "published.csv"))
    begin = "name,member,phi,depth,width,resolution,madds,flops,params,activations,counted_ratio"
    assert ",".join(published.columns).startswith(begin)
    assert published["accuracy"].between(0, 1).all()
    assert (published["trainings"] == 1).all()
    assert (published["error_freedom"] == 1).all()
    assert (family["error_freedom"] == 1).all()
    assert published["accuracy_error"].to_numpy() == pytest.approx(2**0.5 * family["accuracy_error"].iloc[0])
    largest = max(family["resolution"].max(), published["resolution"].max())
    for row in [*family.itertuples(), *published.itertuples()]:
        assert row.image_size == round(28 * row.resolution / largest)
    for row in published.itertuples():
        assert row.madds == Architecture.parse(row.architecture).cost().madds
        assert row.madds == pytest.approx(family.set_index("phi").loc[row.member, "madds"], rel=0.25)
    assert command("scale", *arguments, "--published", "0").code == 0
    assert not (folder / "published.csv").exists()


def test_a_family_in_steps_that_keeps_parts(command: Command, here: Path, tiny: Architecture) -> None:
    arguments = [*OPTIONS, "--coefficients", "1.2,1.1,1.15", "--resolution-step", "16", "--keep", "ends,stem"]
    assert command("scale", *arguments, "--phi", "3").code == 0
    folder = here / "runs/tiny/scale"
    family = pd.read_csv(folder / "family.csv")
    for row in family.itertuples():
        arch = Architecture.load(folder / f"phi_{row.phi:g}.toml")
        assert arch == tiny.scale(1.2**row.phi, 1.1**row.phi, 1.15**row.phi, keep=("stem", "ends"), step=16)
        assert row.madds == arch.cost().madds
        assert row.resolution == arch.resolution
    assert family["resolution"].tolist() == [48, 48, 64, 80]  # 48, 55.2, 63.5 and 73 to multiples of 16
    saved = tomllib.loads((folder / "scale.toml").read_text())["arguments"]
    assert (saved["resolution_step"], saved["keep"]) == (16, "ends,stem")
    assert not (folder / "published.csv").exists()  # none of them comes to so few MAdds

    solved = command("scale", *arguments, "--max-madds", "4M", "--match", "counted")
    assert solved.code == 0, solved.err
    family = pd.read_csv(folder / "family.csv")
    assert (family["resolution"] % 16 == 0).all()
    deployment, phi = Deployment(resolution_step=16, keep=("stem", "ends")), family["phi"].iloc[-1]
    above = scaling.member(tiny, scaling.paper(), phi + 1 / scaling.FINEST, 2.0, deployment)
    assert family["madds"].iloc[-1] <= 4e6 < above.cost.madds


def test_a_rule_whose_family_cannot_be_is_left_out_before_any_training(
    command: Command, here: Path, images: Path, tiny: Architecture
) -> None:
    """No resolution brings a network to more parameters."""
    arguments = [*OPTIONS, "--rule", "auto", "--coefficients", "1.2,1.1,1.15", "--max-params", "40K"]
    ended = command("scale", *arguments, "--data", str(images), "--seeds", "1")
    assert ended.code == 0, ended.err
    assert "resolution is left out: --max-params 40K: the largest network that this rule gives" in ended.out
    rules = pd.read_csv(here / "runs/tiny/scale/rules.csv")
    assert set(rules["rule"]) == {"compound", "depth", "width", "fast"}
    assert pd.read_csv(here / "runs/tiny/scale/family.csv")["params"].max() <= 40_000


@pytest.mark.parametrize(("option", "value", "factor"), [("madds", "4M", 1.02), ("params", "40K", 1.05)])
def test_scaling_to_a_budget(
    command: Command, here: Path, tiny: Architecture, option: str, value: str, factor: float
) -> None:
    ended = command("scale", *OPTIONS, "--rule", "fast", f"--max-{option}", value)
    assert ended.code == 0, ended.err
    family = pd.read_csv(here / "runs/tiny/scale/family.csv")
    limit = {"madds": 4e6, "params": 40e3}[option]
    assert family[option].iloc[-1] <= limit < factor * 1.3 * family[option].iloc[-1]
    rule = scaling.rule_coefficients("fast")
    above = scaling.member(tiny, rule, family["phi"].iloc[-1] + 1 / scaling.FINEST)
    assert getattr(above.cost, option) > limit


def test_scaling_to_a_latency(
    command: Command, here: Path, tiny: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device on which a million multiply-adds take a millisecond."""
    measured = []

    def measure(arch: Architecture, *_: object):
        measured.append(arch)
        return type("Measured", (), {"median": arch.cost().madds * 1e-9})

    monkeypatch.setattr(config.latency, "measure", measure)
    ended = command("scale", *OPTIONS, "--rule", "width", "--max-latency", "5ms")
    assert ended.code == 0, ended.err
    family = pd.read_csv(here / "runs/tiny/scale/family.csv")
    assert 4e6 < family["madds"].iloc[-1] <= 5e6
    assert len(set(measured)) == len(measured)


def test_a_network_that_memory_cannot_hold(
    command: Command, here: Path, tiny: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000)
    ended = command("scale", *OPTIONS, "--coefficients", "1.2,1.1,1.15", "--phi", "6")
    assert ended.code == 2
    assert "too large for memory" in ended.err
    assert not (here / "runs").exists()


def test_a_baseline_of_another_space_or_run(command: Command, here: Path, images: Path, tiny: Architecture) -> None:
    run = ["--space", "small.toml", "--data", str(images), "--run", "r", "--trials", "2", "--workers", "1"]
    assert command("search", *run).code == 0
    other = command("scale", "--baseline", "tiny.toml", "--run", "r", "--rule", "fast")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "that run has a baseline of its own" in other.err
    (here / "runs/r/baseline.toml").write_text(Architecture.parse(TINY.replace("head16", "head24")).to_toml())
    ended = command("scale", "--baseline", "r", "--rule", "fast")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "baseline.toml: not in the space small" in ended.err
    (here / "runs/r/baseline.toml").unlink()
    assert "has no front yet" in command("scale", "--baseline", "r", "--rule", "fast").err
    assert not (here / "runs/r/scale").exists()


BAD = [
    ("--phi 3 --max-madds 1G", "--phi and --max-madds exclude each other"),
    ("--min-madds 1G", "--min-madds: φ is solved for a maximum"),
    ("--max-madds 1G --min-madds 2G", "--min-madds 2G is above --max-madds 1G"),
    ("--max-madds 4M --min-params 1G", "no φ has at most 4M madds and at least 1G params"),
    ("--max-memory nan", "--max-memory: 'nan' is not a positive number of bytes"),
    ("--max-madds lots", "--max-madds: 'lots' is not a positive count"),
    ("--max-latency 5x", "--max-latency: '5x' is not a positive duration"),
    ("--rule resolution --max-params 20M", "--max-params 20M: the largest network that this rule gives"),
    ("--rule depth --max-madds 1K", "--max-madds 1K: "),
    ("--coefficients 1.2,0.9,1.1 --max-madds 1G", "needs coefficients of at least 1"),
    ("--coefficients 0.5,1.1,1.1 --phi 3", "needs coefficients of at least 1, got α 0.5 β 1.1 γ 1.1"),
    ("--match exactly", "--match 'exactly': known are counted, nominal"),
    ("--match counted --tolerance 0 --step 0.5", "has a counted ratio within 0 of 2"),
    ("--rule d1_w8", "--rule 'd1_w8': "),
    ("--rule d0_w0_r0", "one of the weights must be above 0"),
    ("--target 1 --rule fast", "--target 1.0: must be above 1"),
    ("--phi 7..0", "--phi 7..0: the range falls; write 0..7"),
    ("--phi much", "--phi 'much': give a number from -20 to 20"),
    ("--seeds 0", "--seeds"),
    ("--resolution-step 0", "'--resolution-step': Input should be greater than or equal to 1"),
    ("--resolution-step half", "'--resolution-step': Input should be a valid integer"),
    ("--resolution-step 512 --rule fast", "--phi 0: scaled too far: the resolution would be 0 px in steps of 512"),
    ("--keep stem,tail", "--keep 'tail': known are ends, head, stem; name one or more, as stem,head,ends"),
    ("--keep ends, --rule fast", "--keep '': known are"),
    ("--published -1", "'--published': Input should be greater than or equal to 0"),
    ("--phi 20 --coefficients 1.2,1.1,1.15 --baseline efficientnet_b0", "too large for memory"),
    ("--storage nonsense", "--storage 'nonsense' is not a database URL"),
]


@pytest.mark.parametrize("case", BAD, ids=[case[0] for case in BAD])
def test_bad_input_gets_one_line_and_writes_nothing(
    command: Command, here: Path, tiny: Architecture, case: tuple[str, str]
) -> None:
    call, said = case
    arguments = call.split()
    if "--baseline" not in arguments:
        arguments += ["--baseline", "tiny.toml"]
    ended = command("scale", *arguments)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert not list(here.glob("runs/*/*.toml"))
    assert not list(here.glob("runs/*/scale/*"))


def test_the_key_of_a_training_is_all_of_its_recipe() -> None:
    """A field added to Recipe has to join it; epochs are the job's own, and the name is for the reader."""
    other = Recipe(
        **{"name": "other", "epochs": 7, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1, "body_rate": 0.1},
        **{"weight_decay": 0.1, "warmup": 0.2, "clip": 1.0, "ema": 0.9, "label_smoothing": 0.1, "dropout": 0.1},
        **{"drop_path": 0.1, "crop": 0.5, "shift": 0.1, "flip": False, "randaugment": 5, "erase": 0.1, "mixup": 0.1},
        **{"cutmix": 0.1, "unfreeze": 0.1, "progressive": Schedule.load("default")},
    )
    for field in fields(Recipe):
        changed = replace(Recipe(), **{field.name: getattr(other, field.name)})
        assert (recipe_key(changed) != recipe_key(Recipe())) == (field.name not in ("name", "epochs")), field.name


def test_the_trainings_of_older_versions_keep_their_key() -> None:
    """Word for word, whatever recipes have gained; those of a run's baseline named the data's image size too."""
    key = (
        '{"batch_size": 64, "clip": 0.0, "drop_path": 0.0, "dropout": 0.0, "flip": true, "label_smoothing": 0.0, '
        '"learning_rate": 0.004, "optimizer": "adamw", "shift": 0.0, "warmup": 0.2, "weight_decay": 0.05}'
    )
    assert recipe_key(Recipe.load("proxy")) == key
    job, longer = Job("a", 1, 28, 2), key.replace('"label', '"image_size": 28, "label')
    for text in (f"data {key}", f"data {longer}", f"data {longer} balanced_accuracy"):
        assert trainings._job({"job": {**asdict(job), "key": text}}, f"data {key}") == job
    assert trainings._job({"job": {**asdict(job), "key": f"others {longer}"}}, f"data {key}") is None
