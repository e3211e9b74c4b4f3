"""The files of several formats, each loaded again and asked before any is kept."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from nas.base.errors import RunFailed, UserError
from nas.base.files import to_csv, write_atomic
from nas.export.check import ENOUGH, Expected, answers, difference, expect, share
from nas.export.formats import Format
from nas.export.source import Source

TABLE = "export.csv"


@dataclass(frozen=True)
class Row:
    """The files of one format, and how they answer beside the trained network.

    max_difference: of logits, for random images and for so many real ones; tolerated: what of it rounding may make.
    For INT8, where that is None: top1 and trained_top1, the share of the real images that the file and the trained
    network tell right, and same_class, that which they tell alike.
    """

    format: str
    files: tuple[str, ...]
    bytes: int
    max_difference_random: float
    tolerated_random: float | None
    images: int = 0
    max_difference_real: float | None = None
    tolerated_real: float | None = None
    top1: float | None = None
    trained_top1: float | None = None
    same_class: float | None = None


def export(source: Source, formats: list[Format], out: Path) -> list[Row]:
    """Write files of all these formats to a folder, or none; raises RunFailed where one is not the network."""
    for form in formats:
        form.check(source)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: no folder can be made there ({error.strerror or error})") from None
    expected = expect(source, max(_count(form, source) for form in formats))
    with TemporaryDirectory(dir=out, prefix=".export.") as name:
        folder = Path(name)
        rows = [verified(form, source, expected, folder) for form in formats]
        for form in formats:
            for file in form.files:
                os.replace(folder / file, out / file)
    table = pd.DataFrame([{**asdict(row), "files": " ".join(row.files)} for row in rows])
    write_atomic(out / TABLE, to_csv(table))
    return rows


def verified(form: Format, source: Source, expected: Expected, folder: Path) -> Row:
    """Write one format to a folder, load it and ask it; raises RunFailed where it does not answer as it should."""
    form.write(source, folder)
    count = _count(form, source)
    found = answers(form.load(source, folder), source, count)
    wanted = expected.answers[0], *(logits[:count] for logits in expected.answers[1:])
    gaps = [difference(theirs, ours) for theirs, ours in zip(found, wanted, strict=True)]
    for gap, tolerated in zip(gaps, expected.tolerated, strict=True):
        if not gap <= (tolerated if form.exact else sys.float_info.max):  # NaN fails every comparison
            raise RunFailed(
                f"{form.name}: does not answer as the trained network does: logits differ by {gap:.2g}, of which "
                f"rounding explains {tolerated:.2g}; no file was written"
            )
    tolerances = expected.tolerated if form.exact else (None, None)
    size = sum((folder / file).stat().st_size for file in form.files)
    row = Row(form.name, form.files, size, gaps[0], tolerances[0])
    if source.real is None:
        return row
    row = replace(row, images=len(found[1]), max_difference_real=gaps[1], tolerated_real=tolerances[1])
    if form.exact:
        return row
    labels, theirs, ours = source.real.labels, found[1], wanted[1]
    return replace(
        row,
        top1=share(theirs, labels),
        trained_top1=share(ours, labels),
        same_class=share(theirs, ours.argmax(1)),
    )


def _count(form: Format, source: Source) -> int:
    """How many real images to ask."""
    return ENOUGH if form.exact or source.real is None else len(source.real.labels)
