"""How many trials of how many epochs a search makes of its time budget."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nas.runs.run import Run
from nas.search.effort import MOST_EPOCHS, TRIALS, Effort, effort_of
from nas.training.recipe import PROXY, Recipe
from tests.helpers.commands import Command

RECIPE = Recipe.load(PROXY)


def unmeasured() -> float:
    raise AssertionError("measured without need")


def test_without_a_time_budget_nothing_is_measured() -> None:
    assert effort_of(None, None, None, RECIPE, unmeasured) == Effort(TRIALS, RECIPE.epochs)
    assert effort_of(30, 4, 60.0, RECIPE, unmeasured) == Effort(30, 4)


@given(st.floats(0.001, 1e7), st.floats(1e-4, 1e4), st.integers(1, 100) | st.none(), st.integers(1, 50) | st.none())
def test_what_is_asked_for_is_kept_and_the_rest_fits(
    seconds: float, speed: float, trials: int | None, epochs: int | None
) -> None:
    found = effort_of(trials, epochs, seconds, RECIPE, lambda: speed)
    assert trials in (None, found.trials)
    assert epochs in (None, found.epochs)
    assert found.trials >= (trials or TRIALS)
    least = epochs or RECIPE.epochs
    assert least <= found.epochs <= max(least, MOST_EPOCHS)
    more = found.trials > (trials or TRIALS) or found.epochs > least
    assert not more or found.trials * found.epochs <= seconds * speed * (1 + 1e-9)
    if trials is None:  # what is left is too little for another network
        assert (found.trials + 1) * found.epochs > seconds * speed * (1 - 1e-9)


def test_longer_trainings_come_before_more_networks() -> None:
    efforts = [effort_of(None, None, passes, RECIPE, lambda: 1.0) for passes in (1, 24, 48, 72, 144)]
    assert efforts == [Effort(12, 2), Effort(12, 2), Effort(12, 4), Effort(12, 6), Effort(24, 6)]


def test_a_recipe_of_the_users_keeps_its_epochs() -> None:
    own = replace(RECIPE, name="own", epochs=3)
    assert effort_of(None, None, 360.0, own, lambda: 1.0) == Effort(120, 3)


def test_a_continued_run_keeps_the_epochs_that_its_time_budget_gave(command: Command, here: Path, images: Path) -> None:
    words = ["search", "--space", "small.toml", "--data", str(images), "--run", "r", "--workers", "1"]
    assert command(*words, "--time-budget", "1h", "--trials", "2").code == 0
    before = Run(here / "runs/r").config["arguments"]
    assert (before["trials"], before["epochs"]) == (2, MOST_EPOCHS)
    assert command(*words, "--trials", "3").code == 0
    after = Run(here / "runs/r").config["arguments"]
    assert (after["trials"], after["epochs"]) == (3, MOST_EPOCHS)
