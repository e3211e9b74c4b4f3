"""How long a command waits for its images when it starts, and each of its workers for theirs.

    python experiments/data_start.py [--files 20000] [--before COMMIT]

Writes data_start/starts.csv and RESULT.md. Makes a folder of small PNG files of its own, with a cache of its own, and
loads it in fresh processes: in the command (with the fingerprint that run.toml has), then in 1 or 4 workers at the same
time. Each start is measured in this tree and, from the history of git, in that of an earlier commit. Importing
torch and starting Python are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rows import append

HERE = Path(__file__).with_suffix("")
ROOT = Path(__file__).resolve().parents[1]
BEFORE = "d14255a"
CLASSES = 10
SIDE = 32  # pixels
REPEATS = 3
WORKERS = (1, 4)
STARTS = ("first", "second", "one file changed", "--recheck")

# Run in either tree, so in terms of what both have. Arguments: the folder, the number of workers, whether to recheck.
LOAD = """
import json, multiprocessing, sys, time
from dataclasses import replace
from nas import datasets
try:
    from nas.training import proxy as evaluate
    from nas.training.recipe import Recipe
except ImportError:
    from nas import evaluate
    from nas.proxy import Recipe

load_data = getattr(datasets, "load_data", None) or evaluate.load_data
try:
    from nas.runs.workers import for_other_processes
except ImportError:
    for_other_processes = getattr(evaluate, "for_other_processes", None)

def load(source, ready, told):
    ready.wait()
    began = time.perf_counter()
    load_data(source)
    told.put(time.perf_counter() - began)

if __name__ == "__main__":
    folder, workers, recheck = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
    new = hasattr(datasets, "Source")
    source = datasets.Source(name=folder, recheck=recheck) if new else folder
    began = time.perf_counter()
    load_data(source).fingerprint
    command = time.perf_counter() - began
    if new:
        source = for_other_processes(evaluate.Proxy(source, Recipe(), "cpu")).data
    context = multiprocessing.get_context("spawn")
    ready, told = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=load, args=(source, ready, told)) for _ in range(workers)]
    for process in processes:
        process.start()
    print(json.dumps([command, max(told.get() for _ in processes)]))
    for process in processes:
        process.join()
"""


def make(folder: Path, count: int) -> None:
    """Write so many images of noise, class by class."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / f"class{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(place / f"{i}.png")


def start(tree: Path, cache: Path, folder: Path, workers: int, recheck: bool) -> tuple[float, float]:
    """Seconds that a command of a source tree waits, and then the slowest of its workers."""
    (cache / "load.py").parent.mkdir(parents=True, exist_ok=True)
    (cache / "load.py").write_text(LOAD)
    environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(cache)}
    words = [sys.executable, str(cache / "load.py"), str(folder), str(workers), str(recheck)]
    ended = subprocess.run(words, env=environment, cwd=tree, stdout=subprocess.PIPE, check=True, text=True)
    command, slowest = json.loads(ended.stdout)
    return command, slowest


def measure(name: str, tree: Path, scratch: Path, folder: Path, table: Path) -> None:
    """Add the rows of a source tree."""
    cache, changed = scratch / f"cache-{name}", folder / "class0" / "0.png"
    for what in STARTS:
        if what == "--recheck" and name == BEFORE:  # it always reads all files
            continue
        for workers in WORKERS if what == "second" else WORKERS[:1]:
            for repeat in range(1 if what == "first" else REPEATS):
                if what == "one file changed":
                    pixels = np.full((SIDE, SIDE, 3), repeat + 10 * len(name), np.uint8)
                    Image.fromarray(pixels).save(changed)
                command, slowest = start(tree, cache, folder, workers, what == "--recheck")
                row = {"tree": name, "start": what, "workers": workers, "command": command, "slowest_worker": slowest}
                append(table, row, "%.3f")
                print(row, flush=True)


def result(table: pd.DataFrame, count: int) -> str:
    """RESULT.md: the medians."""
    medians = table.groupby(["start", "workers", "tree"], as_index=False)[["command", "slowest_worker"]].median()
    order = {name: i for i, name in enumerate((*STARTS, *table["tree"]))}
    medians = medians.sort_values(["start", "workers", "tree"], key=lambda column: column.replace(order))
    lines = [
        f"| {row.start} | {row.tree} | {row.command:.1f} s | {row.workers} | {row.slowest_worker:.1f} s |"
        for row in medians.itertuples()
    ]
    machine = f"{platform.platform()}, {os.cpu_count()} cores shared with other work"
    return f"""# How long a command waits for its images

A folder of {count:,} PNG files of {SIDE} px, just written and so in the system's memory; medians of {REPEATS} starts
(of the first one there is one only). Made by `experiments/data_start.py`.

| start | tree | the command waits | workers | the slowest of them waits |
|---|---|---|---|---|
{chr(10).join(lines)}

`{BEFORE}` reads and hashes all files at every start, and all decoded pixels once more; each worker does so but for the
pixels. Now the command compares the size and times of files with a manifest, reads what has changed, and hands workers
the place of the decoded images in the cache. Where a file has changed, it alone is read and decoded again; before, all
were.

{machine}, Python {platform.python_version()}, torch {torch.__version__}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--before", default=BEFORE)
    options = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    table = HERE / "starts.csv"
    table.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make(scratch / "images", options.files)
        old = scratch / "old"
        old.mkdir()
        archive = subprocess.run(["git", "archive", options.before], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", str(old)], input=archive.stdout, check=True)
        for label, tree in ((options.before, old), ("now", ROOT)):
            measure(label, tree, scratch, scratch / "images", table)
    (HERE / "RESULT.md").write_text(result(pd.read_csv(table), options.files))


if __name__ == "__main__":
    main()
