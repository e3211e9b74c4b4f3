"""Exported files of a trained network, each loaded again and compared with the network before any is kept."""

from __future__ import annotations

import os
import sys
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch import Tensor

from nas.base.errors import RunFailed, UserError
from nas.base.files import to_csv, write_atomic
from nas.export.formats import Format
from nas.export.source import BATCH, Answer, Source

TABLE = "export.csv"
ENOUGH = 1 + 4 * BATCH  # real images that an exact format is checked on

Logits = tuple[Tensor, ...]  # [n, classes] for images of random pixels, then for real ones if there are any


@dataclass(frozen=True)
class Row:
    """The files of one format, and how they compare with the trained network.

    max_difference: of logits, for random images and for `images` real ones; tolerated: the difference that rounding
    explains. For INT8, where that is None: top1 and trained_top1, the accuracy of the file and of the trained network
    on the real images, and same_class, the share that both classify alike.
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
    """Write files of all these formats to a folder, or none; raises RunFailed if one differs from the network."""
    for form in formats:
        form.check(source)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: no folder can be made there ({error.strerror or error})") from None
    expected, tolerated = expected_logits(source, max(_count(form, source) for form in formats))
    with TemporaryDirectory(dir=out, prefix=".export.") as name:
        folder = Path(name)
        rows = [write_and_check(form, source, expected, tolerated, folder) for form in formats]
        for file in (file for form in formats for file in form.files):
            os.replace(folder / file, out / file)
    table = pd.DataFrame([{**asdict(row), "files": " ".join(row.files)} for row in rows])
    write_atomic(out / TABLE, to_csv(table))
    return rows


def expected_logits(source: Source, count: int) -> tuple[Logits, list[float]]:
    """The trained network's logits for random and up to `count` real images, and the differences to tolerate.

    Another order of the same fp32 operations is allowed four times the difference between fp32 and fp64, plus 1e-5 of
    the largest logit (or of 1, if that is more). Raises RunFailed if that is too much to check anything.
    """
    found, exact = logits_of(source.model, source, count), deepcopy(source.model).double()
    precise = logits_of(lambda images: exact(images.double()), source, min(count, ENOUGH))
    largest = [max(1.0, float(logits.abs().max())) for logits in precise]
    gaps = [difference(rounded[: len(logits)], logits) for rounded, logits in zip(found, precise, strict=True)]
    tolerated = [4 * gap + 1e-5 * most for gap, most in zip(gaps, largest, strict=True)]
    if not any(gap <= 0.1 * most for gap, most in zip(tolerated, largest, strict=True)):  # nor where they are NaN
        raise RunFailed(
            f"{source.file}: no file can be checked against this network: between fp32 and fp64 its logits differ by "
            f"{min(gaps):.2g}, the largest is {max(largest):.2g}"
        )
    return found, tolerated


def write_and_check(form: Format, source: Source, expected: Logits, tolerated: list[float], folder: Path) -> Row:
    """Write one format to a directory, load it and compare its logits; raises RunFailed if they differ too much."""
    file, count = folder / form.files[0], _count(form, source)
    form.write(source, file)
    found = logits_of(form.load(file), source, count)
    reference = expected[0], *(logits[:count] for logits in expected[1:])
    gaps = [difference(theirs, ours) for theirs, ours in zip(found, reference, strict=True)]
    for gap, most in zip(gaps, tolerated, strict=True):
        if not gap <= (most if form.exact else sys.float_info.max):  # NaN fails every comparison
            raise RunFailed(
                f"{form.name}: does not answer as the trained network does: logits differ by {gap:.2g}, of which "
                f"rounding explains {most:.2g}; no file was written"
            )
    limits = tolerated if form.exact else (None, None)
    row = Row(form.name, form.files, sum((folder / name).stat().st_size for name in form.files), gaps[0], limits[0])
    if source.real is None:
        return row
    row = replace(row, images=len(found[1]), max_difference_real=gaps[1], tolerated_real=limits[1])
    if form.exact:
        return row
    labels, theirs, ours = source.real.labels, found[1].argmax(1), reference[1].argmax(1)
    return replace(
        row, top1=_share(theirs == labels), trained_top1=_share(ours == labels), same_class=_share(theirs == ours)
    )


@torch.no_grad()
def logits_of(network: Answer, source: Source, count: int) -> Logits:
    """A network's logits for images of random pixels, and for up to `count` real ones."""
    size, generator = source.inputs.image_size, torch.Generator().manual_seed(0)
    random = torch.randint(0, 256, (1 + BATCH, source.inputs.channels, size, size), generator=generator)
    asked = [random, *([source.real.pixels[:count]] if source.real else [])]
    return tuple(torch.cat([network(images) for images in source.batches(pixels)]) for pixels in asked)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference between two logits; infinite between different shapes, NaN if any is NaN."""
    return float((found - expected).abs().max()) if found.shape == expected.shape else inf


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _count(form: Format, source: Source) -> int:
    """Number of real images to check a format on."""
    return ENOUGH if form.exact or source.real is None else len(source.real.labels)
