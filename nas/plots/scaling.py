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
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from nas.base.metrics import spoken
from nas.base.statistics import half_intervals
from nas.base.units import format_count, plural
from nas.plots.figures import FRONT, INK, LABELS, PALE, PICK, figures, log_counts, note

_MOST_ROWS = 24  # of the ranking: the best ones
_STAR: Mapping[str, Any] = {"marker": "*", "facecolors": "none", "edgecolors": PICK, "linewidths": 1.8, "zorder": 6}
_LABEL: Mapping[str, Any] = {
    **{"fontsize": 8, "color": PICK, "zorder": 6},
    "path_effects": [withStroke(linewidth=2, foreground="white")],  # legible on lines
}
_TINTS = (FRONT, "#5b8e4d", "#8a6fb0")  # of published networks
_APART = 0.035  # inches between points of one cost
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


def family(
    members: pd.DataFrame, published: pd.DataFrame, title: str, subtitle: str, metric: str = "accuracy"
) -> Figure:
    """Two panels: a family's parameters against MAdds beside published networks, and its counted and nominal growth.

    Where members are trained, a metric against MAdds and the parameters. members and published have the columns of
    family.csv and published.csv; published may be empty.
    """
    figure, (left, right) = figures(title, subtitle, 2)
    remarks = []
    if metric in members and members[metric].notna().any():
        _against_madds(left, members, published, metric)
        _against_madds(right, members, published, "params")
        remarks.append(
            "bars: 95 % intervals of the noise between seeds, pooled over all networks, or of the number of validation "
            "images where none has several; points of one cost are set apart"
        )
    else:
        _against_madds(left, members, published, "params")
        _growth(right, members)
    if len(published):
        remarks.append(
            "published networks: fitted to the baseline's resolution and MAdds, then scaled by the same α, β, γ to the "
            "members' MAdds; counted alike"
        )
    note(figure, "\n".join(remarks))
    return figure


def _against_madds(axes: Axes, members: pd.DataFrame, published: pd.DataFrame, column: str) -> None:
    """A metric, with its intervals, or parameters of the members and of each published network against their MAdds."""
    lines = [(str(name), rows) for name, rows in published.groupby("name", sort=False)] if len(published) else []
    lines.append(("this family", members))
    ends: list[float] = []
    for i, (name, rows) in enumerate(lines):
        own = rows is members
        done = rows[rows[column].notna()].sort_values("madds")
        style: dict[str, Any] = {"color": PICK if own else _TINTS[i], "marker": "s" if own else "ov^"[i], "label": name}
        style |= {"markersize": 6 if own else 4.5, "linewidth": 1.6 if own else 0.9, "zorder": 5 if own else 3}
        madds, values = done["madds"].astype(float), done[column].astype(float)
        if column == "params":
            axes.plot(madds, values, **style)
        else:
            values, half = 100 * values, _bars(done, column)
            apart = ScaledTranslation((i - len(lines) + 1) * _APART, 0, axes.figure.dpi_scale_trans)
            bars: dict[str, Any] = {"elinewidth": 1, "capsize": 2.5, "transform": axes.transData + apart}
            axes.errorbar(madds, values, half, **style, **bars)
            ends += [*(values - half), *(values + half)]
        for x, y, phi in zip(madds, values, done["phi"], strict=True) if own else ():
            axes.annotate(f"φ={phi:g}", (x, y), (7, -3), textcoords="offset points", va="top", **_LABEL)
    both = pd.concat([members, published])
    log_counts(axes, "x", _with_room(both["madds"]))
    axes.set(xlabel=f"{LABELS['madds']}, each at its own resolution (log scale)", ylabel=LABELS[column])
    if column == "params":
        log_counts(axes, "y", _with_room(both["params"]))
        axes.set_ylabel(f"{LABELS[column]} (log scale)")
    else:
        room = 0.08 * (max(ends) - min(ends)) or 1
        axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.legend(fontsize=8, reverse=True)


def _with_room(counts: pd.Series) -> list[float]:
    """The ends of a logarithmic axis with room for labels beside the outermost points."""
    low, high = float(counts.min()), float(counts.max())
    room = (high / low) ** 0.06
    return [low / room, high * room]


def _growth(axes: Axes, members: pd.DataFrame) -> None:
    """The growth of MAdds with φ, nominal and counted."""
    axes.plot(members["phi"], members["nominal_ratio"], "--", color=PALE, label="nominal: (α·β²·γ²)^φ")
    axes.plot(members["phi"], members["counted_ratio"], "s-", color=PICK, label="counted")
    for phi, counted in zip(members["phi"], members["counted_ratio"], strict=True):
        label, spot = f"{counted:.3g}×", (phi, counted)
        axes.annotate(label, spot, (0, 7), textcoords="offset points", ha="center", **{**_LABEL, "color": INK})
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    axes.set_xticks(members["phi"].tolist(), [f"{phi:g}" for phi in members["phi"]])
    axes.margins(0.1)
    axes.set(xlabel="compound coefficient φ", ylabel="MAdds relative to the baseline (log scale)")
    axes.legend(fontsize=8, loc="lower right")


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
