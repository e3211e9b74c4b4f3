"""Commands in processes of their own, for tests that kill them: forked from a fresh one that has imported all.

Threads of other tests would not survive a fork of this process, and leave locks that are held for ever.
"""

import multiprocessing
import os
import runpy
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

OUT, ERR = "stdout.txt", "stderr.txt"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nas.search.command", "nas.scale.command", "nas.train.command"])


def no_picture(path: Path, *_: Any, **__: Any) -> None:
    """Takes the place of `nas.plots.figures.draw`: these tests do not look at pictures."""
    path.write_bytes(b"")


BLANK = {"nas.plots.figures.draw": no_picture}


def run_command(
    folder: Path, name: str, arguments: list[str], changed: Mapping[str, Any] = BLANK, **environment: str
) -> None:
    """`python -m nas.NAME ARGUMENTS` in this process, in a folder that gets its cache and its output.

    changed: values of modules, such as {"nas.training.trainer.CHECKPOINT_SECONDS": 0}.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a fork server ignores it
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.update({"XDG_CACHE_HOME": str(folder / "cache")} | environment)
    for number, file in ((1, OUT), (2, ERR)):
        with open(folder / file, "a") as opened:
            os.dup2(opened.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    for place, value in changed.items():
        module, _, attribute = place.rpartition(".")
        setattr(import_module(module), attribute, value)
    sys.argv = [f"nas.{name}", *arguments]
    runpy.run_module(f"nas.{name}", run_name="__main__", alter_sys=True)


def start(
    folder: Path, name: str, arguments: list[str], changed: Mapping[str, Any] = BLANK, **environment: str
) -> BaseProcess:
    """`run_command` in a process of its own."""
    process = CONTEXT.Process(target=run_command, args=(folder, name, arguments, changed), kwargs=environment)
    process.start()
    return process


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait, but not for ever."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def trial_states(run: Path) -> list[str]:
    """Of the trials in the study of a run, if it has one."""
    try:
        with sqlite3.connect(f"file:{run / 'study.db'}?mode=ro", uri=True) as database:
            return [state for (state,) in database.execute("select state from trials")]
    except sqlite3.Error:
        return []


def interrupt(folder: Path, name: str, arguments: list[str], run: str, by: signal.Signals, finished: int) -> int | None:
    """Start a command, and send it a signal when so many trials are done and one is in training; its exit code."""
    process = start(folder, name, arguments)

    def so_far() -> bool:
        states = trial_states(folder / "runs" / run)
        return states.count("COMPLETE") >= finished and "RUNNING" in states

    until(so_far)
    os.kill(process.pid or 0, by)
    process.join(60)
    return process.exitcode
