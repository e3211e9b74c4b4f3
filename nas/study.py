"""The run: one directory and its Optuna studies, opened, continued and recorded so that no trial is lost.

A trial is asked from the study, trained, and told; its parameters are in the database before training starts. A
trial that was interrupted is found RUNNING and trained again, so a killed run ends like an uninterrupted one.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from importlib import metadata
from math import inf
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import optuna
import pandas as pd
import sqlalchemy
import torch
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.architecture import Architecture
from nas.errors import RunFailed, UserError
from nas.evaluate import Failed, Job, Proxy, Result
from nas.files import read_toml, to_toml, write_atomic
from nas.proxy import Progress, mixed_dtype
from nas.workers import pool

Direction = Literal["maximize", "minimize"]
PRUNED = TrialState.PRUNED

# Arguments that say where a run computes, not what: they may differ when it is continued.
ANYWHERE = {"device", "workers", "storage", "processes"}

# Tables of run.toml whose fingerprints must not change while a run goes on, and what they are.
FINGERPRINTED = {
    "space": "search space",
    "data": "data set",
    "network": "network",
    "pretrained": "file of pretrained weights",
}

COLUMNS = [
    *("trial", "state", "accuracy", "madds", "flops", "params", "activations", "resolution", "epochs", "seconds"),
    *("seed", "architecture", "hash", "accuracy_error", "image_size", "step_seconds", "note"),
]


MEASURED = {"train_time": "step_seconds"}  # objectives that only training tells, and their columns in trials.csv


class Observer(Protocol):
    """What is told of a run while it goes on."""

    def started(self, trial: Trial) -> None:
        """A trial's training starts; its user attributes name the architecture and its costs."""

    def progressed(self, number: int, progress: Progress) -> None:
        """The training of the trial of this number has come further."""

    def finished(self, trial: FrozenTrial) -> None:
        """A trial is in the database with its result."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make a run's directory and keep other processes out of it; raises UserError if that cannot be.

    A database that fails meanwhile raises RunFailed.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path}: another process has this run open; wait for it, or choose another --run") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; choose another --run") from None
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunFailed(f"{path}: the study cannot be written ({_reason(error)}); finished trials are kept") from None
    finally:
        lock.release()


def _reason(error: BaseException) -> str:
    """The innermost cause of a database's error, in one line."""
    inner = error.__cause__ or error
    return str(getattr(inner, "orig", None) or inner).strip().splitlines()[0][:120]


def open_study(
    path: Path,
    name: str,
    directions: Sequence[Direction],
    sampler: BaseSampler | None,
    storage: str | None,
    known: bool,
) -> optuna.Study:
    """Open or create a study in a run's study.db, or in another storage by its URL.

    known: whether it must be there already. Raises UserError if the storage is damaged, missing or out of reach.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = path / "study.db"
    if storage is None and known and not file.exists():
        raise UserError(f"{file}: is missing, but {path / 'run.toml'} says that trials were made; restore it")
    where, remedy = (_shown_url(storage), "check --storage") if storage else (str(file), "restore it from a copy")
    waiting = {} if storage else {"connect_args": {"timeout": 60}}
    try:
        database = optuna.storages.RDBStorage(storage or f"sqlite:///{file}", engine_kwargs=waiting)
        if known:
            return optuna.load_study(study_name=name, storage=database, sampler=sampler)
        return optuna.create_study(
            study_name=name, storage=database, sampler=sampler, directions=directions, load_if_exists=True
        )
    except KeyError:
        raise UserError(f"{where}: holds no study {name!r}; {remedy}, or choose another --run") from None
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(
            f"{where}: cannot be opened as a study ({_reason(error)}); {remedy}, or choose another --run"
        ) from None


def read_study(path: Path, name: str) -> optuna.Study | None:
    """A study in a run's study.db to look at: nothing is written and no lock is taken, so its search may go on.

    None where the run keeps it in another storage, or has none of this name. Raises UserError for a damaged file.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = path / "study.db"
    if not file.exists():
        return None
    url = f"sqlite:///file:{quote(str(file.absolute()))}?mode=ro&uri=true"
    try:
        waiting = {"connect_args": {"timeout": 60}}
        database = optuna.storages.RDBStorage(url, waiting, skip_table_creation=True)
        return optuna.load_study(study_name=name, storage=database)
    except KeyError:
        return None
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"{file}: cannot be read as a study ({_reason(error)}); restore it from a copy") from None


def _shown_url(storage: str) -> str:
    """A database URL without its password; raises UserError for what is none."""
    try:
        return sqlalchemy.make_url(storage).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        raise UserError(
            f"--storage {storage[:60]!r} is not a database URL; write it like sqlite:///studies.db or "
            "postgresql://user:password@host/name"
        ) from None


