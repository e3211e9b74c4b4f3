"""The loop that trains: asks a study for trials, trains them side by side, and tells the study each result."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from math import inf
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.base.errors import RunFailed, UserError
from nas.base.metrics import METRICS
from nas.runs.study.records import CURVES
from nas.runs.study.sharing import Heartbeat, fail_lost, heartbeat_storage, settled
from nas.runs.workers import Submit, Workers, trained_again
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Proxy, Result, failed

POLL = 3.0  # seconds between looks at what other processes have done
IN_A_ROW = 5  # failures that end a run: where one training in ten fails by itself, they come once in 100,000 trainings


class Observer(Protocol):
    """What listens to a run."""

    def started(self, trial: Trial) -> None:
        """A trial's training starts; its user attributes hold the architecture and its costs."""

    def progressed(self, number: int, progress: Progress) -> None:
        """The training of the trial of this number has progressed."""

    def finished(self, trials: Sequence[FrozenTrial]) -> None:
        """The results of these trials are in the database."""

    def waiting(self) -> None:
        """This process has nothing to train until other processes finish their trials."""


Ask = Callable[[], Trial | None]
Prepare = Callable[[Trial], Job | None]
Values = Callable[[Mapping[str, Any]], list[float]]


def run_trials(
    study: optuna.Study,
    ask: Ask,
    prepare: Prepare,
    values: Values,
    proxy: Proxy,
    workers: Workers,
    observer: Observer,
    lag: float = inf,
    patient: Callable[[], bool] = lambda: True,
) -> None:
    """Train trials until `ask` gives None and all are finished; interrupted ones come first.

    prepare: completes a trial's parameters and attributes and returns its job, or None to refuse the trial untrained.
    values: the objectives from a finished trial's attributes. lag: trial n is asked for when all trials before n - lag
    have ended; a sampler of the same lag then proposes the same whichever worker finishes first. patient: whether to
    wait for the trials of other processes that work on the study; they may be lost.

    A training that raises makes a failed trial. Raises RunFailed if the last IN_A_ROW trials of this call, by number,
    have all failed.
    """
    alone = heartbeat_storage(study) is None
    interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if alone else []
    left = [Trial(study, trial._trial_id) for trial in interrupted]
    running: dict[Future[Result], Trial] = {}
    ended: list[FrozenTrial] = []  # not reported yet
    outcomes: dict[int, FrozenTrial] = {}  # by number
    numbers: dict[Job, int] = {}

    def next_trial() -> Trial | None:
        if left:
            return left.pop(0)
        fail_lost(study)
        oldest = min((trial.number for trial in running.values()), default=inf)
        ahead = lag < inf and oldest < len(study.get_trials(deepcopy=False)) - lag
        return None if ahead else ask()

    def progressed(job: Job, progress: Progress) -> None:
        observer.progressed(numbers[job], progress)

    def report() -> None:
        if ended:
            observer.finished(ended[:])
            ended.clear()

    with Heartbeat(study) as heartbeat, workers.pool(proxy, progressed) as submit:
        while True:
            if not running:
                report()
            before = None if alone or running else settled(study)
            if len(running) < workers.count and (trial := next_trial()) is not None:
                heartbeat.begin(trial)
                if job := _prepared(study, trial, prepare):
                    numbers[job] = trial.number
                    observer.started(trial)
                    running[_submitted(submit, job)] = trial
                else:
                    heartbeat.end(trial)
                continue
            report()  # what is written of a run can wait until everyone is at work
            if not running:
                # Nothing to do is the end only if it is not for trials that others began or ended meanwhile.
                if alone or not patient() or (before is not None and before == settled(study)):
                    return
                observer.waiting()
                time.sleep(POLL)
            done, _ = wait(running, None if alone or len(running) == workers.count else POLL, FIRST_COMPLETED)
            for future in done:
                trial = running.pop(future)
                ended.append(_tell(study, trial, future, values))
                outcomes[trial.number] = ended[-1]
                heartbeat.end(trial)
            if cause := _cause_in_common(outcomes):
                report()
                raise RunFailed(f"{cause}; finished trials are kept, the same command continues the run")


def _submitted(submit: Submit, job: Job) -> Future[Result]:
    """The future of a job's result; the result is Failed if the training or the start of its worker raised."""
    try:
        return submit(job)
    except (UserError, RunFailed):
        raise
    except Exception as error:
        future: Future[Result] = Future()
        future.set_result(failed(error))
        return future


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except (UserError, RunFailed):
        raise
    except Exception as error:  # what came of the job could not be sent, or the job itself
        return failed(error)


def _cause_in_common(outcomes: Mapping[int, FrozenTrial]) -> str:
    """What the last IN_A_ROW trials by number have in common, if all of them failed; else ""."""
    last = [outcomes[number] for number in sorted(outcomes)[-IN_A_ROW:]]
    if len(last) < IN_A_ROW or any(trial.state != TrialState.FAIL for trial in last):
        return ""
    notes = [str(trial.user_attrs.get("note", "unknown cause")) for trial in last]
    said = f"the last {IN_A_ROW} trainings failed"
    if len({re.sub(r"[\d.]+", "0", note) for note in notes}) == 1:
        return f"{said} in the same way: {notes[-1]}"
    kinds = {note.partition(":")[0]: note for note in notes}
    if len(kinds) == 1:
        return f"{said} with {next(iter(kinds))}, the last one: {notes[-1]}"
    return f"{said}, for different causes: {' | '.join(kinds.values())}"


def _prepared(study: optuna.Study, trial: Trial, prepare: Prepare) -> Job | None:
    """The job of a trial; None if it is refused, or if another process has taken it."""
    try:
        job = prepare(trial)
        if job is None:
            study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        elif _retried(trial):  # said beforehand: if it is lost again, nobody is there to say it
            trial.set_user_attr("note", "its worker was lost twice: out of memory, a crash, or a machine that is gone")
        return job
    except UpdateFinishedTrialError:
        return None


def _retried(trial: Trial) -> bool:
    """Whether a trial replaces one that was lost."""
    return bool(trial.storage.get_trial(trial._trial_id).system_attrs.get("retry_history"))


def _tell(study: optuna.Study, trial: Trial, future: Future[Result], values: Values) -> FrozenTrial:
    try:
        result = _result(future)
        if _retried(trial):
            result = trained_again(result, "its worker was lost")
        if isinstance(result, Failed):
            trial.set_user_attr("note", result.cause)
            return study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        found = {
            **asdict(result.score),
            "epochs": result.epochs,
            "seconds": result.seconds,
            "step_seconds": result.step_seconds,
            **{CURVES[metric]: [getattr(score, metric) for score in result.scores] for metric in METRICS.values()},
            "note": result.note,
        }
        for key, value in found.items():
            trial.set_user_attr(key, value)
        # The one write that makes the trial count.
        return study.tell(trial, values(trial.user_attrs), skip_if_finished=True)
    except UpdateFinishedTrialError:  # another process took it: heartbeats had stopped for long
        return study._storage.get_trial(trial._trial_id)
