"""The pick of a search: what it is told by, what is said where it is doubtful, and networks as they are deployed."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nas import Architecture, SearchSpace
from nas.networks.architecture import published_networks
from nas.runs.facts import space_of
from nas.runs.run import Run
from nas.search.config import Search
from nas.search.front import averaged, contenders, doubt_of, ranked, reason_of
from nas.search.results import source_of
from nas.selection.noise import Noise
from tests.helpers.commands import Command, search_arguments
from tests.helpers.searches import search_config

LOW, HIGH = 100_000, 400_000  # MAdds


@pytest.fixture
def config(here: Path, images: Path) -> Search:
    """A search of the small space by the hard reward."""
    space = SearchSpace.load(here / "small.toml").deployed(3, 3)
    return search_config(space, str(images), reward="hard", bounds={"madds": (0, HIGH)}, target_madds=HIGH)


def judged(config: Search, accuracies: list[float], madds: list[float], published: int | None = None) -> pd.DataFrame:
    """Trials of these accuracies and MAdds, each trained often alike but for a hair, as the search judges them.

    published: the trial of a published network.
    """
    space = config.space
    some = [str(space.decode(code)) for code in space.sample_codes(len(madds), seed=1)]
    table = pd.DataFrame(
        {
            **{"trial": range(len(madds)), "state": "COMPLETE", "architecture": some, "accuracy": accuracies},
            **{"madds": madds, "params": 1e4, "activations": 1e4, "step_seconds": 1.0},
            "name": ["some_network" if trial == published else None for trial in range(len(madds))],
        }
    )
    repeats = {trial: [a + 1e-4] * 30 for trial, a in enumerate(accuracies)}
    return ranked(*averaged(table, repeats, 10_000), config)


def picked(table: pd.DataFrame) -> int:
    return int(table[table["baseline"]]["trial"].item())


def test_the_most_accurate_within_the_target_is_picked(config: Search) -> None:
    table = judged(config, [0.5, 0.7, 0.8, 0.95], [1e5, 2e5, 3e5, 5e5])
    assert picked(table) == 2
    assert "the most accurate within 400K MAdds" in reason_of(table, config)
    assert contenders(table, "hard") == [2]
    assert doubt_of(table, config) == ""


def test_of_equally_good_ones_the_cheapest_is_picked(config: Search) -> None:
    table = judged(config, [0.5, 0.8, 0.8, 0.8], [1e5, 2e5, 3e5, 3.5e5])
    assert picked(table) == 1
    assert {1, 2} <= set(contenders(table, "hard"))


def test_a_published_network_stands_unless_another_is_better(config: Search) -> None:
    equal = judged(config, [0.5, 0.8, 0.8, 0.8], [1e5, 2e5, 3e5, 3.5e5], published=2)
    assert picked(equal) == 2
    assert "published" in reason_of(equal, config)
    better = judged(config, [0.5, 0.9, 0.8, 0.9], [1e5, 2e5, 3e5, 3.5e5], published=2)
    assert picked(better) == 1
    assert "published" not in reason_of(better, config)


def test_a_pick_at_a_bound_says_so_and_what_to_change(config: Search) -> None:
    lower = replace(config, target_madds=300_000, bounds={"madds": (0, 300_000)})
    assert "a larger --target-madds" in doubt_of(judged(lower, [0.5, 0.7, 0.9], [1e5, 2e5, 2.99e5]), lower)
    low, high = config.reach
    assert "a space with larger networks" in doubt_of(judged(config, [0.5, 0.7, 0.9], [1e5, 2e5, high]), config)
    assert "at the lower end" in doubt_of(judged(config, [0.9, 0.7, 0.5], [low, 2e5, 3e5]), config)


def test_the_soft_reward_warns_where_cost_alone_decides(config: Search) -> None:
    soft = replace(config, reward="soft")
    flat = judged(soft, [0.80, 0.801, 0.802], [1.2e5, 2e5, 4e5])
    assert picked(flat) == 0
    assert "prefers the cheapest network" in doubt_of(flat, soft)
    steep = judged(soft, [0.5, 0.7, 0.9], [1.2e5, 2e5, 3e5])
    assert picked(steep) == 2
    assert doubt_of(steep, soft) == ""


def test_the_noise_is_traced_to_the_training_or_to_the_images() -> None:
    assert "more images do not" in source_of(Noise(0.01**2, 5), 0.003)
    assert "more of them or --confirm" in source_of(Noise(0.0035**2, 5), 0.003)


def test_no_network_is_within_the_target(config: Search) -> None:
    table = judged(config, [0.8, 0.81], [5e5, 9e5])
    assert picked(table) == 0
    assert "no network is within" in reason_of(table, config)


def test_networks_are_counted_and_fitted_as_deployed(command: Command, here: Path, images: Path) -> None:
    """A space for 224 px, searched on images of 28: fitted, and its front and family counted at 28 px for 3 classes."""
    text = (here / "small.toml").read_text().replace("resolution = 28", "resolution = 224")
    text = text.replace("target_madds = 400000", "target_madds = 25600000")
    (here / "small.toml").write_text(text)
    ended = command("search", *search_arguments(images, "--trials", "2", "--epochs", "1"))
    assert ended.code == 0, ended.err
    assert "fitted from 224 to 28 px: widths x 0.25" in ended.out
    assert "costs are counted as deployed: 28 px, 3 channels, 3 classes" in ended.out
    run = Run(here / "runs/r")
    space = space_of(run.config)
    assert space is not None
    assert space == SearchSpace.load(here / "small.toml").fitted(28).deployed(3, 3)
    for row in run.trials.itertuples():
        arch = Architecture.parse(str(row.architecture))
        assert arch in space
        assert (row.resolution, row.image_size) == (28, 28)
        assert row.madds == arch.cost(28, 3, 3).madds
    assert run.config["arguments"]["target_madds"] == space.target_madds

    ended = command("scale", "--phi", "1", "--coefficients", "1.2,1.1,1.15", "--no-measure")
    assert ended.code == 0, ended.err
    for member in pd.read_csv(here / "runs/r/scale/family.csv").itertuples():
        assert member.madds == Architecture.parse(str(member.architecture)).cost(None, 3, 3).madds

    plain = ("--run", "plain", "--trials", "1", "--epochs", "1", "--no-fit", "--image-size", "16")
    ended = command("search", *search_arguments(images, *plain))
    assert ended.code == 0, ended.err
    assert "fitted" not in ended.out
    (row,) = Run(here / "runs/plain").trials.to_dict("records")
    assert (row["resolution"], row["image_size"]) == (28, 16)
    assert Architecture.parse(row["architecture"]).stem == 8


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--width", "0.5"), "--width: the space is not fitted to 28 px"),
        (("--resolution", "20", "--no-fit", "--width", "0.5"), "--width: the space is not fitted to 20 px"),
        (("--resolution", "20", "--width", "7"), "--width 7: want a factor from 0.01 to 1"),
        (("--reward", "v1"), "--reward 'v1'"),
        (("--target-madds", "1K"), "no network has at most 1K madds"),
        (("--max-madds", "1K"), "no network has at most 1K madds"),
    ],
)
def test_mistakes_are_said_in_one_line(
    command: Command, here: Path, images: Path, more: tuple[str, ...], said: str
) -> None:
    ended = command("search", *search_arguments(images, *more))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert said in ended.err
    assert not (here / "runs/r/run.toml").exists()


def test_published_networks_come_first_by_name(command: Command, here: Path, images: Path) -> None:
    """B0 is in the space of MnasNet: fitted, it is the first trial, and its name is in the tables."""
    arguments = ["--data", str(images), "--run", "b", "--trials", "1", "--epochs", "1", "--workers", "1"]
    ended = command("search", *arguments, "--resolution", "16", "--image-size", "16")
    assert ended.code == 0, ended.err
    assert "first trials: efficientnet_b0" in ended.out
    (row,) = Run(here / "runs/b").trials.to_dict("records")
    assert row["name"] == "efficientnet_b0"
    assert Architecture.parse(row["architecture"]) == published_networks(16)["efficientnet_b0"]
    about = tomllib.loads((here / "runs/b/baseline.toml").read_text())["about"]
    assert about["trial"] == 0
