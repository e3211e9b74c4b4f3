"""The README's two commands, as a newcomer runs them: what they find, and how long they take.

    python experiments/default_run.py

Runs `python -m nas.search --space mnas` and `python -m nas.scale --phi 3` in an empty directory, and keeps their
tables and pictures, with the times and the machine, in experiments/default_run/.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pandas as pd

from nas.base.machine import available_cores

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/default_run"
FILES = (
    *("trials.csv", "pareto.csv", "pareto.png", "baseline.toml", "run.toml"),
    *("scale/grid.csv", "scale/grid.png", "scale/family.csv", "scale/family.png"),
)


def timed(command: list[str], folder: Path, awaited: Path) -> tuple[float, float]:
    """Run a command; seconds until a file was there, and until the command had ended."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = 0.0
    with subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environment) as process:
        while process.poll() is None:
            if not first and awaited.exists():
                first = time.perf_counter() - started
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(process.returncode)
    return first, time.perf_counter() - started


def photograph(page: Path, picture: Path) -> None:
    """What the top of a page looks like, if there is a chromium to look with."""
    if browser := shutil.which("chromium"):
        how = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,1010"]
        subprocess.run([browser, *how, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Run both, and keep what they made."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "runs/mnas"
        plot, search = timed(["nas.search", "--space", "mnas"], Path(name), run / "pareto.png")
        grid, scale = timed(["nas.scale", "--phi", "3"], Path(name), run / "scale/grid.png")
        timed(["nas.report", "mnas"], Path(name), run / "report.html")
        KEPT.mkdir(exist_ok=True)
        photograph(run / "report.html", KEPT / "report.png")
        for file in FILES:
            shutil.copy(run / file, KEPT / Path(file).name)
    trials = pd.read_csv(KEPT / "trials.csv")
    front = pd.read_csv(KEPT / "pareto.csv")
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "torchvision", "optuna"))
    (KEPT / "RESULT.md").write_text(
        f"""# The README's two commands

| command | first picture after | ended after |
|---|---|---|
| `python -m nas.search --space mnas` | {plot:.0f} s | {search:.0f} s |
| `python -m nas.scale --phi 3` | {grid:.0f} s | {scale:.0f} s |

{trials["architecture"].nunique()} distinct networks were trained, {len(front)} are on the front. One run, seed 0, on
{available_cores()} CPU cores ({platform.machine()}, {platform.system()}), Python {platform.python_version()},
{versions}. The machine is shared, so the times are rough.
"""
    )


if __name__ == "__main__":
    main()
