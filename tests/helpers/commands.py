"""The commands as tests call them: a small space, a small network, a recipe, and arguments that end within seconds."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPACE = """
stem = 8
head = 16
resolution = 32
target_madds = 400000
stages = ["ds_r{1|2}_k3_s1_c8", "ir_r{1|2}_k{3|5}_s2_e{2|3}_c{8|16}_se{0|0.25}"]
"""
NET = "32px stem8 ds_r1_k3_s1_c8_se0.25 ir_r2_k3_s2_e3_c16 head32"
RECIPE = """
epochs = 3
batch_size = 24
learning_rate = 0.01
optimizer = "sgd"
ema = 0.9
dropout = 0.2
drop_path = 0.2
label_smoothing = 0.1
crop = 0.5
randaugment = 5
erase = 0.3
mixup = 0.2
cutmix = 0.5
clip = 5.0
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def search_arguments(images: Path, *more: str) -> list[str]:
    """The arguments of a search of the small space, which ends within seconds."""
    return ["--space", "small.toml", "--data", str(images), "--run", "r", "--trials", "6", "--workers", "1", *more]


def train_arguments(images: Path, *more: str) -> list[str]:
    """The arguments of a training of a small network by the recipe r.toml."""
    return [NET, "--data", str(images), "--device", "cpu", "--recipe", "r.toml", *more]


def start(here: Path, *arguments: str) -> subprocess.Popen[str]:
    """A search in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "nas.search", *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},  # as the tests' own process has
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted(here: Path, arguments: list[str], blow: signal.Signals, finished: int) -> tuple[int, str]:
    """Start a search, and end it when so many trials are done and another one is in training: exit code, stderr."""
    process = start(here, *arguments)
    for _ in range(1200):
        try:
            with sqlite3.connect(f"file:{here / 'runs/r/study.db'}?mode=ro", uri=True) as database:
                states = [state for (state,) in database.execute("select state from trials")]
            if states.count("COMPLETE") >= finished and "RUNNING" in states:
                break
        except sqlite3.Error:
            pass
        time.sleep(0.05)
    else:
        raise AssertionError("the search did not get so far")
    process.send_signal(blow)
    _, err = process.communicate(timeout=60)
    return process.returncode, err
