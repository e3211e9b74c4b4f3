"""Repeats: contenders trained again with other seeds, in a study of their own beside the search's.

They are kept as safely as trials, but the sampler does not see them, and they do not count as networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, Trial

from nas.base import cli
from nas.runs.display import Display
from nas.runs.records import finished
from nas.runs.records import table as trials_table
from nas.runs.trials import State, listed, train_trials
from nas.search.config import SearchRun
from nas.search.front import averaged, contenders, ranked, validated
from nas.selection.noise import Repeat, Repeats, next_repeats
from nas.training.proxy import Job

_OF = "repeat_of"  # the attribute that names what a trial repeats: the number of a trial, and of the repeat, from 1


def recorded(repeats: optuna.Study, metric: str) -> dict[Repeat, float]:
    """The metric of the repeats made so far, NaN where one failed."""
    found = ((_named(t), t.user_attrs.get(metric, np.nan)) for t in finished(repeats))
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
    table = trials_table(repeats)
    names = {t.number: named for t in repeats.get_trials(deepcopy=False) if (named := _named(t))}
    made = [names[number] for number in table["trial"]]
    return table.assign(trial=[of for of, _ in made], repeat=[number for _, number in made])


def confirm(run: SearchRun, written: Callable[[], str]) -> None:
    """Train what has to be repeated, until each contender has `config.confirm` repeats.

    written: writes the results, and says how they stand.
    """
    config, repeats = run.config, run.repeats
    table = trials_table(run.trials, config.further)
    size = validated(config.images, config.metric)
    networks: dict[int, str] = dict(zip(table["trial"], table["architecture"], strict=True))

    @cache  # called many times with the same repeats
    def contending(known: tuple[tuple[int, tuple[float, ...]], ...]) -> list[int]:
        return contenders(ranked(*averaged(table, dict(known), size, config.metric), config), config.reward)

    def judged(known: Repeats) -> list[int]:
        return contending(tuple((trial, tuple(values)) for trial, values in sorted(known.items())))

    def due() -> list[list[int]]:
        return list(map(list, next_repeats(judged, recorded(repeats, config.metric), config.confirm)))

    def job(named: list[int]) -> Job | None:
        if named[0] not in networks:
            return None
        seed = np.random.default_rng([config.seed, *named]).integers(2**31)
        return Job(networks[named[0]], int(seed), config.image_size)

    def state(text: str = "") -> State:
        """Repeats that the present contenders lack are counted; others may become contenders later."""
        known = by_trial(repeats, config.metric)
        missing = sum(max(0, config.confirm - len(known.get(trial, ()))) for trial in judged(known))
        done = len(recorded(repeats, config.metric))
        return State(done=done, total=done + missing, text=text)

    begun = state()
    if missing := begun.total - begun.done:
        cli.say(
            f"confirming: {config.confirm} more of each network on the front or near it, with other seeds; "
            f"trainings to come: {missing}, more where others come into question"
        )
    plan = listed(repeats, _OF, due, job, config.space.cost, config.metric, lambda: state(written()))
    with Display(begun, _called, metric=config.metric) as display:
        train_trials(plan, config.proxy, config.workers, display)


def _called(trial: Trial | FrozenTrial) -> str:
    return f"repeat of trial {trial.user_attrs[_OF][0]:3d}"
