"""Tables that grow by a row for each piece of work, so that an experiment can be stopped and goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

Scores = dict[tuple[int, str], list[float]]  # accuracies of trainings, by size and name


def append(file: Path, row: Mapping[str, Any], float_format: str | None = None) -> None:
    """Add a row to a CSV file, which begins with it if need be."""
    pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False, float_format=float_format)


def kept(folder: Path, pattern: str) -> pd.DataFrame:
    """All rows of the files that match; an empty table where there are none."""
    files = sorted(folder.glob(pattern))
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()


def scores(table: pd.DataFrame, size: str, name: str) -> Scores:
    """The accuracies of the trainings in a table, by two of its columns, in the order of their first rows."""
    found: Scores = {}
    for number, text, accuracy in table[[size, name, "accuracy"]].itertuples(index=False):
        found.setdefault((int(number), str(text)), []).append(float(accuracy))
    return found
