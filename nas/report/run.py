"""A run as read from its directory without its lock: the tables and facts that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from nas.base.errors import UserError
from nas.base.files import read_csv, read_toml
from nas.base.metrics import metric_of
from nas.base.units import nearest
from nas.runs.database import read_study
from nas.runs.lookup import NETWORK, RUNS, find_run

# The columns that each table of a run must have: numbers (those of accuracy are named by the run's metric), and texts.
TABLES: dict[str, tuple[str, str]] = {
    "trials.csv": (
        "trial accuracy madds flops params activations epochs seconds accuracy_error step_seconds runs mean_accuracy "
        "mean_error",
        "state architecture hash",
    ),
    "pareto.csv": ("trial probability reward", "baseline"),
    "sensitivity.csv": ("stage trials accuracy_effect accuracy_effect_sd madds_effect", "choice kind value"),
    "scale/grid.csv": (
        "alpha beta gamma product counted_ratio accuracy madds params resolution first_accuracy accuracy_error "
        "error_freedom stage epochs trainings image_size",
        "paper picked hash",
    ),
    "scale/rules.csv": (
        "depth width resolution madds params activations accuracy accuracy_error error_freedom trainings epochs "
        "step_seconds",
        "rule picked architecture",
    ),
    "scale/family.csv": (
        "phi depth width resolution madds params activations nominal_ratio counted_ratio train_memory "
        "train_memory_batch",
        "architecture",
    ),
    "scale/published.csv": ("member madds params", "name"),
}
MORE = ("latency", "latency_measured")  # further columns of numbers, if a table has them
FACTS = ("run.toml", "scale/scale.toml")
WATCHED = (*FACTS, *TABLES)  # what the page is made from, but for the study


@dataclass(frozen=True)
class Run:
    """The tables and facts of a run; missing tables are empty, missing facts an empty mapping.

    study_trials: the trials of its study, which also hold curves and trials in training. study_error: why the study
    could not be read, "" if it could. trials: with the latency_measured of those on the front.
    """

    path: Path
    facts: dict[str, Any]
    scaling: dict[str, Any]
    trials: pd.DataFrame
    front: pd.DataFrame
    effects: pd.DataFrame
    grid: pd.DataFrame
    rules: pd.DataFrame
    family: pd.DataFrame
    published: pd.DataFrame
    study_trials: Sequence[FrozenTrial]
    study_error: str

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials in training."""
        begun = (trial for trial in self.study_trials if trial.state == TrialState.RUNNING)
        return [trial for trial in begun if "architecture" in trial.user_attrs]

    @property
    def metric(self) -> str:
        """The column by which networks are ranked; raises UserError."""
        return metric_of(None, self.facts or self.scaling)

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.absolute().name

    def fact(self, table: str, key: str, default: Any = None) -> Any:
        """One entry of run.toml."""
        return table_of(self.facts, table).get(key, default)


def table_of(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a TOML file; empty if there is none."""
    found = facts.get(name)
    return found if isinstance(found, dict) else {}


def find(text: str) -> Path:
    """The directory of a run named by its name under runs/ or by its path; raises UserError."""
    path = find_run(text)
    if path is None:
        known = {folder.name for folder in RUNS.iterdir() if folder.is_dir()} if RUNS.is_dir() else set()
        hint = nearest(text, known) if known else f"there are no runs in {RUNS}/ here"
        raise UserError(f"{text[:100]!r}: no run of this name and no directory; {hint}")
    if not any((path / file).is_file() for file in WATCHED):
        raise UserError(f"{path}: is no run's directory: it has none of {', '.join(WATCHED)}")
    if (path / NETWORK).is_file():
        raise UserError(f"{path}: is a training's run, which has its own curve.png; name a search's or a scaling's")
    return path


def read(path: Path) -> Run:
    """Read a run's directory as it is now; raises UserError for a file that is damaged."""
    facts, scaling = (read_toml(path / file) if (path / file).is_file() else {} for file in FACTS)
    metric = metric_of(None, facts or scaling)
    trials, front, effects, grid, rules, family, published = (_table(path, file, metric) for file in TABLES)
    study_trials: Sequence[FrozenTrial] = ()
    study_error = ""
    try:
        found = read_study(path, path.absolute().name)
        study_trials = found.get_trials(deepcopy=False) if found else ()
    except UserError as error:  # the tables hold nearly everything
        study_error = str(error)
    trials = trials[trials["state"] != "PRUNED"]  # older versions stopped some trainings early
    if "latency_measured" in front:
        whole = front.drop_duplicates("trial").set_index("trial")["latency_measured"]
        trials = trials.assign(latency_measured=trials["trial"].map(whole))
    tables = (trials, front, effects, grid, rules, family, published)
    return Run(path, facts, scaling, *tables, study_trials, study_error)


def _table(path: Path, name: str, metric: str) -> pd.DataFrame:
    """A table of a run with its numbers as numbers; empty if the file is not there."""
    file, texts = path / name, TABLES[name][1].split()
    numbers = TABLES[name][0].replace("accuracy", metric).split()
    if not file.is_file():
        return pd.DataFrame(columns=[*numbers, *texts])
    try:
        table = read_csv(file, (*numbers, *texts))
        if "pixels" in table:  # older versions wrote resolution as a factor
            raise ValueError("its resolution is a factor: an older version wrote it")
        known = (*numbers, *(name for name in MORE if name in table))
        table = table.assign(**{name: pd.to_numeric(table[name]).astype(float) for name in known})
        if not np.isfinite(table[numbers[0]]).all():
            raise ValueError(f"{numbers[0]} is missing in a row")
        return table
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:160]
        remedy = "restore it from a copy, or write it anew by the command that made it"
        raise UserError(f"{file}: cannot be read as a table ({cause}); {remedy}") from None
