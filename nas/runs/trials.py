"""The training loop: asks a plan for trials, trains them side by side, and tells the study each result.

A trial's parameters are in the database before its training starts. A trial that was interrupted is trained again, so a
killed run ends like an uninterrupted one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.base.errors import RunFailed, UserError
from nas.base.metrics import METRICS
from nas.networks.architecture import Architecture
from nas.networks.cost import Cost
from nas.runs.records import CURVES, describe, describe_trial
from nas.runs.sharing import Heartbeat, claim, fail_lost, heartbeat_storage, settled
from nas.runs.workers import Submit, Workers, trained_again
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Proxy, Result, failure

POLL = 3.0  # seconds between looks at what other processes have done
IN_A_ROW = 5  # failures that end a run: by chance once in 100,000 trainings if one in ten fails


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a plan: trainings done, their total as far as it is known, and a short text on the results."""

    done: int
    total: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials to train in a study.

    ask: the next trial, None if there is none. prepare: completes a trial's parameters and attributes and gives its
    job, or None to refuse the trial untrained; no network is trained twice (`claim`). values: the objectives from a
    finished trial's attributes. written: writes the results so far and returns the state. lag: trial n is asked for
    when all trials before n - lag have ended; a sampler of the same lag then proposes the same whichever worker
    finishes first. patient: whether to wait for the trials of other processes that work on the study; they may be lost.
    """

    study: optuna.Study
    ask: Callable[[], Trial | None]
    prepare: Callable[[Trial], Job | None]
    values: Callable[[Mapping[str, Any]], list[float]]
    written: Callable[[], State]
    lag: float = inf
    patient: Callable[[], bool] = lambda: True


def listed(
    study: optuna.Study,
    key: str,
    due: Callable[[], Iterable[Any]],
    job: Callable[[Any], Job | None],
    cost: Callable[[Architecture], Cost],
    value: str,
    written: Callable[[], State],
) -> Plan:
    """The plan that trains a list of jobs, which may change with each result.

    key: the user attribute that identifies a trial's job. due: the identifiers that have no finished trial yet. job:
    the job of an identifier, None for one that an earlier plan left behind. cost: of a network as deployed. value: the
    attribute that is the study's objective.
    """

    def ask() -> Trial | None:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        begun = [trial.user_attrs.get(key) for trial in running]
        return study.ask() if any(one not in begun for one in due()) else None

    def prepare(trial: Trial) -> Job | None:
        claimed = claim(study, trial, key, due())
        found = None if claimed is None else job(claimed)
        if found:
            arch = Architecture.parse(found.architecture)
            describe_trial(trial, arch, cost(arch), found)
        return found

    return Plan(study=study, ask=ask, prepare=prepare, values=lambda known: [known[value]], written=written)


class Observer(Protocol):
    """Receives the events of a run."""

    def started(self, trial: Trial) -> None:
        """A trial's training starts; its user attributes hold the architecture and its costs."""

    def progressed(self, number: int, progress: Progress) -> None:
        """The training of the trial of this number has progressed."""

    def finished(self, trials: Sequence[FrozenTrial], state: State) -> None:
        """The results of these trials are in the database, and the run's files are written."""

    def waiting(self) -> None:
        """This process has nothing to train until other processes finish their trials."""


def train_trials(plan: Plan, proxy: Proxy, workers: Workers, observer: Observer) -> None:
    """Train a plan's trials until none is left and all are finished; interrupted ones come first.

    A training that raises makes a failed trial. Raises RunFailed if the last IN_A_ROW trials of this call, by number,
    have all failed.
    """
    study = plan.study
    alone = heartbeat_storage(study) is None
    interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if alone else []
    left = [Trial(study, trial._trial_id) for trial in interrupted]
    running: dict[Future[Result], Trial] = {}
    ended: list[FrozenTrial] = []  # not yet reported
    outcomes: dict[int, FrozenTrial] = {}  # by number
    numbers: dict[Job, int] = {}

    def next_trial() -> Trial | None:
        if left:
            return left.pop(0)
        fail_lost(study)
        oldest = min((trial.number for trial in running.values()), default=inf)
        ahead = plan.lag < inf and oldest < len(study.get_trials(deepcopy=False)) - plan.lag
        return None if ahead else plan.ask()

    def progressed(job: Job, progress: Progress) -> None:
        observer.progressed(numbers[job], progress)

    def report() -> None:
        if ended:
            observer.finished(ended[:], plan.written())
            ended.clear()

    with Heartbeat(study) as heartbeat, workers.pool(proxy, progressed) as submit:
        while True:
            if not running:
                report()
            before = None if alone or running else settled(study)
            if len(running) < workers.count and (trial := next_trial()) is not None:
                heartbeat.begin(trial)
                if job := _prepared(plan, trial):
                    numbers[job] = trial.number
                    observer.started(trial)
                    running[_submitted(submit, job)] = trial
                else:
                    heartbeat.end(trial)
                continue
            report()  # writing can wait until all workers are busy
            if not running:
                # Without a next trial, the plan is done only if no other process began or ended one meanwhile.
                if alone or not plan.patient() or (before is not None and before == settled(study)):
                    return
                observer.waiting()
                time.sleep(POLL)
            done, _ = wait(running, None if alone or len(running) == workers.count else POLL, FIRST_COMPLETED)
            for future in done:
                trial = running.pop(future)
                ended.append(_tell(plan, trial, future))
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
        future.set_result(failure(error))
        return future


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except (UserError, RunFailed):
        raise
    except Exception as error:  # its result, or the job itself, could not be sent
        return failure(error)


def _cause_in_common(outcomes: Mapping[int, FrozenTrial]) -> str:
    """What the last IN_A_ROW trials by number have in common, if all of them failed; else ""."""
    last = [outcomes[number] for number in sorted(outcomes)[-IN_A_ROW:]]
    if len(last) < IN_A_ROW or any(trial.state != TrialState.FAIL for trial in last):
        return ""
    notes = [str(trial.user_attrs.get("note", "unknown cause")) for trial in last]
    text = f"the last {IN_A_ROW} trainings failed"
    if len({re.sub(r"[\d.]+", "0", note) for note in notes}) == 1:
        return f"{text} in the same way: {notes[-1]}"
    kinds = {note.partition(":")[0]: note for note in notes}
    if len(kinds) == 1:
        return f"{text} with {next(iter(kinds))}, the last one: {notes[-1]}"
    return f"{text}, for different causes: {' | '.join(kinds.values())}"


def _prepared(plan: Plan, trial: Trial) -> Job | None:
    """The job of a trial; None if it is refused, or if another process has taken it."""
    try:
        job = plan.prepare(trial)
        if job is None:
            plan.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        elif _retried(trial):  # noted beforehand: if it is lost again, no process is left to note it
            trial.set_user_attr("note", "its worker was lost twice: out of memory, a crash, or a machine that is gone")
        return job
    except UpdateFinishedTrialError:
        return None


def _retried(trial: Trial) -> bool:
    """Whether a trial replaces one that was lost."""
    return bool(trial.storage.get_trial(trial._trial_id).system_attrs.get("retry_history"))


def _tell(plan: Plan, trial: Trial, future: Future[Result]) -> FrozenTrial:
    study = plan.study
    try:
        result = _result(future)
        if _retried(trial):
            result = trained_again(result)
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
        describe(trial, found)
        # The one write that makes the trial count.
        return study.tell(trial, plan.values(trial.user_attrs), skip_if_finished=True)
    except UpdateFinishedTrialError:  # another process took it: heartbeats had stopped for long
        return study._storage.get_trial(trial._trial_id)
