"""The pictures of a training: its curve, and which classes are taken for which.

Each function returns a figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.plots.figures import FRONT, INK, PALE, PICK, figures, literal, note

_WRITTEN = 20  # with up to this many classes, counts are written into the cells
_NAMED = 40  # with up to this many classes, all are named at the axes
_PAIRS = 16  # of classes, in the list of what is mistaken most


def curve(table: pd.DataFrame, title: str, subtitle: str, metric: str = "accuracy") -> Figure:
    """Two panels: losses, and accuracy on the validation images, after each epoch. table has curve.csv's columns.

    With the metric balanced_accuracy that is drawn too.
    """
    figure, (left, right) = figures(title, subtitle, 2)
    epochs = table["epoch"]
    style: dict[str, Any] = {"linewidth": 1.4, "marker": "o" if len(table) < 40 else "", "markersize": 3}
    left.plot(epochs, table["train_loss"], color=PALE, label="training batches, as augmented and smoothed", **style)
    left.plot(epochs, table["val_loss"], color=FRONT, label="validation images", **style)
    left.set_ylabel("cross-entropy (nats)")
    shown = {"top5": ("top-5", PALE), "top1": ("top-1", FRONT)}
    shown |= {metric: ("balanced accuracy", PICK)} if metric == "balanced_accuracy" else {}
    for name, (word, colour) in shown.items():
        label = f"{word}, at the end {100 * table[name].iloc[-1]:.2f} %"
        right.plot(epochs, 100 * table[name], color=colour, label=label, **style)
    right.set_ylabel("accuracy on validation images (%)")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
    return figure


def confusion(counts: pd.DataFrame, title: str, subtitle: str) -> Figure:
    """Two panels: the share of each class (rows) that is taken for each (columns), and the pairs mistaken most.

    counts: images by true class (index) and predicted class (columns).
    """
    figure, (left, right) = figures(title, subtitle, 2)
    figure.set_size_inches(13, 6.6)
    table = counts.to_numpy(float)
    shares = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    picture = left.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest", aspect="equal")
    left.grid(False)
    figure.colorbar(picture, ax=left, label="share of the true class (%)", shrink=0.8)
    _names(left, list(counts.columns))
    if len(counts) <= _WRITTEN:
        for i, j in zip(*np.nonzero(table), strict=True):
            colour = "white" if shares[i, j] > 40 else INK
            left.text(j, i, f"{table[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    left.set(xlabel="taken for", ylabel="class")
    _mistakes(right, counts, shares)
    note(
        figure, "left: colour on a root scale, so that rare mistakes are seen; a perfect network has the diagonal alone"
    )
    return figure


def _names(axes: Axes, names: list[str]) -> None:
    """Class names at both axes: all of them, or evenly spaced ones of many classes."""
    step = -(-len(names) // _NAMED)
    places = range(0, len(names), step)
    size = 8 if len(names) <= _WRITTEN else 6
    short = [literal(names[i], 18) for i in places]
    axes.set_xticks(places, short, rotation=90, fontsize=size)
    axes.set_yticks(places, short, fontsize=size)


def _mistakes(axes: Axes, counts: pd.DataFrame, shares: np.ndarray) -> None:
    """The pairs that are mistaken most, as bars."""
    table = counts.to_numpy()
    wrong = np.where(np.eye(len(table), dtype=bool), 0, table)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    axes.set_title("mistaken most", fontsize=10)
    if not pairs:
        axes.text(0.5, 0.5, "nothing was mistaken", transform=axes.transAxes, ha="center", color=INK)
        return
    rows = np.arange(len(pairs))
    axes.set_axisbelow(True)
    axes.barh(rows, [wrong[i, j] for i, j in pairs], color=PICK, height=0.6)
    names = list(counts.columns)
    axes.set_yticks(rows, [f"{literal(names[i], 18)} → {literal(names[j], 18)}" for i, j in pairs], fontsize=8)
    for row, (i, j) in enumerate(pairs):
        label, spot = f"{shares[i, j]:.0f} %", (wrong[i, j], row)
        axes.annotate(label, spot, (3, 0), textcoords="offset points", fontsize=7, va="center")
    axes.set_xlabel("images (and share of their class)")
    axes.invert_yaxis()
