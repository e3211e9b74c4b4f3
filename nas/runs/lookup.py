"""Finds the runs and networks that a user names.

Torch is not imported here, so that a command refuses a wrong name quickly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.files import read_csv, read_toml
from nas.base.units import nearest
from nas.networks.architecture import Architecture, family_names
from nas.networks.blocks import OPS

RUNS = Path("runs")  # relative to the working directory
BASELINE, NETWORK = "baseline.toml", "network.toml"  # what a search picks, what a training trains
LONGEST, TRAINED = 100, "-train"  # characters of a run's name; how the default name of a training ends
FALLBACK = "efficientnet_b0"  # if no network is named and there is no run


@dataclass(frozen=True)
class FoundNetwork:
    """A network that a user named.

    origin: its name for display. label: a short name that may be part of a file name. run: the directory of the run
    that it comes from, if any; facts: that run's run.toml, {} without one.
    """

    architecture: Architecture
    origin: str
    label: str
    run: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def find_network(text: str | None, where: str = "network") -> FoundNetwork:
    """The network that a text names; raises UserError, whose message begins with `where`.

    The text is the name of a bundled network; a .toml file; block strings; the name or directory of a run, for its
    baseline or the network it trained; or RUN:TRIAL, one network of a search. None means the newest run's baseline, or
    EfficientNet-B0 if no run has one.
    """
    if text is None:
        newest = newest_run()
        return _of_run(newest, newest.name, where) if newest else find_network(FALLBACK)
    text = text.strip()
    path = Path(text)
    if text in family_names():
        return FoundNetwork(Architecture.load(text), text, text)
    if path.suffix == ".toml":
        return _of_file(path)
    if run := find_run(text):
        return _of_run(run, text, where)
    name, colon, trial = text.rpartition(":")
    if colon and trial.isdecimal():
        if run := find_run(name):
            return _of_trial(run, name, int(trial), where)
        raise UserError(_unknown(name, where, text))
    if "/" in text:
        return _of_file(path)
    if re.search(r"[\s,]", text) or text.split("_")[0] in OPS or "_k" in text:
        arch = Architecture.parse(text)
        return FoundNetwork(arch, f"network {arch.hash}", arch.hash)
    raise UserError(_unknown(text, where))


def run_path(name: str) -> Path:
    """The directory of a run; raises UserError for a name that could leave the runs directory."""
    if not _is_run_name(name):
        raise UserError(
            f"--run {name[:60]!r}: a run's name is made of letters, digits, '_', '-' and '.' and starts with a letter, "
            "a digit or '_'"
        )
    return RUNS / name


def default_name(*words: str, trained: bool = False) -> str:
    """The default name of a run, made of `words`: a training's ends in -train, and no other does."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", "-".join(words))
    end = TRAINED if trained else "-search" if name[:LONGEST].endswith(TRAINED) else ""
    return name[: LONGEST - len(end)] + end


def find_run(text: str) -> Path | None:
    """The directory of a run by its name, or else by its path; None if there is neither."""
    if _is_run_name(text) and (RUNS / text).is_dir():
        return RUNS / text
    if not os.path.isdir(text):  # Path.is_dir raises for a text too long for a path
        return None
    path = Path(text)
    return path if path.name not in ("", "..") else path.resolve()  # its name is the run's


def newest_run() -> Path | None:
    """The run whose baseline was written last, if there is one."""
    return max(_runs_with(BASELINE), key=lambda run: (run / BASELINE).stat().st_mtime_ns, default=None)


def facts_of(run: Path) -> dict[str, Any]:
    """The contents of a run's run.toml, {} without one; raises UserError."""
    file = run / "run.toml"
    return read_toml(file) if file.exists() else {}


def _is_run_name(text: str) -> bool:
    return re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}", text) is not None


def _runs_with(file: str) -> list[Path]:
    return [found.parent for found in RUNS.glob(f"*/{file}")] if RUNS.is_dir() else []


def _unknown(name: str, where: str, text: str | None = None) -> str:
    """The error about a name that matches nothing."""
    known = {run.name for file in (BASELINE, NETWORK) for run in _runs_with(file)}
    known |= set() if text else set(family_names())
    hint = nearest(name[:60], known) if known else "python -m nas.search makes one"
    others = "" if text else "; or give a path to a .toml file, or block strings"
    return f"{where} {(text or name)[:60]!r}: no run of this name in {RUNS}/; {hint}{others}"


def _of_run(run: Path, origin: str, where: str) -> FoundNetwork:
    """A run's baseline, or the network that it trained; raises UserError."""
    for file, label in ((BASELINE, run.name), (NETWORK, f"{run.name}-again")):
        if (run / file).exists():
            return FoundNetwork(Architecture.load(run / file), f"run {run.name}", label, run, facts_of(run))
    raise UserError(f"{where} {origin[:60]!r}: the run has no front yet, so no baseline; continue its search first")


def _of_file(file: Path) -> FoundNetwork:
    """The network in a file, and the run that the file lies in."""
    arch = Architecture.load(file)
    run = next((folder for folder in file.absolute().parents[:2] if (folder / "run.toml").is_file()), None)
    label = f"{run.name}-{file.stem}" if run else file.stem
    return FoundNetwork(arch, str(file), label, run, facts_of(run) if run else {})


def _of_trial(run: Path, name: str, trial: int, where: str) -> FoundNetwork:
    """One network of a search, by its number in trials.csv; raises UserError."""
    file = run / "trials.csv"
    if not file.is_file():
        raise UserError(f"{where} {name}:{trial}: the run has no trials ({file}); give the name of a search")
    try:
        known = read_csv(file, ("trial", "architecture")).set_index("trial")["architecture"]
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a table of trials: {error}") from None
    if trial not in known.index:
        hint = f"it has {', '.join(map(str, known.index[:3]))}, … {known.index.max()}" if len(known) else "it has none"
        raise UserError(f"{where} {name}:{trial}: the run has no finished trial {trial}; {hint}")
    arch = Architecture.parse(str(known[trial]))
    return FoundNetwork(arch, f"trial {trial} of run {name}", f"{run.name}-{trial}", run, facts_of(run))
