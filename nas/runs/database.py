"""A run's studies in a database: study.db of its directory, or a server that several machines reach."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

from nas.base.errors import UserError
from nas.base.units import shown
from nas.runs.facts import FINGERPRINTED, difference

Direction = Literal["maximize", "minimize"]
HEARTBEAT, GRACE = 15, 60  # seconds between heartbeats, and without one until a worker is lost
_RUN = "nas:run"  # a study's user attribute: what run.toml says of the run
_BROKEN = (  # errors of a storage that is damaged or out of reach
    *(sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError),
    *(RuntimeError, ImportError, ValueError, LookupError, TypeError, AttributeError),
)
_TRIES = 20  # attempts to open a database that other processes are creating


def open_study(
    path: Path,
    name: str,
    directions: Sequence[Direction],
    sampler: BaseSampler | None,
    storage: str | None,
    known: bool,
    facts: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Open or create a study in a run's study.db, or in another storage by its URL.

    known: whether it must exist already. facts: of run.toml, on which all processes that use the study must agree.
    Raises UserError if they do not, and if the storage is damaged, missing or out of reach.
    """
    file = path / "study.db"
    if storage is None and known and not file.exists():
        raise UserError(f"{file}: is missing, but {path / 'run.toml'} says that trials were made; restore it")
    where, remedy = (shown_url(storage), "check --storage") if storage else (str(file), "restore it from a copy")
    try:
        database = shared_storage(storage) if storage else RDBStorage(_url(file), {"connect_args": {"timeout": 60}})
        if known:
            study, created = optuna.load_study(study_name=shown(name), storage=database, sampler=sampler), False
        else:
            study, created = _create_or_load(shown(name), database, directions, sampler)
        study.get_trials(deepcopy=False)  # damaged trials raise here, not later
    except KeyError:
        raise UserError(f"{where}: holds no study {name!r}; {remedy}, or choose another --run") from None
    except _BROKEN as error:
        raise UserError(
            f"{where}: cannot be opened as a study ({reason(error)}); {remedy}, or choose another --run"
        ) from None
    if storage and facts and (differs := _disagreement(study, created, facts)):
        raise UserError(f"{where}, study {name}: {differs}")
    return study


def reason(error: BaseException) -> str:
    """The innermost cause of a database's error, in one line."""
    inner = error.__cause__ or error
    return str(getattr(inner, "orig", None) or inner).strip().splitlines()[0][:120]


def read_study(path: Path, name: str) -> optuna.Study | None:
    """A read-only study from a run's study.db: no lock is taken, so its search may go on.

    None where the run keeps it in another storage, or has none of this name. Raises UserError for a damaged file.
    """
    file = path / "study.db"
    if not file.exists():
        return None
    url = f"{_url(file)}&mode=ro"
    try:
        waiting = {"connect_args": {"timeout": 60}}
        database = RDBStorage(url, waiting, skip_table_creation=True)
        study = optuna.load_study(study_name=shown(name), storage=database)
        study.get_trials(deepcopy=False)
        return study
    except KeyError:
        return None
    except _BROKEN as error:
        raise UserError(f"{file}: cannot be read as a study ({reason(error)}); restore it from a copy") from None


def _url(file: Path) -> str:
    """The URL of an SQLite file, whatever signs are in its path."""
    return f"sqlite:///file:{quote(os.fsencode(file))}?uri=true"


def shown_url(storage: str) -> str:
    """A database URL without its password; raises UserError if it is not one."""
    try:
        return sqlalchemy.make_url(storage).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        raise UserError(
            f"--storage {storage[:60]!r} is not a database URL; write it like sqlite:///studies.db or "
            "postgresql+psycopg://user:password@host/name"
        ) from None


def _create_or_load(
    name: str, database: RDBStorage, directions: Sequence[Direction], sampler: BaseSampler | None
) -> tuple[optuna.Study, bool]:
    """The study of this name, and whether this process created it: of several, one does."""
    try:
        return optuna.create_study(study_name=name, storage=database, sampler=sampler, directions=directions), True
    except optuna.exceptions.DuplicatedStudyError:
        return optuna.load_study(study_name=name, storage=database, sampler=sampler), False


def shared_storage(url: str) -> RDBStorage:
    """A storage that several processes use, with Optuna's heartbeats; they may all open it at the same instant."""
    sqlite = sqlalchemy.make_url(url).get_backend_name() == "sqlite"
    engine: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    for left in reversed(range(_TRIES)):
        try:
            return RDBStorage(
                url,
                engine,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=_retry_once,
            )
        except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):  # another has just made the tables
            if not left:
                raise
            time.sleep(random.SystemRandom().uniform(0, 0.5))
    raise AssertionError


def _retry_once(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a lost trial for another worker, once, if it already had a network."""
    if "hash" in trial.user_attrs:
        RetryHeartbeatStaleTrialCallback(max_retry=1)(study, trial)


def _disagreement(study: optuna.Study, created: bool, facts: Mapping[str, Any]) -> str:
    """How a run differs from that of the other processes that use this study; "" if they agree.

    The process that created the study stores its facts; the others wait for these, but not forever: it may have died.
    """
    compared = {"arguments", "proxy", "progressive", "latency", *FINGERPRINTED}
    mine = {key: value for key, value in facts.items() if key in compared}
    for _ in range(0 if created else _TRIES):
        if saved := study.user_attrs.get(_RUN):
            if saved["latency"] != mine["latency"]:
                return (
                    f"latency was measured on {saved['latency']}, here it is on {mine['latency']}: take like machines"
                )
            return difference(saved, mine)
        time.sleep(0.1)
    study.set_user_attr(_RUN, mine)
    return ""
