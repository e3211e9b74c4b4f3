"""Several processes at work on one study, on one machine or many: who has which trial, and whose worker is lost.

Optuna's heartbeats tell who is at work: a trial without one for a while fails, and its network waits for whoever asks
next, once. Trials are numbered in the order of their creation, under a lock of the database, so whoever has created
one sees all of lower numbers: of two trials that name the same, the one of the lower number has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.base.errors import RunFailed
from nas.runs.study import database
from nas.runs.study.ledger import lost

_SOON = 0.1  # seconds until those who are naming their trials are looked at again


def hearing(study: optuna.Study) -> Any | None:
    """The storage of a study if it keeps heartbeats: other processes may be at work on it then."""
    storage: Any = study._storage
    interval = getattr(storage, "get_heartbeat_interval", lambda: None)()
    return None if interval is None else storage


def underway(study: optuna.Study) -> bool:
    """Whether any process has a trial in training."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def settled(study: optuna.Study) -> int | None:
    """The number of trials that have ended; None while any process has one in training."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return None if TrialState.RUNNING in states else sum(state.is_finished() for state in states)


def fail_lost(study: optuna.Study) -> None:
    """Fail the trials whose workers are lost; each waits as a new trial then, if it was not lost before."""
    if hearing(study):
        optuna.storages.fail_stale_trials(study)


def earlier(study: optuna.Study, trial: Trial, key: str) -> list[FrozenTrial]:
    """The trials of lower number that were not refused or lost; each has its user attribute `key` by then.

    Those of other processes that are about to be named are waited for. Who died before its first heartbeat would
    never be found lost: so one is sent in its place.
    """
    seen: set[int] = set()
    storage = hearing(study)
    while True:
        before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
        nameless = [t for t in before if t.state == TrialState.RUNNING and key not in t.user_attrs]
        if not nameless or storage is None:
            return [t for t in before if t.state != TrialState.PRUNED and not lost(t)]
        time.sleep(_SOON)
        for other in nameless:
            if other.number not in seen:
                storage.record_heartbeat(other._trial_id)
                seen.add(other.number)
        fail_lost(study)


def claim(study: optuna.Study, trial: Trial, key: str, due: Iterable[Any]) -> Any | None:
    """Give a trial, as its user attribute `key`, the first of what is due that none of lower number has.

    One that was interrupted and has its name keeps it. None if there is nothing left for it.
    """
    taken = [other.user_attrs.get(key) for other in earlier(study, trial, key)]
    mine = trial.user_attrs.get(key)
    for name in due if mine is None else [mine]:
        if name not in taken:
            trial.set_user_attr(key, name)
            return name
    return None


class Heart:
    """Beats for the trials that this process has, where others may be at work; it is told of each.

    After Ctrl-C, or too many failures, those that it still has wait for whoever asks next.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._storage = hearing(study)
        self._trials: set[int] = set()
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heart:
        if self._storage:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped.set()
        if self._storage:
            self._thread.join()
            for trial in self._trials if kind in (KeyboardInterrupt, RunFailed) else ():
                with suppress(UpdateFinishedTrialError):  # it was taken from this process, which was not heard of
                    self._storage.set_trial_state_values(trial, TrialState.WAITING)

    def begin(self, trial: Trial) -> None:
        """This process has a trial from now on."""
        self._trials.add(trial._trial_id)
        self._beat(trial._trial_id)

    def end(self, trial: Trial) -> None:
        """This process has a trial no longer."""
        self._trials.discard(trial._trial_id)

    def _run(self) -> None:
        while not self._stopped.wait(database.BEAT):
            for trial in list(self._trials):
                try:
                    self._beat(trial)
                except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError):
                    break  # the next beat may get through; a database that is gone is met by those who train

    def _beat(self, trial: int) -> None:
        if self._storage:
            self._storage.record_heartbeat(trial)
