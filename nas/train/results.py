"""The files that a training writes into its run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nas.base.files import read_csv, read_toml, to_csv, to_toml, write_atomic
from nas.base.units import format_count, shown
from nas.plots import figures as plots
from nas.plots import training as pictures
from nas.runs.lookup import NETWORK
from nas.train.config import Training
from nas.training import trained
from nas.training.evaluate import Metrics
from nas.training.trainer import CHECKPOINT, Row, Trainer, TrainResult

REDRAWN = 10.0  # seconds between two drawings of a growing curve, at least
_NAMES = {"top1": "top-1", "balanced_accuracy": "balanced accuracy"}  # figures of result.toml that have an error
CURVE, CONFUSION = "curve.csv", "confusion.csv"
RESULT = "result.toml"  # written last: a training that has it is done


def write_curve(config: Training, rows: Sequence[Row]) -> None:
    """Write curve.csv, and before the last epoch curve.png, unless it was drawn just now: epochs may be short."""
    write_atomic(config.path / CURVE, to_csv(pd.DataFrame(rows, columns=Row._fields)))
    picture = config.path / "curve.png"
    if len(rows) < config.recipe.epochs and not (picture.exists() and time.time() - picture.stat().st_mtime < REDRAWN):
        draw_curve(config)


def draw_curve(config: Training) -> None:
    """Draw curve.png from curve.csv."""
    title = f"Training of {shown(config.origin, 40)} on {shown(config.data.name, 40)}"
    subtitle = f"{_network(config)}; recipe {shown(config.recipe.name, 40)}, seed {config.seed}"
    table = read_csv(config.path / CURVE, ())
    plots.draw(config.path / "curve.png", pictures.curve, table, title, subtitle, config.metric)


def write_network(config: Training, about: dict[str, str | float]) -> trained.Trained:
    """Write network.toml: the network, its inputs, and what is known of it."""
    known = trained.Trained(config.architecture, config.inputs, {"title": config.origin, **about})
    write_atomic(config.path / NETWORK, known.to_toml())
    return known


def write_results(config: Training, trainer: Trainer, result: TrainResult) -> None:
    """Write the weights and the results; only then delete the checkpoint.

    Pictures come last: a training whose results are saved is done, even if drawing fails.
    """
    recipe, metrics = config.recipe, result.metrics
    kind = f"running average (decay {recipe.ema:g})" if recipe.ema else "weights"
    weights = f"{kind} after the last epoch; none was picked by its accuracy"
    images = f"the {metrics.images:,} validation images of {shown(config.data.name)}"
    figures = _figures(metrics, images, config.metric)
    write_confusion(config, metrics)
    known = write_network(config, {"data": config.data.name, "epochs": recipe.epochs, "weights": weights, **figures})
    trained.save(config.path / trained.WEIGHTS, known, trainer.evaluated.state_dict())
    made = {"weights": weights, "epochs": recipe.epochs, "steps": trainer.steps, "seconds": result.rows[-1].seconds}
    if trainer.microbatches > config.microbatches:
        made["note"] = f"out of memory: each batch in {trainer.microbatches} microbatches"
    write_atomic(config.path / RESULT, to_toml({**made, "validation": figures}))
    (config.path / CHECKPOINT).unlink(missing_ok=True)
    draw_pictures(config)


def write_test(config: Training, metrics: Metrics) -> None:
    """Add the metrics on the test images to result.toml."""
    figures = _figures(metrics, f"the {metrics.images:,} test images of {shown(config.data.name)}", config.metric)
    file = config.path / RESULT
    write_atomic(file, to_toml({**read_toml(file), "test": figures}))


def write_confusion(config: Training, metrics: Metrics) -> None:
    """Write confusion.csv: classes by row, what they were taken for by column."""
    names = list(config.data.classes)
    table = pd.DataFrame(metrics.confusion.numpy(), index=pd.Index(names, name="class"), columns=names)
    write_atomic(config.path / CONFUSION, to_csv(table, index=True))


def draw_pictures(config: Training, missing_only: bool = False) -> None:
    """Draw curve.png and confusion.png of a training that is done, from its files."""
    if not (missing_only and (config.path / "curve.png").exists()):
        draw_curve(config)
    if not (missing_only and (config.path / "confusion.png").exists()):
        plots.draw(config.path / "confusion.png", _confusion, config)


def _confusion(config: Training) -> Figure:
    names = list(config.data.classes)
    counts = read_csv(config.path / CONFUSION, ()).iloc[:, 1:].to_numpy()
    known = read_toml(config.path / RESULT)["validation"]
    title = f"{shown(config.origin, 40)} on {known['images']}"
    name = next(name for name in known if name in _NAMES)  # the metric
    interval = f"{100 * known[name]:.2f} ± {196 * known[f'{name}_error']:.2f} %"
    subtitle = f"{_NAMES[name]} {interval} (95 %, from the number of images)"
    return pictures.confusion(pd.DataFrame(counts, index=names, columns=names), title, subtitle)


def sentences(path: Path) -> list[str]:
    """Sentences on a finished training, from its files."""
    result = read_toml(path / RESULT)
    lines = [
        ", ".join(_with_error(part, name) for name in part if name in _NAMES)
        + f" (standard error), top-5 {100 * part['top5']:.2f} %, loss {part['loss']:.4f} on {part['images']}"
        for part in (result.get(name) for name in ("validation", "test"))
        if part
    ]
    lines += [str(result["note"])] if "note" in result else []
    return [*lines, f"{path}/: {trained.WEIGHTS} (the {result['weights']}), {NETWORK}, curve.png, confusion.png"]


def _with_error(part: Mapping[str, Any], name: str) -> str:
    return f"{_NAMES[name]} {100 * part[name]:.2f} ± {100 * part[f'{name}_error']:.2f} %"


def _figures(metrics: Metrics, part: str, metric: str) -> dict[str, Any]:
    """A table of result.toml, with the metric first."""
    score = metrics.score
    top1 = {"top1": score.accuracy, "top1_error": score.accuracy_error}
    balanced = {
        "balanced_accuracy": score.balanced_accuracy,
        "balanced_accuracy_error": score.balanced_accuracy_error,
    }
    shares = {**balanced, **top1} if metric in balanced else {**top1, **balanced}
    return {**shares, "top5": metrics.top5, "loss": metrics.loss, "images": part}


def _network(config: Training) -> str:
    images = config.data
    cost = config.architecture.cost(images.image_size, images.num_classes, images.channels)
    return (
        f"{format_count(cost.params)} parameters, {format_count(cost.madds)} MAdds: at {images.image_size} px, with "
        f"{images.num_classes} classes"
    )
