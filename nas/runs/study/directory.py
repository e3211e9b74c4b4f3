"""A run's directory: its name, its lock, and run.toml, which says what the run is of."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
import torch
from filelock import Timeout

from nas.base.errors import RunFailed, UserError
from nas.base.files import file_lock, read_toml, to_toml, write_atomic
from nas.base.machine import default_threads
from nas.devices.device import mixed_dtype

Direction = Literal["maximize", "minimize"]

# Arguments that say where a run computes, not what: they may differ when it is continued.
ANYWHERE = {"device", "workers", "storage", "processes"}

# What arguments are that older versions did not have.
FORMERLY = {"metric": "accuracy", "resize": "crop", "recipe": "proxy"}

# Arguments that older versions called otherwise.
RENAMED = {"pieces": "microbatches"}

# Options of nas.search that older versions had.
REMOVED = ("early_stopping", "progressive")

# Arguments that say how far a search goes: they may differ when it is continued, and run.toml has the last ones.
EXTENT = ("trials", "time_budget", "confirm")

# Tables of run.toml whose fingerprints must not change while a run goes on, and what they are.
FINGERPRINTED = {
    "space": "search space",
    "data": "data set",
    "network": "network",
    "pretrained": "file of pretrained weights",
}


@contextmanager
def locked(path: Path, say: Callable[[str], None], shared: bool = False) -> Iterator[None]:
    """Make a run's directory and keep other processes out of it; raises UserError if that cannot be.

    Where the file system has no locks, nobody is kept out, and that is said. shared: whether others may be at work on
    the run, perhaps from other machines; then nobody is kept out either. A database that fails meanwhile raises
    RunFailed.
    """
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not shared and not stack.enter_context(file_lock(path / ".lock", wait=False)):
                say(f"warning: {path} is on a file system without locks: start no second command on this run")
        except Timeout:
            raise UserError(
                f"{path}: another process has this run open; wait for it, or choose another --run"
            ) from None
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}; choose another --run") from None
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise RunFailed(
                f"{path}: the study cannot be written ({reason(error)}); finished trials are kept"
            ) from None


def reason(error: BaseException) -> str:
    """The innermost cause of a database's error, in one line."""
    inner = error.__cause__ or error
    return str(getattr(inner, "orig", None) or inner).strip().splitlines()[0][:120]


def check_arguments(path: Path, facts: Mapping[str, Any], storage: str | None = None) -> bool:
    """Whether the run exists.

    Raises UserError if the directory is another command's run, or if the run was started with other arguments, space,
    data or storage; those of EXTENT may differ.
    """
    file = path / "run.toml"
    if not file.exists():
        if (path / "scale").is_dir() and not (path / "trials.csv").exists():
            raise UserError(f"{path}: holds a family of nas.scale; choose another --run NAME for nas.{_command(facts)}")
        return False
    saved = read_toml(file)
    mine, its = _command(facts), _command(saved)
    if mine != its:
        raise UserError(f"{path}: is a run of nas.{its}; choose another --run NAME for nas.{mine}")
    if "storage" in saved and not storage:
        raise UserError(f"{path}: the trials of this run are in --storage {saved['storage']}; give it again")
    if differs := difference(saved, facts):
        raise UserError(f"{path}: {differs}")
    return True


def _command(facts: Mapping[str, Any]) -> str:
    """The command whose run these facts of run.toml are of."""
    return "train" if "network" in facts else "search"


def difference(saved: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """In what a run that is about to be continued differs from what was saved of it; "" if in nothing that matters."""
    old = {RENAMED.get(key, key): value for key, value in saved.get("arguments", {}).items()}
    new = facts["arguments"]
    if gone := removed_option(old):
        return f"this run was started with {gone}, which nas.search no longer has; choose another --run NAME"
    for key in sorted((set(old) | set(new)) - ANYWHERE - {*EXTENT}):
        before, now = (arguments.get(key, FORMERLY.get(key)) for arguments in (old, new))
        if before != now:
            option = f"--{key.replace('_', '-')}"
            why = " (the learning rate's schedule is made for so many)" if key == "epochs" else ""
            return (
                f"this run was started with {option} {_shown(before)}, now it is {_shown(now)}{why}; "
                "give the same arguments to continue it, or another --run NAME"
            )
    for table, what in FINGERPRINTED.items():
        if saved.get(table, {}).get("fingerprint") != facts.get(table, {}).get("fingerprint"):
            return f"the {what} has changed since this run was started; choose another --run NAME"
    for table in ("recipe", "proxy"):
        for key, before in saved.get(table, {}).items():
            if (now := facts.get(table, {}).get(key)) != before:
                return f"its recipe had {key} {before}, now it is {now}; choose another --run NAME"
    if saved.get("progressive") != facts.get("progressive"):
        return "the schedule of its recipe (progressive) has changed since then; choose another --run NAME"
    return ""


def removed_option(arguments: Mapping[str, Any]) -> str:
    """The option among a run's arguments that nas.search no longer has, as it was typed; "" if there is none."""
    return next((f"--{key.replace('_', '-')}" for key in REMOVED if arguments.get(key)), "")


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
            "threads": default_threads(),
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


def extend_run(path: Path, facts: Mapping[str, Any]) -> None:
    """Let the run.toml of a run that is continued say how far it goes now: the arguments of EXTENT."""
    saved = read_toml(path / "run.toml")
    before, now = saved["arguments"], facts["arguments"]
    merged = {key: now.get(key) if key in EXTENT else before[key] for key in {**before, **dict.fromkeys(EXTENT)}}
    arguments = {key: value for key, value in merged.items() if value is not None}
    if arguments != before:
        write_run(path, {**saved, "arguments": arguments})
