"""What a training leaves in its run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nas import plots, trained
from nas.files import read_toml, to_toml, write_atomic
from nas.named import NETWORK
from nas.train import pictures
from nas.train.loop import CHECKPOINT, Ended, Row
from nas.train.measure import Measured
from nas.train.question import Training
from nas.train.trainee import Trainee
from nas.units import format_count

REDRAWN = 10.0  # seconds between two pictures of a curve that grows, at least
_NAMES = {"top1": "top-1", "balanced_accuracy": "balanced accuracy"}  # figures of result.toml that have an error
RESULT = "result.toml"  # written last: a training that has it is done


def write_curve(path: Path, wanted: Training, rows: Sequence[Row]) -> None:
    """Write curve.csv, and curve.png where the one that is there is not of just now: epochs may be brief."""
    table = pd.DataFrame(rows, columns=Row._fields)
    write_atomic(path / "curve.csv", table.to_csv(index=False))
    picture = path / "curve.png"
    if len(rows) < wanted.recipe.epochs and picture.exists() and time.time() - picture.stat().st_mtime < REDRAWN:
        return
    subtitle = f"{_network(wanted)}; recipe {wanted.recipe.name}, seed {wanted.seed}"
    title = f"Training of {wanted.origin} on {wanted.data.name}"
    plots.save(pictures.curve(table, title, subtitle, wanted.metric), picture)


def write_network(path: Path, wanted: Training, about: dict[str, str | float]) -> trained.Trained:
    """Write network.toml: the network, what it takes, and what is known of it."""
    known = trained.Trained(wanted.architecture, wanted.inputs, {"title": wanted.origin, **about})
    write_atomic(path / NETWORK, known.to_toml())
    return known


def write_results(path: Path, wanted: Training, trainee: Trainee, ended: Ended) -> None:
    """Write the weights and all that is to be said of them; only then the checkpoint is not needed any more."""
    recipe, measured = wanted.recipe, ended.measured
    kind = f"running average (decay {recipe.ema:g})" if recipe.ema else "weights"
    weights = f"{kind} after the last epoch; none was picked by its accuracy"
    figures = _figures(measured, f"the {measured.images:,} validation images of {wanted.data.name}", wanted.metric)
    write_confusion(path, wanted, measured)
    known = write_network(
        path, wanted, {"data": wanted.data.name, "epochs": recipe.epochs, "weights": weights, **figures}
    )
    trained.save(path / trained.WEIGHTS, known, trainee.averaged.state_dict())
    made = {"weights": weights, "epochs": recipe.epochs, "steps": trainee.steps, "seconds": ended.rows[-1].seconds}
    write_atomic(path / RESULT, to_toml({**made, "validation": figures}))
    (path / CHECKPOINT).unlink(missing_ok=True)


def write_test(path: Path, data: str, measured: Measured, metric: str) -> None:
    """Add to result.toml what the network is worth on test images."""
    figures = _figures(measured, f"the {measured.images:,} test images of {data}", metric)
    write_atomic(path / RESULT, to_toml({**read_toml(path / RESULT), "test": figures}))


def write_confusion(path: Path, wanted: Training, measured: Measured) -> None:
    """Write confusion.csv (classes by row, what they were taken for by column) and confusion.png."""
    names = list(wanted.data.classes)
    table = pd.DataFrame(measured.confusion.numpy(), index=pd.Index(names, name="class"), columns=names)
    write_atomic(path / "confusion.csv", table.to_csv())
    title = f"{wanted.origin} on the {measured.images:,} validation images of {wanted.data.name}"
    name, *_ = figures = _figures(measured, "", wanted.metric)
    interval = f"{100 * figures[name]:.2f} ± {196 * figures[f'{name}_error']:.2f} %"
    subtitle = f"{_NAMES[name]} {interval} (95 %, from the number of images)"
    plots.save(pictures.confusion(table, title, subtitle), path / "confusion.png")


def sentences(path: Path) -> list[str]:
    """What is said of a training that is done, from its files."""
    result = read_toml(path / RESULT)
    lines = [
        ", ".join(
            f"{_NAMES[name]} {100 * part[name]:.2f} ± {100 * part[f'{name}_error']:.2f} %"
            for name in part
            if name in _NAMES
        )
        + f", top-5 {100 * part['top5']:.2f} %, loss {part['loss']:.4f} on {part['images']}"
        for part in (result.get(name) for name in ("validation", "test"))
        if part
    ]
    return [*lines, f"{path}/: {trained.WEIGHTS} (the {result['weights']}), {NETWORK}, curve.png, confusion.png"]


def _figures(measured: Measured, part: str, metric: str) -> dict[str, Any]:
    """A table of result.toml, with the metric first."""
    score = measured.score
    top1 = {"top1": score.accuracy, "top1_error": score.accuracy_error}
    balanced = {
        "balanced_accuracy": score.balanced_accuracy,
        "balanced_accuracy_error": score.balanced_accuracy_error,
    }
    shares = {**balanced, **top1} if metric in balanced else {**top1, **balanced}
    return {**shares, "top5": measured.top5, "loss": measured.loss, "images": part}


def _network(wanted: Training) -> str:
    images = wanted.data
    cost = wanted.architecture.cost(images.image_size, images.num_classes, images.channels)
    return (
        f"{format_count(cost.params)} parameters, {format_count(cost.madds)} MAdds: at {images.image_size} px, with "
        f"{images.num_classes} classes"
    )
