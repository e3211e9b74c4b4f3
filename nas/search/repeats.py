"""Trained again with other seeds: the repeats of contenders, in a study of their own beside the search's.

There they are as durable as trials, but the sampler does not see them, and they are no networks of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.base import cli
from nas.networks.architecture import Architecture
from nas.runs import study
from nas.runs.display import Display
from nas.search.front import averaged, contenders, ranked, validated
from nas.search.question import Search
from nas.selection.noise import Repeat, Repeats, next_repeats
from nas.training.proxy import Job, load_data

_OF = "repeat_of"  # the attribute that says what a trial of this study repeats: a trial, and the how manyth repeat


def open_repeats(path: Path, storage: str | None) -> optuna.Study:
    """The study of a run's repeats."""
    return study.open_study(path, f"{path.name}-repeats", ["maximize"], None, storage, False)


def recorded(repeats: optuna.Study, metric: str) -> dict[Repeat, float]:
    """The metric of the repeats made so far, NaN where one failed."""
    found = ((_named(t), t.user_attrs.get(metric, np.nan)) for t in study.finished(repeats))
    return {named: value for named, value in found if named}


def _named(trial: Trial | FrozenTrial) -> Repeat | None:
    """What a trial of this study repeats; None if it was interrupted before that was said."""
    trial_and_number = trial.user_attrs.get(_OF)
    return tuple(trial_and_number) if trial_and_number else None


def by_trial(repeats: optuna.Study, metric: str) -> Repeats:
    """The same, in order, by trial."""
    known: dict[int, list[float]] = {}
    for (trial, _), value in sorted(recorded(repeats, metric).items()):
        known.setdefault(trial, []).append(value)
    return known


def table_of(repeats: optuna.Study) -> pd.DataFrame:
    """The repeats as rows with the columns of trials.csv; trial is the one repeated, repeat counts from 1."""
    table = study.table(repeats)
    names = {t.number: named for t in repeats.get_trials(deepcopy=False) if (named := _named(t))}
    made = [names[number] for number in table["trial"]]
    return table.assign(trial=[of for of, _ in made], repeat=[number for _, number in made])


def make(wanted: Search, table: pd.DataFrame, repeats: optuna.Study, after: Callable[[], str]) -> None:
    """Train what has to be repeated, until each contender has as many repeats as wanted.

    table: the finished trials of the search. What a repeat is of, is in the database before its training starts.
    """
    images = load_data(wanted.proxy.data)
    size = validated(images, wanted.metric)
    networks: dict[int, str] = dict(zip(table["trial"], table["architecture"], strict=True))

    @cache  # asked again and again of the same repeats
    def contending(known: tuple[tuple[int, tuple[float, ...]], ...]) -> list[int]:
        return contenders(ranked(*averaged(table, dict(known), size, wanted.metric), wanted))

    def judged(known: Repeats) -> list[int]:
        return contending(tuple((trial, tuple(told)) for trial, told in sorted(known.items())))

    def made() -> dict[Repeat, float]:
        return recorded(repeats, wanted.metric)

    def due() -> list[Repeat]:
        return next_repeats(judged, made(), wanted.confirm)

    def ask() -> Trial | None:
        begun = {_named(t) for t in repeats.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
        return repeats.ask() if any(named not in begun for named in due()) else None

    def prepare(trial: Trial) -> Job | None:
        named = study.claim(repeats, trial, _OF, map(list, due()))
        if not named or named[0] not in networks:
            return None
        arch = Architecture.parse(networks[named[0]])
        seed = np.random.default_rng([wanted.seed, *named]).integers(2**31)
        job = Job(str(arch), int(seed), images.image_size)
        study.describe_trial(trial, arch, job)
        return job

    def told() -> str:
        state = after()
        display.done = len(made())
        display.total = display.done + outstanding()
        return state

    def outstanding() -> int:
        """Repeats that the contenders of now lack: more may come to be in question."""
        known = by_trial(repeats, wanted.metric)
        return sum(max(0, wanted.confirm - len(known.get(trial, ()))) for trial in judged(known))

    done = len(made())
    if missing := outstanding():
        cli.say(
            f"confirming: {wanted.confirm} more of each network on the front or near it, with other seeds; "
            f"trainings to come: {missing}, more where others come into question"
        )
    with Display(done + missing, done, told, _called, metric=wanted.metric) as display:
        study.run_trials(
            repeats, ask, prepare, lambda attrs: [attrs[wanted.metric]], wanted.proxy, wanted.workers, display
        )


def _called(trial: Trial | FrozenTrial) -> str:
    return f"repeat of trial {trial.user_attrs[_OF][0]:3d}"
