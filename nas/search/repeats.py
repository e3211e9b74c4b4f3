"""Repeats: contenders trained again with other seeds, in a study of their own beside the search's.

They are kept as safely as trials, but the sampler does not see them, and they do not count as networks.
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
from nas.search.config import Search
from nas.search.front import averaged, contenders, ranked, validated
from nas.selection.noise import Repeat, Repeats, next_repeats
from nas.training.proxy import Job, load_data

_OF = "repeat_of"  # the attribute that names what a trial repeats: the number of a trial, and of the repeat, from 1


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


def make(config: Search, table: pd.DataFrame, repeats: optuna.Study, after: Callable[[], str]) -> None:
    """Train what has to be repeated, until each contender has `config.confirm` repeats.

    table: the finished trials of the search. What a repeat is of, is in the database before its training starts.
    """
    images = load_data(config.proxy.data)
    size = validated(images, config.metric)
    networks: dict[int, str] = dict(zip(table["trial"], table["architecture"], strict=True))

    @cache  # called many times with the same repeats
    def contending(known: tuple[tuple[int, tuple[float, ...]], ...]) -> list[int]:
        return contenders(ranked(*averaged(table, dict(known), size, config.metric), config))

    def judged(known: Repeats) -> list[int]:
        return contending(tuple((trial, tuple(values)) for trial, values in sorted(known.items())))

    def made() -> dict[Repeat, float]:
        return recorded(repeats, config.metric)

    def due() -> list[Repeat]:
        return next_repeats(judged, made(), config.confirm)

    def ask() -> Trial | None:
        begun = {_named(t) for t in repeats.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
        return repeats.ask() if any(named not in begun for named in due()) else None

    def prepare(trial: Trial) -> Job | None:
        named = study.claim(repeats, trial, _OF, map(list, due()))
        if not named or named[0] not in networks:
            return None
        arch = Architecture.parse(networks[named[0]])
        seed = np.random.default_rng([config.seed, *named]).integers(2**31)
        job = Job(str(arch), int(seed), images.image_size)
        study.describe_trial(trial, arch, job)
        return job

    def update() -> str:
        state = after()
        display.done = len(made())
        display.total = display.done + outstanding()
        return state

    def outstanding() -> int:
        """How many repeats the present contenders lack; others may become contenders later."""
        known = by_trial(repeats, config.metric)
        return sum(max(0, config.confirm - len(known.get(trial, ()))) for trial in judged(known))

    done = len(made())
    if missing := outstanding():
        cli.say(
            f"confirming: {config.confirm} more of each network on the front or near it, with other seeds; "
            f"trainings to come: {missing}, more where others come into question"
        )
    with Display(done + missing, done, update, _called, metric=config.metric) as display:
        study.run_trials(
            repeats, ask, prepare, lambda attrs: [attrs[config.metric]], config.proxy, config.workers, display
        )


def _called(trial: Trial | FrozenTrial) -> str:
    return f"repeat of trial {trial.user_attrs[_OF][0]:3d}"
