"""A run: one directory with its config, its lock and its studies, so that nothing is lost and nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import sqlalchemy
from filelock import Timeout
from optuna.samplers import BaseSampler

from nas.base import cli
from nas.base.errors import RunFailed, UserError
from nas.base.files import file_lock, read_csv, read_toml, to_toml, write_atomic
from nas.networks.architecture import Architecture
from nas.runs import database
from nas.runs.facts import EXTENT, command_of, difference
from nas.runs.lookup import BASELINE


@dataclass(frozen=True)
class Run:
    """A run directory. Its files are read at each access, so a run in progress is seen in its current state.

    storage: the URL of a database in place of study.db, which other processes may use as well. Every property raises
    UserError if its file is missing or damaged.
    """

    path: Path
    storage: str | None = None

    @property
    def file(self) -> Path:
        """run.toml, which makes a directory a run."""
        return self.path / "run.toml"

    @property
    def config(self) -> Mapping[str, Any]:
        """The contents of run.toml: all that is needed to repeat the run."""
        return read_toml(self.file)

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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory and lock it against other processes; raises UserError if that fails.

        If the file system has no locks, this only prints a warning; with a storage, other machines may work on the run
        too. Raises RunFailed if the database fails meanwhile.
        """
        path = self.path
        with ExitStack() as stack:
            try:
                path.mkdir(parents=True, exist_ok=True)
                if not self.storage and not stack.enter_context(file_lock(path / ".lock", wait=False)):
                    cli.say(f"warning: {path} is on a file system without locks: start no second command on this run")
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
                    f"{path}: the study cannot be written ({database.reason(error)}); finished trials are kept"
                ) from None

    def is_begun(self, facts: Mapping[str, Any]) -> bool:
        """Whether the run exists.

        Raises UserError if the directory is another command's run, or if the run was started with other arguments,
        space, data or storage than these facts say; those of EXTENT may differ.
        """
        path, mine = self.path, command_of(facts)
        if not self.file.exists():
            if (path / "scale").is_dir() and not (path / "trials.csv").exists():
                raise UserError(f"{path}: holds a family of nas.scale; choose another --run NAME for nas.{mine}")
            return False
        if mine != (its := command_of(self.config)):
            raise UserError(f"{path}: is a run of nas.{its}; choose another --run NAME for nas.{mine}")
        if "storage" in self.config and not self.storage:
            raise UserError(f"{path}: the trials of this run are in --storage {self.config['storage']}; give it again")
        if differs := difference(self.config, facts):
            raise UserError(f"{path}: {differs}")
        return True

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write run.toml; for a run that is continued, only the arguments in EXTENT change."""
        if not self.file.exists():
            write_atomic(self.file, to_toml({"storage": self.shown_storage, **facts}))
            return
        saved, now = self.config, facts["arguments"]
        before = saved["arguments"]
        merged = {key: now.get(key) if key in EXTENT else before[key] for key in {**before, **dict.fromkeys(EXTENT)}}
        arguments = {key: value for key, value in merged.items() if value is not None}
        if arguments != before:
            write_atomic(self.file, to_toml({**saved, "arguments": arguments}))

    @property
    def shown_storage(self) -> str | None:
        """The storage without its password; None where it is study.db."""
        return database.shown_url(self.storage) if self.storage else None

    def study(
        self,
        part: str = "",
        directions: Sequence[database.Direction] = ("maximize",),
        sampler: BaseSampler | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> optuna.Study:
        """Open or create one of the run's studies, or a part of it such as its repeats; raises UserError.

        facts: what other processes that use it must agree with.
        """
        name = f"{self.path.name}-{part}" if part else self.path.name
        known = not part and self.file.exists()
        study = database.open_study(self.path, name, directions, sampler, self.storage, known, facts)
        if not part and not known and not self.storage and study.get_trials(deepcopy=False):
            raise UserError(f"{self.path}: study.db holds trials, but run.toml is missing; restore it")
        return study

    def _table(self, name: str) -> pd.DataFrame:
        file = self.path / name
        try:
            return read_csv(file, ("trial", "architecture"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read as a table of trials: {error}") from None
