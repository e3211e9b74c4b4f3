"""A run as its files are now: what a search gives to a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas.base.errors import UserError
from nas.base.files import read_csv, read_toml
from nas.networks.architecture import Architecture
from nas.runs.lookup import BASELINE


@dataclass(frozen=True)
class Run:
    """A run directory. Its files are read at each look, so a run that goes on is seen as it is.

    Every property raises UserError where its file is not there yet, or damaged.
    """

    path: Path

    @property
    def config(self) -> Mapping[str, Any]:
        """What run.toml says: all that is needed to repeat the run."""
        return read_toml(self.path / "run.toml")

    @property
    def trials(self) -> pd.DataFrame:
        """The finished trials, as in trials.csv."""
        return self._table("trials.csv")

    @property
    def front(self) -> pd.DataFrame:
        """The non-dominated trials, as in pareto.csv."""
        return self._table("pareto.csv")

    @property
    def baseline(self) -> Architecture:
        """The network that was picked."""
        return Architecture.load(self.path / BASELINE)

    def _table(self, name: str) -> pd.DataFrame:
        file = self.path / name
        try:
            return read_csv(file, ("trial", "architecture"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read as a table of trials: {error}") from None
