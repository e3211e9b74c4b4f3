"""The facts in run.toml: how those of two runs differ, and the environment that results depend on."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Set
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nas.base.errors import UserError
from nas.base.machine import default_threads
from nas.devices.device import mixed_dtype
from nas.networks.cost import Deployment
from nas.spaces.space import SearchSpace

# Arguments that say where a run computes, not what: they may differ when it is continued.
ANYWHERE = {"device", "workers", "storage", "processes"}

# The values of arguments that older versions did not have.
FORMERLY = {"metric": "accuracy", "resize": "crop", "recipe": "proxy"}

# Arguments that were renamed: the old name, and the new one.
RENAMED = {"pieces": "microbatches"}

# Options of nas.search that older versions had.
REMOVED = ("early_stopping", "progressive")

# Arguments that say how far a search goes: they may differ when it is continued, and run.toml has the last ones.
EXTENT = ("trials", "time_budget", "confirm")

# Arguments that follow from the space and the data by default: a changed space or data set is reported before them.
DERIVED = {"resolution", "image_size", "target_madds"}

# Tables of run.toml whose fingerprints must not change while a run goes on, and what they are.
FINGERPRINTED = {
    "space": "search space",
    "data": "data set",
    "network": "network",
    "pretrained": "file of pretrained weights",
}


def difference(saved: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """How the facts of a run to be continued differ from the saved ones; "" if in nothing that matters."""
    old = {RENAMED.get(key, key): value for key, value in saved.get("arguments", {}).items()}
    new = facts["arguments"]
    if gone := removed_option(old):
        return f"this run was started with {gone}, which nas.search no longer has; choose another --run NAME"
    keys = (set(old) | set(new)) - ANYWHERE - {*EXTENT}
    if differs := _changed(old, new, keys - DERIVED):
        return differs
    for table, what in FINGERPRINTED.items():
        if saved.get(table, {}).get("fingerprint") != facts.get(table, {}).get("fingerprint"):
            return f"the {what} has changed since this run was started; choose another --run NAME"
    for table in ("recipe", "proxy"):
        for key, before in saved.get(table, {}).items():
            if (now := facts.get(table, {}).get(key)) != before:
                return f"its recipe had {key} {before}, now it is {now}; choose another --run NAME"
    if saved.get("progressive") != facts.get("progressive"):
        return "the schedule of its recipe (progressive) has changed since then; choose another --run NAME"
    return _changed(old, new, keys & DERIVED)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], keys: Set[str]) -> str:
    """The first of these arguments that differs, as the reason to refuse a run; "" if none does."""
    for key in sorted(keys):
        before, now = (arguments.get(key, FORMERLY.get(key)) for arguments in (old, new))
        if before != now:
            option = f"--{key.replace('_', '-')}"
            why = " (the learning rate's schedule depends on it)" if key == "epochs" else ""
            return (
                f"this run was started with {option} {_shown(before)}, now it is {_shown(now)}{why}; "
                "give the same arguments to continue it, or another --run NAME"
            )
    return ""


def command_of(facts: Mapping[str, Any]) -> str:
    """The command that made the run with these facts."""
    return "train" if "network" in facts else "search"


def deployment_of(facts: Mapping[str, Any]) -> Deployment:
    """The classes and channels that a run's costs are counted for; those of published networks if it names none."""
    saved = facts.get("cost")
    known = saved if isinstance(saved, Mapping) else {}
    numbers = [known.get(key, default) for key, default in (("classes", 1000), ("channels", 3))]
    return Deployment(*numbers) if all(isinstance(n, int) and n > 0 for n in numbers) else Deployment()


def space_of(facts: Mapping[str, Any]) -> SearchSpace | None:
    """The space of a search, fitted and deployed; None if its file is gone or has changed since."""
    arguments, deployment = facts.get("arguments", {}), deployment_of(facts)
    try:
        space = SearchSpace.load(str(arguments.get("space", "")))
        pixels = arguments.get("resolution", space.resolution)
        fitted = space.at(pixels) if arguments.get("no_fit") else space.fitted(pixels, arguments.get("width"))
        found = fitted.deployed(deployment.num_classes, deployment.in_channels)
    except (UserError, TypeError, ValueError):
        return None
    return found if found.fingerprint == facts.get("space", {}).get("fingerprint") else None


def removed_option(arguments: Mapping[str, Any]) -> str:
    """The option among a run's arguments that nas.search no longer has, as it was typed; "" if there is none."""
    return next((f"--{key.replace('_', '-')}" for key in REMOVED if arguments.get(key)), "")


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def environment(device: str) -> dict[str, Any]:
    """What a run's result may depend on besides its arguments: versions, machine, commit."""
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
