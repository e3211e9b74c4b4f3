"""A run's directory: its name, its lock, and run.toml, which says what the run is of."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
import torch
from filelock import FileLock, Timeout

from nas.errors import RunFailed, UserError
from nas.files import read_toml, to_toml, write_atomic
from nas.proxy import mixed_dtype

Direction = Literal["maximize", "minimize"]

# Arguments that say where a run computes, not what: they may differ when it is continued.
ANYWHERE = {"device", "workers", "storage", "processes"}

# What arguments are that older versions did not have.
FORMERLY = {"resize": "crop"}

# Tables of run.toml whose fingerprints must not change while a run goes on, and what they are.
FINGERPRINTED = {
    "space": "search space",
    "data": "data set",
    "network": "network",
    "pretrained": "file of pretrained weights",
}


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Make a run's directory and keep other processes out of it; raises UserError if that cannot be.

    shared: whether others may be at work on the run, perhaps from other machines; then nobody is kept out. A database
    that fails meanwhile raises RunFailed.
    """
    lock = FileLock(path / ".lock")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not shared:
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path}: another process has this run open; wait for it, or choose another --run") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; choose another --run") from None
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunFailed(f"{path}: the study cannot be written ({reason(error)}); finished trials are kept") from None
    finally:
        lock.release()


def reason(error: BaseException) -> str:
    """The innermost cause of a database's error, in one line."""
    inner = error.__cause__ or error
    return str(getattr(inner, "orig", None) or inner).strip().splitlines()[0][:120]


def check_arguments(path: Path, facts: Mapping[str, Any], storage: str | None = None) -> bool:
    """Whether the run exists; raises UserError if it was started with other arguments, space, data or storage."""
    file = path / "run.toml"
    if not file.exists():
        return False
    saved = read_toml(file)
    if "storage" in saved and not storage:
        raise UserError(f"{path}: the trials of this run are in --storage {saved['storage']}; give it again")
    if differs := difference(saved, facts, bool(storage)):
        raise UserError(f"{path}: {differs}")
    return True


def difference(saved: Mapping[str, Any], facts: Mapping[str, Any], shared: bool) -> str:
    """In what a run that is about to be continued differs from what was saved of it; "" if in nothing that matters.

    shared: whether other processes may be at work on it, each of which has a time budget of its own.
    """
    old, new = saved.get("arguments", {}), facts["arguments"]
    for key in sorted((set(old) | set(new)) - ANYWHERE - ({"time_budget"} if shared else set())):
        before, now = old.get(key, FORMERLY.get(key)), new.get(key)
        if before != now:
            option = f"--{key.replace('_', '-')}"
            return (
                f"this run was started with {option} {_shown(before)}, now it is {_shown(now)}; "
                "give the same arguments to continue it, or another --run NAME"
            )
    for table, what in FINGERPRINTED.items():
        if saved.get(table, {}).get("fingerprint") != facts.get(table, {}).get("fingerprint"):
            return f"the {what} has changed since this run was started; choose another --run NAME"
    for key, before in saved.get("recipe", {}).items():
        if (now := facts["recipe"].get(key)) != before:
            return f"its recipe had {key} {before}, now it is {now}; choose another --run NAME"
    if saved.get("progressive") != facts.get("progressive"):
        return "the schedule of --progressive has changed since then; choose another --run NAME"
    return ""


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def environment(device: str) -> dict[str, Any]:
    """What a run's result may depend on beside its arguments: versions, machine, commit."""
    packages = ("torch", "torchvision", "optuna", "numpy", "compound-nas")
    versions = {name: metadata.version(name) for name in packages}
    where = torch.device(device)
    here = where.type != "cuda" or torch.cuda.is_available()  # else the nodes of a Ray cluster have it
    return {
        "versions": {"python": platform.python_version(), **versions, "commit": _commit()},
        "machine": {
            "system": platform.platform(),
            "device": device,
            "threads": torch.get_num_threads(),
            "arithmetic": str(mixed_dtype(where) or torch.float32).removeprefix("torch.") if here else None,
        },
    }


def _commit() -> str | None:
    """The commit of the source tree that this code runs from, if it is one."""
    here = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(here), "log", "-1", "--format=%H", "--", str(here)]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def write_run(path: Path, facts: Mapping[str, Any]) -> None:
    """Write run.toml."""
    write_atomic(path / "run.toml", to_toml(facts))
