"""A small search that is killed by SIGKILL at random times, and what must be so after each kill."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from tests.helpers.processes import start

SPACE = """resolution = 32
stem = 8
head = 32
stages = ["ds_r1_k{3|5}_s2_e1_c{8|16}_se{0|0.25}", "ir_r{1|2}_k3_s2_e{2|3}_c{16|24}"]
"""
TIMES = ["seconds", "step_seconds"]
TRIALS = 6


@dataclass(frozen=True)
class Killed:
    """Kills, and how many of them found no finished trial yet, some, or all of them; the runs that ended."""

    kills: int
    before_first: int
    ended_runs: int
    finished: tuple[int, ...]  # trials in trials.csv at each kill


def prepare(folder: Path) -> list[str]:
    """Images of two classes and a small space in a folder; returns the arguments of a search of them."""
    for label, name in enumerate(("left", "right")):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(40):
            picture = Image.new("L", (16, 16), 40 + i)
            picture.paste(200 - 2 * i, (8 * label, i % 8, 8 * label + 8, 16))
            picture.save(folder / "images" / name / f"{i}.png")
    (folder / "space.toml").write_text(SPACE)
    search = ["--space", "space.toml", "--data", "images", "--trials", str(TRIALS), "--epochs", "3"]
    return [*search, "--workers", "1", "--device", "cpu", "--confirm", "1"]


def small_picture(*_: object) -> Figure:
    """Takes the place of a whole one, which takes half of the time of a search."""
    return Figure((3, 2))


def run_for(folder: Path, arguments: list[str], seconds: float | None) -> bool:
    """Run the command in a forked process and kill it after so long; returns whether it ended by itself, well."""
    process = start(folder, "search", arguments, {"nas.plots.figures.pareto": small_picture})
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0, f"exit code {process.exitcode}"
    return True


def finished(run: Path) -> pd.DataFrame:
    """What trials.csv holds; every file that is there must be whole."""
    if (run / "pareto.png").exists():
        with Image.open(run / "pareto.png") as picture:
            picture.load()
    for name in ("pareto.csv", "trials.csv"):
        if (run / name).exists():
            table = pd.read_csv(run / name)
    return table if (run / "trials.csv").exists() else pd.DataFrame(columns=["trial"])


def without_times(file: Path) -> str:
    """A table as text, without its columns of times."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    return str(table.drop(columns=TIMES).to_csv(index=False))


def survive(folder: Path, kills: int, seed: int) -> Killed:
    """Kill a search so often; raises AssertionError where something is lost, half-written or different."""
    arguments = prepare(folder)
    start(folder, "cost", ["efficientnet_b0"]).join()  # the first process takes longer
    began = time.perf_counter()
    assert run_for(folder, [*arguments, "--run", "whole"], None)
    whole = time.perf_counter() - began
    rng = random.Random(seed)
    seen: list[int] = []
    runs = 0

    def limit() -> float | None:
        return rng.uniform(0, whole / 2) if len(seen) < kills else None

    while len(seen) < kills:
        run = folder / "runs" / f"run{runs}"
        known: set[int] = set()
        while not run_for(folder, [*arguments, "--run", run.name], limit()):
            trials = finished(run)
            assert known <= set(trials["trial"]), f"lost {known - set(trials['trial'])}"
            known = set(trials["trial"])
            seen.append(len(trials))
        for name in ("trials.csv", "pareto.csv"):
            assert without_times(run / name) == without_times(folder / "runs/whole" / name), f"{run.name}/{name}"
        runs += 1
    return Killed(len(seen), sum(count == 0 for count in seen), runs, tuple(seen))
