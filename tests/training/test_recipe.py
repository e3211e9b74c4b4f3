"""Recipes and schedules: what their files say, those of their sources, and what cannot be."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from nas.base.errors import UserError
from nas.networks.architecture import bundled_names
from nas.training import recipe, schedule
from nas.training.recipe import Recipe
from nas.training.schedule import Phase, Schedule

GOOD = "until = [0.5, 1]\nsize = [1, 2]\nrandaugment = [5, 9]\nmixup = [0, 0.2]\ndropout = [0, 0.1]\n"


def test_the_bundled_recipes_are_those_of_their_sources() -> None:
    assert bundled_names(recipe.BUNDLED) == ["default", "efficientnet_v1", "efficientnet_v2", "finetune", "proxy"]
    first, second = (Recipe.load(f"efficientnet_v{i}") for i in (1, 2))
    assert first.optimizer == second.optimizer == "rmsprop"
    assert first.for_batch(4096).learning_rate == pytest.approx(second.learning_rate) == pytest.approx(0.256)
    assert first.warmup * first.epochs == pytest.approx(5, abs=0.01)
    assert second.progressive is not None
    assert second.phase(0.99, 300).randaugment == 15
    assert Recipe(learning_rate=0.1).for_batch(256).learning_rate == pytest.approx(0.2)  # adamw: by the root


@pytest.mark.parametrize("change", [{"epochs": 0}, {"warmup": 1.0}, {"learning_rate": math.nan}, {"optimizer": "lamb"}])
def test_impossible_recipes(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(change))} must be"):
        replace(Recipe(), **change)  # type: ignore[arg-type]


def test_the_recipe_of_a_search_is_read_from_its_run() -> None:
    """That of an older version has fewer fields, and others beside; without any, it is the one of searches."""
    made = Recipe.load("efficientnet_v2")
    assert made.progressive
    facts = {"proxy": {**made.table(), "classes": 10}, "progressive": made.progressive.table()}
    assert Recipe.of_run(facts, "run.toml") == made
    old = {"epochs": 2, "batch_size": 64, "learning_rate": 0.004, "warmup": 0.2, "image_size": 28, "classes": 10}
    assert Recipe.of_run({"proxy": old}, "run.toml") == Recipe.of_run({}, "run.toml") == Recipe.load("proxy")
    with pytest.raises(UserError, match=r"r/run\.toml, proxy: epochs must be from 1"):
        Recipe.of_run({"proxy": {**old, "epochs": 0}}, "r/run.toml")


def test_frozen_parts_are_freed_from_the_last() -> None:
    unfreezing = Recipe(unfreeze=0.5)
    assert [unfreezing.frozen(epoch / 10, 4) for epoch in range(10)] == [4, 3, 2, 2, 1, 0, 0, 0, 0, 0]
    assert Recipe().frozen(0.9, 4) == 4


def test_the_bundled_schedules_are_those_of_their_sources() -> None:
    assert bundled_names(schedule.BUNDLED) == ["default", *(f"efficientnet_v2_{size}" for size in "lms")]
    default = Schedule.load("default")
    reached = [default.at(progress, 300).size for progress in (0, 0.29, 0.3, 0.59, 0.6, 0.89, 0.9, 0.999)]
    assert reached == [128, 128, 192, 192, 256, 256, 300, 300]
    assert [default.at(progress, 32).size for progress in (0, 0.3, 0.6, 0.9)] == [14, 20, 27, 32]
    ends = {"s": (300, 15, 0, 0.3), "m": (380, 20, 0.2, 0.4), "l": (380, 25, 0.5, 0.5)}
    for name, (size, magnitude, alpha, dropout) in ends.items():
        growing = Schedule.load(f"efficientnet_v2_{name}")
        assert growing.at(0, size) == Phase(128, 5, 0, 0.1)
        assert growing.at(0.99, size) == Phase(size, magnitude, alpha, dropout)
        assert [a <= b for a, b in zip(growing.dropout, growing.dropout[1:], strict=False)] == [True] * 3
    assert Schedule.of(default.table(), "here") == default


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "until = [0.5, 1]",
            "until = [0.5, 0.9]",
            r"until must rise from stage to stage and end with 1, got \[0.5, 0.9",
        ),
        ("until = [0.5, 1]", "until = [1, 1]", "until must rise"),
        ("until = [0.5, 1]", "until = []", "until must have one entry a stage"),
        ("size = [1, 2]", "size = [2, 1]", "size must not fall"),
        ("size = [1, 2]", "size = [1, 2, 3]", "size must have one entry a stage, as until has, got 3"),
        ("size = [1, 2]", "size = 2", "size must be a list of numbers"),
        ("[5, 9]", "[5, 31]", "randaugment must be from 0 to 30, got 31"),
        ("[5, 9]", "[5, 9.5]", "randaugment must be a list of whole numbers"),
        ("[0, 0.1]", "[0, nan]", "dropout must be from 0 to 0.999, got nan"),
        ("mixup", "mix_up", "unknown key 'mix_up'; nearest is 'mixup'"),
        ("mixup = [0, 0.2]\n", "", "key 'mixup' is missing"),
    ],
)
def test_an_impossible_schedule_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(GOOD)
    assert Schedule.load(str(file)).name == "s"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        Schedule.load(str(file))
    assert "s.toml" in str(caught.value)
    with pytest.raises(UserError, match="unknown schedule 'defualt'; nearest is 'default'"):
        Schedule.load("defualt")
