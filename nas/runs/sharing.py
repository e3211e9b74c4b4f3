"""Several processes that share one study, on one machine or many: which process has which trial, which are lost.

Optuna's heartbeats show who is at work: a trial whose heartbeat stops fails, and its network is queued once more for
the next process that asks. Trials are numbered in the order of their creation, under a lock of the database, so the
process that creates one sees all trials of lower numbers: of two trials of one network, the lower number has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from threading import Event, Thread
from types import TracebackType
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.base.errors import RunFailed
from nas.runs import database
from nas.runs.records import lost

_SOON = 0.1  # seconds between two looks at trials that have no network yet


def heartbeat_storage(study: optuna.Study) -> Any | None:
    """A study's storage if it keeps heartbeats, else None; where it does, other processes may use the study."""
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
    """Fail the trials whose workers are lost; each is queued as a new trial, unless it was lost before."""
    if heartbeat_storage(study):
        optuna.storages.fail_stale_trials(study)


def earlier_trials(study: optuna.Study, trial: Trial, key: str) -> list[FrozenTrial]:
    """The trials of lower number that were not refused or lost; each of them has its user attribute `key`.

    This waits for other processes that are about to set it. A process that died before its first heartbeat would never
    count as lost, so a heartbeat is recorded for it.
    """
    seen: set[int] = set()
    storage = heartbeat_storage(study)
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


def claim(study: optuna.Study, trial: Trial, key: str, due: Iterable[Any], most: float = inf) -> Any | None:
    """Set a trial's user attribute `key` to the first of `due` that no trial of lower number has, and return it.

    A trial that was interrupted keeps what it has. None if nothing is left for it, or if there are `most` such trials.
    """
    taken = [other.user_attrs.get(key) for other in earlier_trials(study, trial, key)]
    if len(taken) >= most:
        return None
    mine = trial.user_attrs.get(key)
    for name in due if mine is None else [mine]:
        if name not in taken:
            trial.set_user_attr(key, name)
            return name
    return None


class Heartbeat:
    """Records a heartbeat for each trial that this process trains, where other processes may use the study.

    After Ctrl-C, or too many failures, trials that were not finished are queued for the next process that asks.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._storage = heartbeat_storage(study)
        self._trials: set[int] = set()
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        if self._storage:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped.set()
        if self._storage:
            self._thread.join()
            for trial in self._trials if kind in (KeyboardInterrupt, RunFailed) else ():
                with suppress(UpdateFinishedTrialError):  # another process took it: heartbeats had stopped
                    self._storage.set_trial_state_values(trial, TrialState.WAITING)

    def begin(self, trial: Trial) -> None:
        """Record heartbeats for a trial from now on."""
        self._trials.add(trial._trial_id)
        self._record(trial._trial_id)

    def end(self, trial: Trial) -> None:
        """Record no more heartbeats for a trial."""
        self._trials.discard(trial._trial_id)

    def _run(self) -> None:
        while not self._stopped.wait(database.HEARTBEAT):
            for trial in list(self._trials):
                try:
                    self._record(trial)
                except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError):
                    break  # the next heartbeat may succeed; if the database is gone, telling a result will fail

    def _record(self, trial: int) -> None:
        if self._storage:
            self._storage.record_heartbeat(trial)
