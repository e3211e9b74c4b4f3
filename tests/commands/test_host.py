"""What a host program keeps when it calls the library, and file systems that lack what others have."""

import errno
import fcntl
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from filelock import FileLock

from nas import datasets
from nas.base.files import file_lock
from nas.scale import scale
from nas.search import search
from nas.train import train
from tests.helpers.commands import NET, ROOT, Command, search_arguments

WITHOUT = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def state_of_process() -> dict[str, Any]:
    """What a library could change for everyone in its process."""
    loggers = {name: found for name, found in logging.root.manager.loggerDict.items() if "optuna" in name}
    return {
        "levels": {name: getattr(found, "level", None) for name, found in loggers.items()},
        "filters": list(warnings.filters),
        "random": (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "matplotlib": (mpl.get_backend(), mpl.rcParams.copy()),
        "pandas": pd.get_option("display.width"),
        "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.backends.cudnn.benchmark),
        "folder": Path.cwd(),
        "umask": os.umask(os.umask(0o22)),
        "hooks": (sys.excepthook, threading.excepthook, warnings.showwarning, sys.stdout, sys.stderr),
        "path": list(sys.path),
    }


@pytest.mark.pictures
@pytest.mark.filterwarnings("ignore")
def test_a_host_program_stays_as_it_was(here: Path, images: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    os.environ.setdefault("LINES", "40")
    before = state_of_process()
    os.umask(before["umask"])
    storage = f"sqlite:///{here}/shared.db"
    options = {"run": "r", "trials": 2, "epochs": 1, "workers": 2, "confirm": 1, "sampler": "tpe"}
    search(space="small.toml", data=str(images), storage=storage, **options)
    scale(phi="1", baseline="r", coefficients="1.2,1.1,1.15", workers=1)
    train(NET, data=str(images), run="t", epochs=1, device="cpu")
    after = state_of_process()
    os.umask(before["umask"])
    assert {name: value for name, value in after.items() if value != before[name]} == {}


def test_importing_changes_nothing_and_optunas_remarks_are_kept_quiet(here: Path, images: Path) -> None:
    """In a fresh process: the imports first, then a search."""
    program = (
        "import warnings, logging, optuna, torch, os, signal, random\n"
        "state = lambda: (list(warnings.filters), logging.getLogger('optuna').level, torch.get_num_threads(),\n"
        "    dict(os.environ), signal.getsignal(signal.SIGINT), random.getstate(), torch.get_rng_state().tolist())\n"
        "import matplotlib.pyplot, pandas, torchvision, filelock, rich.live, rich.progress, typer, plotly.tools\n"
        "import scipy.stats\n"
        "before = state()\n"
        "import nas, nas.search.__main__, nas.scale.__main__, nas.train.__main__, nas.cost.__main__\n"
        "import nas.report.__main__, nas.compare\n"
        "assert state() == before\n"
        "from nas.base import cli; cli.run(nas.search.command.search)\n"
    )
    given = search_arguments(images, "--trials", "1", "--sampler", "tpe", "--epochs", "1")
    words = [sys.executable, "-c", program, *given, "--storage", f"sqlite:///{here}/shared.db"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert ended.stderr == ""
    assert "trial 0" in ended.stdout
    assert "created in RDB" not in ended.stdout


@pytest.fixture(params=WITHOUT, ids=errno.errorcode.get)
def lockless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that locks no file."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock") as held:
        assert held
        with pytest.raises(TimeoutError), file_lock(tmp_path / "lock", wait=False):
            pass
    with file_lock(tmp_path / "lock", wait=False) as held:
        assert held


def test_without_locks_there_is_none(lockless: None, tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock") as held, file_lock(tmp_path / "lock", wait=False) as other:
        assert not held
        assert not other


def test_another_error_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), file_lock(tmp_path / "file" / "lock"):
        pass


def test_runs_and_caches_do_without_locks(lockless: None, command: Command, here: Path, images: Path) -> None:
    ended = command("search", *search_arguments(images, "--trials", "1", "--epochs", "1"))
    assert (ended.code, ended.err) == (0, "")
    said = [line for line in ended.out.splitlines() if "without locks" in line]
    assert said == ["warning: runs/r is on a file system without locks: start no second command on this run"]
    assert len(datasets.load(str(images)).classes) == 3
    assert list((here / "cache").rglob("*.npz"))


def test_a_lock_that_was_left_behind_holds_nothing(command: Command, here: Path, images: Path) -> None:
    (here / "runs/r").mkdir(parents=True)
    (here / "runs/r/.lock").write_text("1234\nsome host\n")
    assert command("search", *search_arguments(images, "--trials", "1", "--epochs", "1")).code == 0
    with FileLock(here / "runs/r/.lock"):
        assert command("search", *search_arguments(images, "--trials", "1", "--epochs", "1")).code == 2
