"""Every picture: the front of a search, the grid of coefficients, the family, a budget on a space.

Each function returns a figure.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from nas.budgets import Bounds
from nas.files import write_atomic
from nas.units import format_count

_INK, _FRONT, _PICK, _PALE = "#222222", "#1f6fb4", "#d1495b", "#9aa5b1"
_BARS = "bars: 95 % interval from the number of validation images; one training each, whose own noise is not in them"
_LABELS = {
    "accuracy": "proxy accuracy on validation images (%)",
    "madds": "multiply-adds per image",
    "flops": "flops per image (fvcore)",
    "params": "parameters",
    "activations": "activations per image",
    "latency": "latency of a batch, predicted from measured blocks (s)",
    "step_seconds": "training step as measured (s)",
}


def short_name(cost: str) -> str:
    """A cost as a title names it."""
    return {"madds": "MAdds", "params": "parameters", "step_seconds": "training step time"}.get(
        cost, cost.replace("_", " ")
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, replacing the file at once."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    write_atomic(path, buffer.getvalue())


def pareto(
    trials: pd.DataFrame, front: pd.DataFrame, baseline: int | None, cost: str, title: str, subtitle: str
) -> Figure:
    """Accuracy against one cost (logarithmic): all trials, the front as a staircase, the picked baseline.

    trials and front have the columns of trials.csv; baseline is a trial's number. Bars are 95 % intervals of an
    accuracy measured on so many images; the noise of training itself is not in them, and the figure says so. Trials
    stopped early are crosses: their accuracy is a partial one.
    """
    figure, axes = _figure(title, subtitle)
    done = trials[trials["state"] == "COMPLETE"]
    rest = done[~done["trial"].isin(front["trial"])]
    stopped = trials[trials["state"] == "PRUNED"]
    if len(stopped):
        label = f"stopped early ({len(stopped)}), as they were then"
        axes.scatter(stopped[cost], 100 * stopped["accuracy"], 20, _PALE, marker="x", label=label, zorder=1)
    if len(rest):
        axes.scatter(rest[cost], 100 * rest["accuracy"], s=26, color=_PALE, label=f"trials ({len(done)})", zorder=2)
    ranked = front.sort_values(cost)
    best = 100 * ranked["accuracy"].astype(float)
    if len(ranked):
        axes.step(ranked[cost], best, where="post", color=_FRONT, linewidth=1.4, zorder=3)
        axes.errorbar(
            ranked[cost].astype(float),
            best,
            yerr=196 * ranked["accuracy_error"].astype(float),
            fmt="o",
            color=_FRONT,
            markersize=6,
            elinewidth=0.9,
            capsize=2,
            label=f"front ({len(ranked)})",
            zorder=4,
        )
    picked = done[done["trial"] == baseline]
    for _, row in picked.iterrows():
        label = f"baseline: trial {row['trial']}, {100 * row['accuracy']:.1f} %, {format_count(row[cost])}"
        axes.scatter(row[cost], 100 * row["accuracy"], marker="*", s=230, color=_PICK, label=label, zorder=5)
    _log_counts(axes, "x", pd.concat([done, stopped])[cost].astype(float).tolist())
    axes.set_xlabel(f"{_LABELS[cost]} (log scale)")
    axes.set_ylabel(_LABELS["accuracy"])
    if len(done):
        axes.legend(loc="best", fontsize=8, frameon=True)
    _note(figure, _BARS)
    return figure


def grid(table: pd.DataFrame, chosen: int, title: str, subtitle: str) -> Figure:
    """Two panels: the triples (α, β, γ) between the pure rules, coloured by proxy accuracy, and ranked by it.

    table has the columns of grid.csv; chosen is the position of the picked row. A corner of the triangle puts all
    of log(α·β²·γ²) into that dimension; a point's shares are log α, 2 log β and 2 log γ. Bars as in `pareto`.
    """
    figure, (left, right) = _figures(title, subtitle, 2)
    corners = {"depth": (0.0, 0.0), "width": (1.0, 0.0), "resolution": (0.5, 0.75**0.5)}
    left.plot(*zip(*corners.values(), corners["depth"], strict=True), color=_INK, linewidth=0.8)
    for name, spot in corners.items():
        offset = (0, 14 if name == "resolution" else -22)
        left.annotate(f"all into {name}", spot, offset, textcoords="offset points", ha="center", fontsize=9)
    ranked = table.assign(picked=[i == chosen for i in range(len(table))]).sort_values(["accuracy", "picked"])
    spots = np.array([_barycentric(*row) for row in ranked[["alpha", "beta", "gamma"]].itertuples(index=False)])
    accuracy = 100 * ranked["accuracy"].astype(float)
    colours: dict[str, Any] = {"c": accuracy, "cmap": "viridis", "edgecolors": _INK, "linewidths": 0.5, "zorder": 3}
    points = left.scatter(spots[:, 0], spots[:, 1], s=150, **colours)
    star: dict[str, Any] = {"marker": "*", "facecolors": "none", "edgecolors": _PICK, "linewidths": 1.8, "zorder": 5}
    picked = int(np.flatnonzero(ranked["picked"])[0])
    left.scatter(spots[picked, 0], spots[picked, 1], s=460, **star)
    left.set_aspect("equal")
    left.set_xlim(-0.16, 1.16)
    left.set_ylim(-0.14, 1.0)
    left.axis("off")
    figure.colorbar(points, ax=left, label=_LABELS["accuracy"], shrink=0.8)

    rows = np.arange(len(ranked))
    right.errorbar(
        accuracy, rows, xerr=196 * ranked["accuracy_error"].astype(float), fmt="none", ecolor=_PALE, elinewidth=1
    )
    right.scatter(accuracy, rows, s=60, **colours)
    right.scatter(accuracy.iloc[picked], picked, s=230, label="picked", **star)
    labels = [
        f"{row.alpha:g} / {row.beta:g} / {row.gamma:g}   {row.counted_ratio:.2f}×"
        for row in ranked.itertuples(index=False)
    ]
    right.set_yticks(rows, labels, fontsize=8)
    right.set_xlabel(_LABELS["accuracy"])
    right.set_ylabel("α / β / γ and counted MAdds relative to the baseline")
    right.legend(loc="lower right", fontsize=8)
    _note(figure, _BARS)
    return figure


def _barycentric(alpha: float, beta: float, gamma: float) -> tuple[float, float]:
    depth, width, resolution = log2(alpha), 2 * log2(beta), 2 * log2(gamma)
    total = depth + width + resolution
    return (width + resolution / 2) / total, 0.75**0.5 * resolution / total


def family(members: pd.DataFrame, published: pd.DataFrame, title: str, subtitle: str) -> Figure:
    """Two panels: parameters against MAdds beside published networks, and counted beside nominal growth.

    members has the columns of family.csv; published has name, series, madds and params, counted alike.
    """
    figure, (left, right) = _figures(title, subtitle, 2)
    for series, rows in published.groupby("series", sort=False):
        ordered = rows.sort_values("madds")
        left.plot(ordered["madds"], ordered["params"], "o-", markersize=4, linewidth=0.8, alpha=0.75, label=series)
        for row in (ordered.iloc[0], ordered.iloc[-1]):
            left.annotate(row["name"], (row["madds"], row["params"]), (4, -9), textcoords="offset points", fontsize=6.5)
    madds, params = members["madds"].astype(float), members["params"].astype(float)
    left.plot(madds, params, "s-", color=_PICK, markersize=6, linewidth=1.6, label="this family", zorder=5)
    for x, y, phi in zip(madds, params, members["phi"], strict=True):
        left.annotate(f"φ={phi:g}", (x, y), (-6, 7), textcoords="offset points", ha="right", fontsize=8, color=_PICK)
    left.set_xlabel("multiply-adds per image, each at its own resolution (log scale)")
    left.set_ylabel("parameters (log scale)")
    _log_counts(left, "x", [*madds, *published["madds"]])
    _log_counts(left, "y", [*params, *published["params"]])
    left.legend(fontsize=8)

    right.plot(members["phi"], members["nominal_ratio"], "--", color=_PALE, label="nominal")
    right.plot(members["phi"], members["counted_ratio"], "s-", color=_PICK, label="counted")
    for phi, counted in zip(members["phi"], members["counted_ratio"], strict=True):
        right.annotate(f"{counted:.2f}×", (phi, counted), (7, -9), textcoords="offset points", fontsize=8)
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    right.set_xticks(members["phi"].tolist())
    right.set_xlabel("compound coefficient φ")
    right.set_ylabel("MAdds relative to φ = 0 (log scale)")
    right.legend(fontsize=8)
    return figure


def budget(space: ArrayLike, feasible: ArrayLike, share: float, bounds: Bounds, title: str, subtitle: str) -> Figure:
    """Histogram of MAdds of networks drawn from a space, and in front of it those within a budget.

    space, feasible: MAdds of uniform draws, [n] and [m]; share: how much of the space the feasible ones are, 0 to 1,
    which is the area of their bars. bounds on MAdds are drawn as lines.
    """
    figure, axes = _figure(title, subtitle)
    everything, kept = np.asarray(space, float), np.asarray(feasible, float)
    edges = np.histogram_bin_edges(np.concatenate([everything, kept]), 80)
    shapes: tuple[tuple[Any, float, str, str], ...] = (
        (everything, 100, _PALE, "the space"),
        (kept, 100 * share, _FRONT, "within the budget"),
    )
    for values, percent, colour, label in shapes if bounds else shapes[:1]:
        weights = np.full(len(values), percent / len(values))
        axes.hist(values, edges.tolist(), weights=weights, color=colour, label=label, zorder=2)
    for limit in bounds.get("madds", ()):
        if edges[0] < limit < edges[-1]:
            axes.axvline(limit, color=_PICK, linewidth=1.2, label=f"budget: {format_count(limit)} MAdds", zorder=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value, 3)))
    axes.set_xlabel(_LABELS["madds"])
    axes.set_ylabel("share of the space per bar (%)")
    axes.legend(fontsize=8)
    return figure


def _figure(title: str, subtitle: str) -> tuple[Figure, Axes]:
    figure, (axes,) = _figures(title, subtitle, 1)
    return figure, axes


def _figures(title: str, subtitle: str, panels: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(8 if panels == 1 else 12, 5.4), layout=ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.89)))
    figure.suptitle(title, fontsize=12, fontweight="bold")
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    figure.text(0.5, 0.925, subtitle, ha="center", va="top", fontsize=8.5, color=_INK)
    for one in axes:
        one.grid(True, which="major", linewidth=0.4, alpha=0.5)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _note(figure: Figure, text: str) -> None:
    figure.text(0.5, 0.008, text, ha="center", va="bottom", fontsize=7, color="#555555")


def _log_counts(axes: Axes, which: str, values: list[float]) -> None:
    """A logarithmic axis labelled in K, M and G, with enough labels however short its range."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if not values:
        return
    low, high = min(values) / 1.25, max(values) * 1.25
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    decades = np.log10(high / low)
    steps = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if decades < 1 else (1, 2, 5) if decades < 2 else (1, 3)
    axis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value, 3)))
    axis.set_minor_formatter(NullFormatter())
