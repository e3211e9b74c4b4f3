"""What is scaled: a run's baseline, a file or a bundled network, with the data and the recipe of its trainings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nas import cli, datasets, study
from nas.architecture import Architecture, family_names
from nas.errors import UserError
from nas.files import read_toml
from nas.progressive import Schedule
from nas.proxy import Recipe
from nas.space import SearchSpace
from nas.units import nearest

FALLBACK = "efficientnet_b0"


@dataclass(frozen=True)
class Baseline:
    """What is scaled, the run directory that the results go to, and what its proxy trainings use."""

    architecture: Architecture
    origin: str
    path: Path
    data: str
    recipe: Recipe
    seed: int


def find_baseline(
    name: str | None, run: str | None, data: str | None, epochs: int | None, seed: int | None
) -> Baseline:
    """The baseline that a name, or its absence, stands for; raises UserError."""
    source = _run_of(name)
    saved: dict[str, Any] = {}
    if source is not None:
        arch, origin = Architecture.load(source / "baseline.toml"), f"run {source.name}"
        saved = read_toml(source / "run.toml") if (source / "run.toml").exists() else {}
        _check_space(arch, source, saved)
        path = study.run_path(run) if run else source
    else:
        name = name or FALLBACK
        arch, origin = Architecture.load(name), name
        path = study.run_path(run or Path(name).stem)
    own = path / "baseline.toml"
    if own.exists() and Architecture.load(own) != arch:
        raise UserError(f"--run {path.name}: that run has a baseline of its own; choose another --run for {origin}")
    arguments = saved.get("arguments", {})
    recipe = {f.name: saved["proxy"][f.name] for f in fields(Recipe) if f.name in saved.get("proxy", {})}
    if epochs is not None:
        recipe["epochs"] = epochs
    if "progressive" in saved:
        recipe["progressive"] = Schedule.of(saved["progressive"], f"{path / 'run.toml'}, progressive")
    return Baseline(
        arch,
        origin,
        path,
        data or arguments.get("data", datasets.DEFAULT),
        Recipe(**recipe),
        arguments.get("seed", 0) if seed is None else seed,
    )


def _run_of(name: str | None) -> Path | None:
    """The run that a name stands for, or the newest; None for a file, a bundled network, or where no run is."""
    if name is None:
        path = study.newest_run()
        if path is None:
            cli.say(f"no run with a baseline in {study.RUNS}/: scaling {FALLBACK} (python -m nas.search makes a run)")
        return path
    if "/" in name or name.endswith(".toml") or name in family_names():
        return None
    path = study.run_path(name)
    if not path.is_dir():
        runs = {found.parent.name for found in study.RUNS.glob("*/baseline.toml")} if study.RUNS.is_dir() else set()
        raise UserError(
            f"--baseline {name[:60]!r}: no run of this name in {study.RUNS}/; {nearest(name, {*runs, *family_names()})}"
        )
    if not (path / "baseline.toml").exists():
        raise UserError(
            f"--baseline {name[:60]!r}: the run has no front yet, so no baseline; continue its search first"
        )
    return path


def _check_space(arch: Architecture, source: Path, saved: dict[str, Any]) -> None:
    """Refuse a run's baseline that is not of its space; where the space is gone or has changed, nothing is known."""
    try:
        space = SearchSpace.load(str(saved.get("arguments", {}).get("space", "")))
    except UserError:
        return
    if space.fingerprint != saved.get("space", {}).get("fingerprint"):
        return
    try:
        space.encode(arch)
    except UserError as error:
        raise UserError(
            f"{source / 'baseline.toml'}: {error}; restore it, or copy it and give --baseline COPY.toml"
        ) from None
