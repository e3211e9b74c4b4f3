"""The pictures of a scaling: the grid of coefficients, the rules, the family and its accuracy.

Each function returns a figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nas.base.metrics import spoken
from nas.base.statistics import half_intervals
from nas.base.units import format_count, plural
from nas.plots.figures import FRONT, INK, LABELS, PALE, PICK, figures, log_counts, note

_MOST_ROWS = 24  # of the ranking: the best ones
_STAR: Mapping[str, Any] = {"marker": "*", "facecolors": "none", "edgecolors": PICK, "linewidths": 1.8, "zorder": 6}
_PAPER: Mapping[str, Any] = {"marker": "D", "facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "zorder": 5}


def grid(table: pd.DataFrame, title: str, subtitle: str, metric: str = "accuracy") -> Figure:
    """Two panels: the triples (α, β, γ) between the pure rules, coloured and ranked by a metric.

    table: the trained rows of grid.csv. A corner of the triangle puts all of log(α·β²·γ²) into that dimension; a
    point's shares are log α, 2 log β and 2 log γ. Colour is the metric of the first stage, in which all were trained
    alike. The ranking shows each network in the last stage that it came to, higher stages above.
    """
    figure, (left, right) = figures(title, subtitle, 2)
    first = 100 * table[f"first_{metric}"].astype(float)
    colours: dict[str, Any] = {"cmap": "viridis", "edgecolors": INK, "linewidths": 0.5, "zorder": 3}
    colours |= {"vmin": first.min(), "vmax": first.max()}
    _triangle(left)
    spots = np.array([_barycentric(*row) for row in table[["alpha", "beta", "gamma"]].itertuples(index=False)])
    order = np.argsort(first.to_numpy(), kind="stable")  # the best are drawn last, on top
    x, y = spots.T
    points = left.scatter(x[order], y[order], s=150, c=first.iloc[order], **colours)
    picked, paper = (np.flatnonzero(table[mark]) for mark in ("picked", "paper"))
    left.scatter(x[paper], y[paper], s=260, **_PAPER)
    left.scatter(x[picked], y[picked], s=460, **_STAR)
    epochs = table.loc[table["stage"] == 1, "epochs"]
    alike = f" after {plural(int(epochs.iloc[0]), 'epoch')}" if len(epochs) else ""
    figure.colorbar(points, ax=left, label=f"proxy {spoken(metric)}{alike} (%)", shrink=0.8)

    ranked = table.sort_values(["stage", metric, "picked"]).drop_duplicates("hash", keep="last").tail(_MOST_ROWS)
    rows = np.arange(len(ranked))
    accuracy = 100 * ranked[metric].astype(float)
    errors = _bars(ranked, metric)
    right.errorbar(accuracy, rows, xerr=errors, fmt="none", ecolor=PALE, elinewidth=1.2, capsize=2)
    right.scatter(accuracy, rows, s=60, c=100 * ranked[f"first_{metric}"].astype(float), **colours)
    for mark, size, style, label in (("paper", 130, _PAPER, "the paper's"), ("picked", 230, _STAR, "picked")):
        at = np.flatnonzero(ranked[mark])
        right.scatter(accuracy.iloc[at], at, s=size, label=label, **style)
    stages = ranked["stage"].to_numpy(int)
    for edge in np.flatnonzero(np.diff(stages)):
        right.axhline(edge + 0.5, color=INK, linewidth=0.8, linestyle=":")
    for stage in np.unique(stages):
        top = np.flatnonzero(stages == stage)[-1]
        row = ranked.iloc[top]
        label = plural(int(row["epochs"]), "epoch") + (f", {row['trainings']} seeds" if row["trainings"] > 1 else "")
        spot, where = (0.01, top + 0.38), ("axes fraction", "data")
        right.annotate(label, spot, xycoords=where, fontsize=7, color="#555555", va="top")
    names = [_triple_label(row) for row in ranked.itertuples(index=False)]
    right.set_yticks(rows, names, fontsize=8)
    right.set(xlabel=LABELS[metric], ylabel="α / β / γ   and growth of MAdds: nominal → counted")
    right.set_ylim(-0.7, len(ranked) - 0.3)
    right.legend(loc="lower right", fontsize=8)
    note(
        figure,
        "bars: 95 % intervals, with several seeds of the trainings' noise, with one of the number of validation "
        "images; triples that round to one network share a row",
    )
    return figure


def _bars(rows: pd.DataFrame, metric: str) -> np.ndarray:
    """Half the 95 % intervals of a metric in percent."""
    return 100 * half_intervals(rows[f"{metric}_error"].astype(float), rows["error_freedom"].astype(int))


def _triple_label(row: Any) -> str:
    moved = f" ({row.moved:+d} px)" if row.moved else ""
    return f"{row.alpha:.4g} / {row.beta:.4g} / {row.gamma:.4g}{moved}   {row.product:.2f} → {row.counted_ratio:.2f}×"


def _triangle(axes: Axes) -> None:
    """An empty simplex of the three dimensions."""
    corners = {"depth": (0.0, 0.0), "width": (1.0, 0.0), "resolution": (0.5, 0.75**0.5)}
    ends = np.array(list(corners.values()))
    for share in (0.25, 0.5, 0.75):  # lines of equal share
        for i in range(3):
            line = share * ends[i] + (1 - share) * np.delete(ends, i, axis=0)
            axes.plot(*line.T, color=PALE, linewidth=0.4, alpha=0.6)
    axes.plot(*zip(*corners.values(), corners["depth"], strict=True), color=INK, linewidth=0.8)
    for name, spot in corners.items():
        offset = (0, 14 if name == "resolution" else -22)
        axes.annotate(f"all into {name}", spot, offset, textcoords="offset points", ha="center", fontsize=9)
    axes.set(aspect="equal", xlim=(-0.16, 1.16), ylim=(-0.14, 1.0))
    axes.axis("off")


def _barycentric(alpha: float, beta: float, gamma: float) -> tuple[float, float]:
    depth, width, resolution = log2(alpha), 2 * log2(beta), 2 * log2(gamma)
    total = depth + width + resolution
    return (width + resolution / 2) / total, 0.75**0.5 * resolution / total


def family(members: pd.DataFrame, published: pd.DataFrame, title: str, subtitle: str) -> Figure:
    """Two panels: parameters against MAdds beside published networks, and counted beside nominal growth.

    members has the columns of family.csv; published has name, series, madds and params.
    """
    figure, (left, right) = figures(title, subtitle, 2)
    for (series, rows), marker in zip(published.groupby("series", sort=False), "ov^", strict=False):
        ordered = rows.sort_values("madds")
        style: dict[str, Any] = {"marker": marker, "markersize": 4, "linewidth": 0.8, "alpha": 0.75}
        left.plot(ordered["madds"], ordered["params"], label=series, **style)
        for row in (ordered.iloc[0], ordered.iloc[-1]):
            left.annotate(row["name"], (row["madds"], row["params"]), (4, -9), textcoords="offset points", fontsize=6.5)
    madds, params = members["madds"].astype(float), members["params"].astype(float)
    left.plot(madds, params, "s-", color=PICK, markersize=6, linewidth=1.6, label="this family", zorder=5)
    for x, y, phi in zip(madds, params, members["phi"], strict=True):
        left.annotate(f"φ={phi:g}", (x, y), (-6, 7), textcoords="offset points", ha="right", fontsize=8, color=PICK)
    left.set(xlabel="multiply-adds per image, each at its own resolution (log scale)", ylabel="parameters (log scale)")
    log_counts(left, "x", [0.8 * min(madds), *madds, *published["madds"]])  # room for the first label
    log_counts(left, "y", [*params, *published["params"]])
    left.legend(fontsize=8)

    right.plot(members["phi"], members["nominal_ratio"], "--", color=PALE, label="nominal: (α·β²·γ²)^φ")
    right.plot(members["phi"], members["counted_ratio"], "s-", color=PICK, label="counted")
    for phi, counted in zip(members["phi"], members["counted_ratio"], strict=True):
        label, spot = f"{counted:.3g}×", (phi, counted)
        right.annotate(label, spot, (-6, 7), textcoords="offset points", ha="right", fontsize=8, color=INK)
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    right.set_xticks(members["phi"].tolist(), [f"{phi:g}" for phi in members["phi"]])
    right.margins(x=0.1)
    right.set(xlabel="compound coefficient φ", ylabel="MAdds relative to the baseline (log scale)")
    right.legend(fontsize=8, loc="lower right")
    return figure


def trained(members: pd.DataFrame, title: str, subtitle: str, metric: str = "accuracy") -> Figure:
    """A metric of a family's members against their MAdds, with 95 % intervals of the trainings' noise."""
    figure, (axes,) = figures(title, subtitle, 1)
    done = members[members[metric].notna()]
    madds, accuracy = done["madds"].astype(float), 100 * done[metric].astype(float)
    errors = _bars(done, metric)
    style: dict[str, Any] = {"markersize": 6, "linewidth": 1.4, "capsize": 3, "elinewidth": 1, "zorder": 3}
    axes.errorbar(madds, accuracy, errors, fmt="s-", color=PICK, **style)
    for x, y, row in zip(madds, accuracy, done.itertuples(), strict=True):
        label = f"φ={row.phi:g}, {row.image_size} px"
        axes.annotate(label, (x, y), (8, -12), textcoords="offset points", fontsize=8, color=INK)
    log_counts(axes, "x", madds.tolist())
    axes.margins(y=0.15)
    axes.set(xlabel="multiply-adds per image at the network's own resolution (log scale)", ylabel=LABELS[metric])
    note(figure, "bars: 95 % intervals of the noise between trainings from several seeds; px: the proxy's images")
    return figure


def rules(table: pd.DataFrame, title: str, subtitle: str, metric: str = "accuracy") -> Figure:
    """A metric of one network a rule, all with nearly equal counted MAdds, and what else they cost.

    table has the columns of rules.csv. Right panel: parameters, activations and training step relative to compound.
    """
    figure, (left, right) = figures(title, subtitle, 2)
    done = table[table[metric].notna()].sort_values(metric)
    rows = np.arange(len(done))
    accuracy = 100 * done[metric].astype(float)
    errors = _bars(done, metric)
    left.errorbar(accuracy, rows, xerr=errors, fmt="o", color=FRONT, ecolor=PALE, markersize=8, capsize=3)
    at = np.flatnonzero(done["picked"])
    left.scatter(accuracy.iloc[at], at, s=260, label="picked", **_STAR)
    names = [
        f"{row['rule']}\nd {row['depth']:.2f}  w {row['width']:.2f}  {row['resolution']} px   "
        f"{format_count(row['madds'], 3)}"
        for row in done.to_dict("records")
    ]
    left.set_yticks(rows, names, fontsize=8)
    left.set(xlabel=LABELS[metric], ylim=(-0.6, len(done) - 0.4))
    left.legend(loc="lower right", fontsize=8)

    compound = table[table["rule"] == "compound"].iloc[0]
    bars = {"params": "parameters", "activations": "activations", "step_seconds": "training step (measured)"}
    colours = (PALE, FRONT, PICK)
    for i, (column, label) in enumerate(bars.items()):
        relative = done[column].astype(float) / float(compound[column])
        right.barh(rows + 0.26 * (1 - i), relative, 0.24, color=colours[i], label=label)
    right.axvline(1, color=INK, linewidth=0.8)
    right.set_yticks(rows, done["rule"], fontsize=9)
    right.set(xlabel="relative to the compound rule", ylim=(-0.6, len(done) - 0.4))
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3, frameon=False)
    note(figure, "bars left: 95 % intervals of the noise between trainings from several seeds")
    return figure
