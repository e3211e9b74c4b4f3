"""The loop that trains, with workers whose trainings end when the test says so."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial

from nas.base.metrics import Score
from nas.runs.trials import Plan, State, train_trials
from nas.runs.workers import Workers
from nas.search.config import ORDERED, Search
from nas.spaces.space import SearchSpace
from nas.training.proxy import Job, Outcome
from tests.helpers.searches import search_config

SLOW = 3  # the number of a trial that is in training until nothing else is


@dataclass
class Trainings:
    """So many workers; a training ends as soon as all workers have one, or there is no other, the slow one last."""

    count: int
    running: dict[int, Future[Outcome]] = field(default_factory=dict)
    submitted: Iterator[int] = field(default_factory=count)

    @contextmanager
    def pool(self, *_: Any) -> Iterator[Callable[[Job], Future[Outcome]]]:
        yield self.submit

    def submit(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        self.running[next(self.submitted)] = future
        return future

    def wait(self, running: Any, *_: Any) -> tuple[set[Future[Outcome]], set[Future[Outcome]]]:
        number = min(self.running, key=lambda number: (number == SLOW, number))
        ended = self.running.pop(number)
        ended.set_result(
            Outcome(
                scores=(Score.of([5], [10]),),
                epochs=1,
                seconds=1.0,
                step_seconds=1,
                steps=1,
                batch_size=1,
                note="",
            )
        )
        return {ended}, set(running) - {ended}


class Watch:
    """Sees a run, and how many others were in training when something was said to be finished."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.finished_trials: list[int] = []
        self.meanwhile: list[int] = []
        self.ahead = 0

    def started(self, trial: Trial) -> None:
        self.ahead = max([self.ahead, *(trial.number - number for number in self.trainings.running)])

    def finished(self, trials: list[FrozenTrial], state: State) -> None:
        self.finished_trials += [trial.number for trial in trials]
        self.meanwhile.append(len(self.trainings.running))

    def progressed(self, *_: Any) -> None:
        raise AssertionError

    def waiting(self) -> None:
        raise AssertionError


def watched(monkeypatch: pytest.MonkeyPatch, workers: int, trials: int, lag: float) -> Watch:
    trainings = Trainings(workers)
    watch = Watch(trainings)
    monkeypatch.setattr("nas.runs.trials.wait", trainings.wait)
    made = optuna.create_study()

    def ask() -> Trial | None:
        return made.ask() if len(made.trials) < trials else None

    plan = Plan(
        study=made,
        ask=ask,
        prepare=lambda trial: Job("", trial.number),
        values=lambda _: [0.0],
        written=lambda: State(done=0, total=trials),
        lag=lag,
    )
    train_trials(plan, Mock(), trainings, watch)  # type: ignore[arg-type]
    assert [trial.state.name for trial in made.trials] == ["COMPLETE"] * trials
    return watch


def make_config(workers: int) -> Search:
    count = Workers(workers, "cpu")
    return search_config(SearchSpace.load("mnas"), "digits", target_madds=400_000_000, trials=99, workers=count)


def test_all_are_at_work_again_before_a_result_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watched(monkeypatch, 4, 20, float("inf"))
    assert sorted(watch.finished_trials) == list(range(20))
    assert watch.meanwhile == [4] * 16 + [3, 2, 1, 0]


def test_one_worker_publishes_before_the_next_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, 1, 5, 0).meanwhile == [0] * 5


@pytest.mark.parametrize("workers", [2, ORDERED])
def test_few_workers_wait_for_the_slowest(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """So that the sampler, which heeds what ended so many trials ago, proposes the same whoever is first."""
    config = make_config(workers)
    assert config.lag == config.pace == 2 * (workers - 1)
    assert watched(monkeypatch, workers, 60, config.pace).ahead == config.lag


def test_many_workers_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(ORDERED + 1)
    assert config.lag == 0
    assert watched(monkeypatch, ORDERED + 1, 60, config.pace).ahead == 59 - SLOW