def check_arguments(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the run exists; raises UserError if it was started with other arguments, space or data."""
    file = path / "run.toml"
    if not file.exists():
        return False
    saved = read_toml(file)
    old, new = saved.get("arguments", {}), facts["arguments"]
    for key in sorted((set(old) | set(new)) - ANYWHERE):
        before, now = old.get(key), new.get(key)
        if before != now:
            option = f"--{key.replace('_', '-')}"
            raise UserError(
                f"{path}: this run was started with {option} {_shown(before)}, now it is {_shown(now)}; "
                "give the same arguments to continue it, or another --run NAME"
            )
    for table, what in FINGERPRINTED.items():
        if saved.get(table, {}).get("fingerprint") != facts.get(table, {}).get("fingerprint"):
            raise UserError(f"{path}: the {what} has changed since this run was started; choose another --run NAME")
    for key, before in saved.get("recipe", {}).items():
        if (now := facts["recipe"].get(key)) != before:
            raise UserError(f"{path}: its recipe had {key} {before}, now it is {now}; choose another --run NAME")
    if saved.get("progressive") != facts.get("progressive"):
        raise UserError(f"{path}: the schedule of --progressive has changed since then; choose another --run NAME")
    return True


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def environment(device: str) -> dict[str, Any]:
    """What a run's result may depend on beside its arguments: versions, machine, commit."""
    packages = ("torch", "torchvision", "optuna", "numpy", "compound-nas")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "versions": {"python": platform.python_version(), **versions, "commit": _commit()},
        "machine": {
            "system": platform.platform(),
            "device": device,
            "threads": torch.get_num_threads(),
            "arithmetic": str(mixed_dtype(torch.device(device)) or torch.float32).removeprefix("torch."),
        },
    }


def _commit() -> str | None:
    """The commit of the source tree that this code runs from, if it is one."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "log", "-1", "--format=%H", "--", str(here)]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def write_run(path: Path, facts: Mapping[str, Any]) -> None:
    """Write run.toml."""
    write_atomic(path / "run.toml", to_toml(facts))


def describe_trial(trial: Trial, arch: Architecture, job: Job, known: Mapping[str, float] | None = None) -> None:
    """Store what is known of a trial before its training: the architecture, its costs, and others by their names."""
    cost = arch.cost()
    described = {
        "architecture": str(arch),
        "hash": arch.hash,
        "madds": cost.madds,
        "flops": cost.flops,
        "params": cost.params,
        "activations": cost.activations,
        "resolution": arch.resolution,
        "image_size": job.image_size,
        "seed": job.seed,
        **(known or {}),
    }
    for key, value in described.items():
        trial.set_user_attr(key, value)


Ask = Callable[[], Trial | None]
Prepare = Callable[[Trial], Job | None]
Values = Callable[[Mapping[str, Any]], list[float]]


def run_trials(
    study: optuna.Study,
    ask: Ask,
    prepare: Prepare,
    values: Values,
    proxy: Proxy,
    workers: int,
    observer: Observer,
    lag: float = inf,
) -> None:
    """Train trials until `ask` gives None and all are finished; interrupted ones come first.

    prepare: completes a trial's parameters and attributes and names its job, or None to refuse it untrained.
    values: the objectives from a finished trial's attributes. Trial n is asked for when those before n - lag have
    ended: what a sampler of the same lag proposes then does not depend on which worker is first.
    """
    left = [Trial(study, t._trial_id) for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]
    running: dict[Future[Result], Trial] = {}
    numbers: dict[Job, int] = {}

    def next_trial() -> Trial | None:
        if left:
            return left.pop(0)
        oldest = min((trial.number for trial in running.values()), default=inf)
        return None if oldest < len(study.get_trials(deepcopy=False)) - lag else ask()

    with pool(proxy, workers, lambda job, progress: observer.progressed(numbers[job], progress)) as submit:
        while True:
            while len(running) < workers and (trial := next_trial()) is not None:
                job = prepare(trial)
                if job is None:
                    study.tell(trial, state=PRUNED)
                    continue
                numbers[job] = trial.number
                observer.started(trial)
                running[submit(job)] = trial
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                observer.finished(_tell(study, running.pop(future), future, values))


def _tell(study: optuna.Study, trial: Trial, future: Future[Result], values: Values) -> FrozenTrial:
    result = future.result()
    if isinstance(result, Failed):
        trial.set_user_attr("note", result.cause)
        return study.tell(trial, state=TrialState.FAIL)
    found = {
        "accuracy": result.accuracy,
        "accuracy_error": result.error,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "step_seconds": result.step_seconds,
        "curve": list(result.curve),
        "note": result.note,
    }
    for key, value in found.items():
        trial.set_user_attr(key, value)
    # The one write that makes the trial count; the values of a stopped one would not compare with those of others.
    return study.tell(trial, state=PRUNED) if result.stopped else study.tell(trial, values(trial.user_attrs))


def refused(trial: FrozenTrial) -> bool:
    """Whether a trial ended untrained: its network was not to be trained. A trial stopped early is PRUNED as well."""
    return trial.state == PRUNED and "accuracy" not in trial.user_attrs


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were trained, to the end or not, or failed in training, in the order of their numbers."""
    states = (TrialState.COMPLETE, TrialState.FAIL, PRUNED)
    return [trial for trial in study.get_trials(deepcopy=False, states=states) if not refused(trial)]


def table(study: optuna.Study, others: Sequence[str] = ()) -> pd.DataFrame:
    """The finished trials as rows with the columns of trials.csv, and others that `describe_trial` was told of."""
    rows = [{**t.user_attrs, "trial": t.number, "state": t.state.name} for t in finished(study)]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *(name for name in others if name not in COLUMNS)])
    whole = ["madds", "flops", "params", "activations", "resolution", "epochs", "image_size"]
    return frame.astype(dict.fromkeys(whole, "Int64"))
