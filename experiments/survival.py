"""A search that is killed at random instants ends as one that is left alone.

    PYTHONPATH=. python experiments/survival.py [--kills 200] [--seed 0]      # it shares its code with a test

A small search of a small space is started in a forked process and killed by SIGKILL after a random time, again and
again; when it has ended it is begun anew under another name, until it was killed often enough. After each kill every
file of the run must be whole and no finished trial may be missing. Each finished run must equal the one that was never
killed: same trials, and pareto.csv the same to the byte apart from the columns of times. Writes experiments/survival/.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from datetime import date
from pathlib import Path

import pandas as pd

from tests.helpers.killing import TRIALS, survive

KEPT = Path(__file__).resolve().parent / "survival"


def main() -> None:
    """Kill, and write down how it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = survive(Path(place), given.kills, given.seed)
    KEPT.mkdir(exist_ok=True)
    counts = pd.Series(found.finished).value_counts().sort_index()
    lines = [f"| {trials} | {count} |" for trials, count in counts.items()]
    (KEPT / "RESULT.md").write_text(
        f"""# A search that is killed at random instants

{found.kills} times SIGKILL, {found.ended_runs} runs that ended after all: each with the same trials and the same
pareto.csv, to the byte apart from times, as the run that was never killed. No file was ever half-written, no finished
trial lost.

| finished trials in trials.csv at the kill | kills |
|---|---|
{chr(10).join(lines)}

Seed {given.seed}; {TRIALS} trials a run, one worker; Python {platform.python_version()}, {platform.system()};
{date.today()}.
"""
    )


if __name__ == "__main__":
    main()
