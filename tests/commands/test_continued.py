"""Runs that go on further than they were asked to at first, and directories that are another command's run."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas import Architecture
from nas.runs.lookup import default_name
from tests.helpers.commands import NET, RECIPE, Command, search_arguments, train_arguments

TRAINED = ["trial", "state", "accuracy", "seed", "architecture"]
FAMILY = ("--coefficients", "1.2,1.1,1.15", "--no-measure", "--workers", "1", "--epochs", "1", "--baseline", "b.toml")


def run_arguments(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((run / "run.toml").read_text())["arguments"]
    return found


def test_a_search_goes_on_to_more_trials(command: Command, here: Path, images: Path) -> None:
    run = here / "runs/r"
    assert command("search", *search_arguments(images, "--trials", "3")).code == 0
    first = pd.read_csv(run / "trials.csv")
    facts = tomllib.loads((run / "run.toml").read_text())
    ended = command("search", *search_arguments(images, "--trials", "6"))
    assert ended.code == 0, ended.err
    assert "3 of 6 trials done" in ended.out
    after = pd.read_csv(run / "trials.csv")
    assert after[TRAINED][:3].equals(first[TRAINED])
    facts["arguments"]["trials"] = 6
    assert tomllib.loads((run / "run.toml").read_text()) == facts

    assert command("search", *search_arguments(images, "--trials", "6", "--run", "whole")).code == 0
    assert after[TRAINED].equals(pd.read_csv(here / "runs/whole/trials.csv")[TRAINED])

    fewer = command("search", *search_arguments(images, "--trials", "2"))  # nothing more is trained, nothing is lost
    assert fewer.code == 0, fewer.err
    assert "\ntrial " not in fewer.out
    assert pd.read_csv(run / "trials.csv").equals(after)
    assert run_arguments(run)["trials"] == 2


def test_a_search_goes_on_for_longer(command: Command, here: Path, images: Path) -> None:
    short = command("search", *search_arguments(images, "--time-budget", "0.001s"))
    assert short.code == 0, short.err
    assert "time budget spent" in short.out
    longer = command("search", *search_arguments(images, "--time-budget", "1h"))
    assert longer.code == 0, longer.err
    assert len(pd.read_csv(here / "runs/r/trials.csv")) == 6
    assert run_arguments(here / "runs/r")["time_budget"] == "1h"
    assert command("search", *search_arguments(images)).code == 0
    assert "time_budget" not in run_arguments(here / "runs/r")


def test_a_front_is_confirmed_afterwards(command: Command, here: Path, images: Path) -> None:
    """More repeats or none, whatever is asked of it later: those that were made count."""
    run = here / "runs/r"
    arguments = search_arguments(images, "--trials", "4", "--epochs", "1")
    single = command("search", *arguments)
    assert "unconfirmed" in single.out
    assert "new run" not in single.out
    once = command("search", *arguments, "--confirm", "1")
    assert once.code == 0, once.err
    assert set(pd.read_csv(run / "repeats.csv")["repeat"]) == {1}
    twice = command("search", *arguments, "--confirm", "2")
    assert twice.code == 0, twice.err
    assert run_arguments(run)["confirm"] == 2
    assert set(pd.read_csv(run / "repeats.csv")["repeat"]) == {1, 2}
    kept = {name: (run / name).read_bytes() for name in ("trials.csv", "repeats.csv", "pareto.csv")}
    none = command("search", *arguments)
    assert none.code == 0, none.err
    assert "noise of one training" in none.out
    assert kept == {name: (run / name).read_bytes() for name in kept}

    straight = command("search", *arguments, "--confirm", "2", "--run", "whole")
    assert straight.code == 0, straight.err
    made = ["trial", "repeat", "accuracy"]
    mine, others = (pd.read_csv(here / f"runs/{name}/repeats.csv")[made] for name in ("r", "whole"))
    assert set(map(tuple, others.to_numpy())) <= set(map(tuple, mine.to_numpy()))


def test_a_search_in_a_shared_storage_goes_on(command: Command, here: Path, images: Path) -> None:
    shared = ["--storage", f"sqlite:///{here}/shared.db"]
    assert command("search", *search_arguments(images, "--trials", "2", *shared)).code == 0
    shutil.move(here / "runs/r", here / "elsewhere")  # as another machine has it
    more = command(
        "search", *search_arguments(images, "--trials", "4", "--confirm", "1", "--time-budget", "1h", *shared)
    )
    assert more.code == 0, more.err
    assert len(pd.read_csv(here / "runs/r/trials.csv")) == 4
    assert (here / "runs/r/repeats.csv").exists()
    assert "--seed 0, now it is 7" in command("search", *search_arguments(images, "--seed", "7", *shared)).err


def test_other_arguments_are_still_refused(command: Command, images: Path) -> None:
    assert command("search", *search_arguments(images, "--trials", "1", "--epochs", "1")).code == 0
    ended = command("search", *search_arguments(images, "--trials", "2", "--epochs", "2"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--epochs 1, now it is 2 (the learning rate's schedule depends on it)" in ended.err


def test_a_family_grows(command: Command, here: Path, images: Path) -> None:
    (here / "b.toml").write_text(Architecture.parse(NET).to_toml())
    given = [*FAMILY, "--data", str(images), "--train"]
    assert command("scale", *given, "--phi", "0..1", "--seeds", "1").code == 0
    folder = here / "runs/b/scale"
    before = pd.read_csv(folder / "family.csv")
    more = command("scale", *given, "--phi", "0..1", "--seeds", "2")
    assert more.code == 0, more.err
    assert more.out.count("\ntrial ") == 2  # the second seed of both
    assert list(pd.read_csv(folder / "family.csv")["trainings"]) == [2, 2]
    assert tomllib.loads((folder / "scale.toml").read_text())["arguments"]["seeds"] == 2
    larger = command("scale", *given[:-1], "--phi", "0..3", "--seeds", "2")
    assert larger.code == 0, larger.err
    after = pd.read_csv(folder / "family.csv")
    assert list(after["phi"]) == [0, 1, 2, 3]
    assert after["architecture"][:2].equals(before["architecture"])
    assert tomllib.loads((folder / "scale.toml").read_text())["arguments"]["phi"] == "0..3"


def test_a_grid_takes_more_seeds(command: Command, here: Path, images: Path) -> None:
    (here / "b.toml").write_text(Architecture.parse(NET).to_toml())
    given = ["--baseline", "b.toml", "--data", str(images), "--no-measure", "--workers", "1", "--epochs", "1"]
    given += ["--step", "0.5", "--phi", "1"]
    assert command("scale", *given, "--seeds", "1").code == 0
    before = pd.read_csv(here / "runs/b/scale/grid.csv")["trainings"]
    more = command("scale", *given, "--seeds", "2")
    assert more.code == 0, more.err
    after = pd.read_csv(here / "runs/b/scale/grid.csv")["trainings"]
    assert after.max() == before.max() + 1
    assert "\ntrial " not in command("scale", *given, "--seeds", "2").out


def test_default_names_meet_no_other_commands_run(command: Command, here: Path, images: Path) -> None:
    (here / "r.toml").write_text(RECIPE)
    shutil.copy(here / "small.toml", here / "t.toml")
    (here / "nets").mkdir()
    (here / "nets/t.toml").write_text(Architecture.parse(NET).to_toml())
    given = ["--data", str(images), "--epochs", "1"]
    assert command("search", "--space", "t.toml", "--trials", "1", "--workers", "1", *given).code == 0
    assert command("train", "nets/t.toml", "--recipe", "r.toml", "--device", "cpu", *given).code == 0
    assert {path.name for path in (here / "runs").iterdir()} == {f"t-{images.name}", f"t-{images.name}-train"}


@pytest.mark.parametrize("words", [("mnas", "a-train"), ("x" * 200, "y"), ("x" * 94 + "-train",), ("mnas", "ä b/c")])
def test_no_default_name_ends_like_a_trainings(words: tuple[str, ...]) -> None:
    name, trained = default_name(*words), default_name(*words, trained=True)
    assert name.isascii()
    assert max(len(name), len(trained)) <= 100
    assert trained.endswith("-train")
    assert not name.endswith("-train")


def test_another_commands_run_is_told_in_one_line(command: Command, here: Path, images: Path) -> None:
    (here / "r.toml").write_text(RECIPE)
    (here / "b.toml").write_text(Architecture.parse(NET).to_toml())
    (here / "other.toml").write_text(Architecture.parse(NET.replace("head32", "head16")).to_toml())
    assert command("search", *search_arguments(images, "--trials", "1", "--epochs", "1", "--run", "s")).code == 0
    assert command("train", *train_arguments(images, "--epochs", "1", "--run", "t")).code == 0
    assert command("scale", *FAMILY, "--phi", "1", "--run", "f").code == 0
    for name, given, said in (
        ("train", train_arguments(images, "--run", "s"), "runs/s: is a run of nas.search; choose another --run NAME"),
        ("search", search_arguments(images, "--run", "t"), "runs/t: is a run of nas.train; choose another --run NAME"),
        (
            "search",
            search_arguments(images, "--run", "f"),
            "runs/f: holds a family of nas.scale; choose another --run NAME",
        ),
        (
            "train",
            train_arguments(images, "--run", "f"),
            "runs/f: holds a family of nas.scale; choose another --run NAME",
        ),
        ("scale", [*FAMILY, "--run", "s"], "runs/s: that run has a baseline of its own"),
        ("scale", [*FAMILY[:-1], "other.toml", "--run", "t"], "runs/t: that run has a network of its own"),
    ):
        ended = command(name, *given)
        assert (ended.code, ended.err.count("\n")) == (2, 1), (name, ended.err)
        assert said in ended.err
    (here / "runs/s/baseline.toml").unlink()  # as while its first trial is in training
    assert "is a search's run without a baseline yet" in command("scale", *FAMILY, "--run", "s").err
