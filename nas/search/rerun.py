"""A run repeated from its run.toml: its arguments become defaults, and differences are listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from nas.base.errors import UserError
from nas.base.files import read_toml
from nas.runs.facts import removed_option


def defaults(context: typer.Context, file: Path | None) -> Path | None:
    """Take the options that are not given from a run.toml; raises UserError.

    The name of the new run is that of the old one with "-again", unless --run is given.
    """
    if file is None:
        return None
    arguments = read_toml(file).get("arguments")
    options = {parameter.name for parameter in context.command.params}
    if isinstance(arguments, Mapping) and (gone := removed_option(arguments)):
        raise UserError(f"--from {file}: this run used {gone}, which nas.search no longer has; search anew without it")
    if not isinstance(arguments, Mapping) or not {"space", "data"} <= set(arguments) <= options:
        raise UserError(
            f"--from {file}: is no run.toml of a search; it would have a table [arguments] with its options"
        )
    listed = {name: ",".join(map(str, v)) if isinstance(v, list) else v for name, v in arguments.items()}
    context.default_map = {"run": f"{file.absolute().parent.name}-again", **listed}
    return file


def differences(file: Path, now: Mapping[str, Any]) -> list[str]:
    """How a run that is about to start differs from that of a run.toml, one line per difference."""
    found = []
    for table, before in read_toml(file).items():
        if not isinstance(before, Mapping):
            continue
        here = now.get(table) or {}
        for key in sorted(set(before) | {name for name, value in here.items() if value is not None}):
            if before.get(key) != _as_read(here.get(key)):
                found.append(f"{table}: {key} was {before.get(key, 'none')}, now it is {here.get(key, 'none')}")
    return found


def _as_read(value: Any) -> Any:
    """A value as it comes back from TOML."""
    return list(value) if isinstance(value, tuple) else value
