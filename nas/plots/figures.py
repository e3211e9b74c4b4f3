"""Pictures: fronts, budgets, distributions; those of a scaling are in `nas.plots.scaling`.

Each function returns a matplotlib figure, which a notebook shows (after `%matplotlib inline`) and `save` writes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd
from matplotlib import colormaps, get_data_path, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from nas.base.files import write_atomic
from nas.base.metrics import spoken
from nas.base.units import format_count, shown

Options = ParamSpec("Options")

if TYPE_CHECKING:
    from nas.base.limits import Bounds
    from nas.selection.noise import Noise

INK, FRONT, PICK, PALE, _NEAR = "#222222", "#1f6fb4", "#d1495b", "#b8c1ca", "#6c7f91"
KINDS = {
    "op": "op",
    "variant": "op and expansion",
    "repeats": "layers",
    "kernel": "kernel",
    "expansion": "expansion",
    "channels": "width",
    "se": "SE ratio",
}
_ORDINALS = ("first", "second", "third", "fourth", "further")
_NUMBERED = 16  # members of a front that get a number each
_BARS = "bars: 95 % interval from the number of validation images; one training each, whose own noise is not in them"
LABELS = {
    "accuracy": "proxy accuracy on validation images (%)",
    "balanced_accuracy": "proxy balanced accuracy on validation images (%)",
    "madds": "multiply-adds per image",
    "flops": "flops per image (fvcore)",
    "params": "parameters",
    "activations": "activations per image",
    "peak": "peak memory (elements held at once for one image)",
    "latency": "latency of a batch, predicted from measured blocks (s)",
    "latency_measured": "latency of a batch, measured on the whole network (s)",
    "step_seconds": "training step as measured (s)",
}


def short_name(cost: str) -> str:
    """A cost as a title names it."""
    names = {"madds": "MAdds", "params": "parameters", "peak": "peak memory", "step_seconds": "training step time"}
    return names.get(cost, "measured latency" if cost == "latency_measured" else cost.replace("_", " "))


def draw(path: Path, picture: Callable[Options, Figure], *args: Options.args, **kwargs: Options.kwargs) -> None:
    """Draw a picture and write it; where that fails, warn in one line: a missing picture must not end a run."""
    try:
        save(picture(*args, **kwargs), path)
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0]
        _warn(f"warning: {shown(str(path))}: not drawn ({type(error).__name__}: {shown(cause, 200)})")


@cache  # a picture is drawn after each trial, and may fail each time
def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, replacing the file at once; installed fonts fill in for glyphs that the default lacks."""
    texts = figure.findobj(Text)
    families, _ = _fonts("".join(text.get_text() for text in texts if isinstance(text, Text)))
    for text in texts if len(families) > len(rcParams["font.family"]) else ():
        assert isinstance(text, Text)
        text.set_fontfamily(families)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    write_atomic(path, buffer.getvalue())


def literal(text: str, most: int | None = None) -> str:
    r"""A user's text for matplotlib to draw literally, cut to at most `most` characters.

    Otherwise $…$ would be mathematics, and a label that begins with _ would be missing in the legend. Characters that
    no installed font has are escaped, as \u0e01.
    """
    seen = shown(text, most)
    _, lacking = _fonts(seen)
    drawn = "".join(c.encode("unicode_escape").decode() if ord(c) in lacking else c for c in seen)
    return (" " if drawn.startswith("_") else "") + drawn.replace("$", r"\$")


def _fonts(text: str) -> tuple[list[str], set[int]]:
    """The default font family, with others for glyphs that it lacks; and the characters that no font has."""
    families = list(rcParams["font.family"])
    lacking = set(map(ord, text)) - _glyphs(findfont(FontProperties())) - {ord("\n")}
    own = get_data_path()  # matplotlib's symbol fonts have other glyphs at the code points of letters
    others = (entry for entry in fontManager.ttflist if not entry.fname.startswith(own))
    for entry in others if lacking else ():
        if had := lacking & _glyphs(entry.fname):
            families.append(entry.name)
            lacking -= had
    return families, lacking


@cache
def _glyphs(file: str) -> frozenset[int]:
    """The characters that a font file has glyphs for; none if it cannot be read."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def pareto(
    trials: pd.DataFrame,
    front: pd.DataFrame,
    baseline: int | None,
    cost: str,
    title: str,
    subtitle: str,
    noise: Noise | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Accuracy, or another metric, against one cost (logarithmic): all trials, the front, the picked baseline.

    The staircase goes through what is not dominated in these two; a third objective may have put more on the front.
    trials and front have the columns of trials.csv, and what has a name there has it in the picture; baseline is a
    trial's number. With noise, accuracies are means over trainings, bars are two standard errors of theirs, networks
    trained once are pale, the first training of the others is a small ring, and numbers are the probabilities of being
    non-dominated. Without, all are single trainings: bars are 95 % intervals of an accuracy measured on a number of
    images, and the figure says that nothing is confirmed.
    """
    mean = f"mean_{metric}"
    figure, (axes,) = figures(title if noise else f"{title} (single trainings, unconfirmed)", subtitle, 1)
    done = trials[trials["state"] == "COMPLETE"]
    near = done["runs"].gt(1) & ~done["trial"].isin(front["trial"])
    rest = done[~near & ~done["trial"].isin(front["trial"])]
    if len(rest):
        label = f"trained once ({len(rest)})" if noise else f"trials ({len(done)})"
        axes.scatter(rest[cost], 100 * rest[mean], s=26, color=PALE, label=label, zorder=2)
    ranked = front.sort_values(cost)
    steps = ranked[ranked[mean] >= ranked[mean].cummax()]  # others are there by a third objective
    if len(steps):
        axes.step(steps[cost], 100 * steps[mean], where="post", color=FRONT, linewidth=1.4, alpha=0.8, zorder=3)
    for rows, colour, label in ((done[near], _NEAR, "near misses"), (ranked, FRONT, "front of means")):
        if not len(rows):
            continue
        error = 200 * rows["mean_error"] if noise else 196 * rows[f"{metric}_error"]
        axes.errorbar(
            rows[cost].astype(float),
            100 * rows[mean].astype(float),
            error.astype(float),
            fmt="o",
            color=colour,
            elinewidth=1.0,
            capsize=2.5,
            markersize=6 if colour == FRONT else 4.5,
            label=f"{label if noise else 'front'} ({len(rows)})",
            zorder=4,
        )
    again = done[done["runs"].gt(1)]
    if len(again):
        ring: dict[str, Any] = {"s": 16, "facecolors": "none", "edgecolors": "#777777", "linewidths": 0.8}
        axes.scatter(again[cost], 100 * again[metric], label="their first training", zorder=3.5, **ring)
    if noise and len(ranked) <= _NUMBERED:
        for x, y, p in ranked[[cost, mean, "probability"]].itertuples(index=False):
            place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "color": FRONT}
            axes.annotate(f"{p:.2f}", (x, 100 * y), (-5, 3), ha="right", zorder=6, **place)
    named = done[done["name"].notna()] if "name" in done else done[:0]
    for x, y, name in named[[cost, mean]].assign(name=named.get("name")).itertuples(index=False):
        axes.annotate(name, (x, 100 * y), (6, -11), textcoords="offset points", fontsize=8, color="#444444", zorder=6)
    picked = done[done["trial"] == baseline]
    for _, row in picked.iterrows():
        label = f"baseline: trial {row['trial']}, {100 * row[mean]:.1f} %, {format_count(row[cost])}"
        axes.scatter(row[cost], 100 * row[mean], marker="*", s=230, color=PICK, label=label, zorder=5)
    log_counts(axes, "x", done[cost].astype(float).tolist())
    kind = "mean over trainings" if noise else "one training each"
    axes.set(xlabel=f"{LABELS[cost]} (log scale)", ylabel=f"{LABELS[metric]}\n{kind}")
    if len(done):
        axes.legend(loc="best", fontsize=8, frameon=True, reverse=True)
    pooled = noise and (
        f"bars: ± 2 standard errors of a mean, from the noise of one training between seeds: "
        f"{100 * noise.variance**0.5:.2f} %, pooled over repeats ({noise.freedom} degrees of freedom),\n"
        "on the same validation images; numbers: probability of being non-dominated"
    )
    note(figure, pooled or _BARS)
    return figure


def budget(space: ArrayLike, feasible: ArrayLike, share: float, bounds: Bounds, title: str, subtitle: str) -> Figure:
    """Histogram of MAdds of networks drawn from a space, and in front of it those within a budget.

    space, feasible: MAdds of uniform draws, [n] and [m]; share: how much of the space the feasible ones are, 0 to 1,
    which is the area of their bars. bounds on MAdds are drawn as lines.
    """
    figure, (axes,) = figures(title, subtitle, 1)
    everything, kept = np.asarray(space, float), np.asarray(feasible, float)
    edges = np.histogram_bin_edges(np.concatenate([everything, kept]), 80)
    shapes = [(everything, 1.0, PALE, "the space"), (kept, share, FRONT, "within the budget")]
    for values, area, colour, label in shapes if bounds else shapes[:1]:
        weights = np.full(len(values), 100 * area / len(values))
        axes.hist(values, edges.tolist(), weights=weights, color=colour, label=label, zorder=2)
    for limit in bounds.get("madds", ()):
        if edges[0] < limit < edges[-1]:
            axes.axvline(limit, color=PICK, linewidth=1.2, label=f"budget: {format_count(limit)} MAdds", zorder=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value, 3)))
    axes.set(xlabel=LABELS["madds"], ylabel="share of the space per bar (%)")
    axes.legend(fontsize=8)
    return figure


def sensitivity(effects: pd.DataFrame, mean: float, title: str, subtitle: str, metric: str = "accuracy") -> Figure:
    """The effect of each alternative: a column per kind of choice, accuracy above, MAdds below, by stage.

    effects has the columns of sensitivity.csv; mean is the average network's MAdds, which effects are shares of. Bars
    are two standard deviations of the model's posterior.
    """
    kinds = [kind for kind in KINDS if kind in set(effects["kind"])]
    kinds += sorted(set(effects["kind"]) - set(kinds))
    figure = Figure(figsize=(max(8, 1.2 + 2.5 * len(kinds)), 6.6))
    _head(figure, title, subtitle, 0.94)
    panels = figure.subplots(2, len(kinds), sharex="col", sharey="row", squeeze=False)
    for column, kind in enumerate(kinds):
        rows = effects[effects["kind"] == kind]
        top, bottom = panels[0, column], panels[1, column]
        top.set_title(KINDS.get(kind, kind), fontsize=9.5)
        position = rows.groupby("choice", sort=False).cumcount()
        most = int(position.max()) + 1
        for place in range(most):
            some = rows[position == place]
            x = some["stage"] + 0.22 * (place - (most - 1) / 2)
            values = some["value"].unique()
            label = values[0] if len(values) == 1 else _ORDINALS[min(place, len(_ORDINALS) - 1)]
            colour = colormaps["viridis"](0.8 * place / max(1, most - 1))
            style: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 4.5, "elinewidth": 1, "zorder": 3}
            top.errorbar(x, 100 * some[f"{metric}_effect"], 200 * some[f"{metric}_effect_sd"], label=label, **style)
            bottom.vlines(x, 0, 100 * some["madds_effect"] / mean, color=colour, linewidth=4, zorder=3)
        for axes in (top, bottom):
            axes.axhline(0, color=INK, linewidth=0.7)
            axes.grid(True, axis="y", linewidth=0.4, alpha=0.5)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        top.legend(fontsize=7, ncols=min(most, 3), loc="upper center", handletextpad=0.1, columnspacing=0.6)
        bottom.set_xlabel("stage", fontsize=8.5)
        stages = sorted(effects["stage"].unique())
        bottom.set(xticks=stages, xlim=(stages[0] - 0.6, stages[-1] + 0.6))
    low, high = panels[0, 0].get_ylim()
    room = low, high + 0.18 * (high - low)  # for the legends
    panels[0, 0].set(ylim=room, ylabel=f"effect on {spoken(metric)} (% points)")
    panels[1, 0].set(ylabel=f"effect on MAdds\n(% of the average {format_count(mean, 3)})")
    note(
        figure,
        "points: posterior mean of the sampler's model, bars: ± 2 posterior standard deviations; "
        "MAdds need no model\neffects are relative to the average over a choice's alternatives; where these differ "
        "between stages, first is the one written first in the space",
    )
    return figure


def distributions(
    plain: Mapping[str, tuple[ArrayLike, ArrayLike, int]],
    equal: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str,
    subtitle: str,
    error: str = "error",
) -> Figure:
    """Two panels: empirical distribution functions of error as drawn, with 95 % bands, and at equal cost.

    plain: by name the distinct errors (shares, rising), the share of networks at or below each, and how many networks;
    equal: the same without a number, empty where no costs are alike. error: what it is called. Bands:
    Dvoretzky–Kiefer–Wolfowitz, as Massart 1990 has it, sqrt(log(2 / 0.05) / 2n).
    """
    figure, (left, right) = figures(title, subtitle, 2)
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(plain)}
    for name, (errors, shares, n) in plain.items():
        x, y = _staircase(errors, shares)
        width = (np.log(2 / 0.05) / (2 * n)) ** 0.5
        band = np.clip(y - width, 0, 1), np.clip(y + width, 0, 1)
        left.fill_between(x, *band, step="post", color=colours[name], alpha=0.12, linewidth=0)
        left.step(x, y, where="post", color=colours[name], label=f"{literal(name, 40)} ({n})")
    for name, (errors, shares) in equal.items():
        right.step(*_staircase(errors, shares), where="post", color=colours[name], label=literal(name, 40))
    for axes, what in ((left, "as drawn"), (right, "at equal cost")):
        axes.set_title(what, fontsize=10)
        axes.set(xlabel=f"{error} on validation images (%)", ylabel="share of networks with at most this error")
        axes.set_ylim(0, 1.02)
    left.legend(loc="lower right", fontsize=8)
    right.sharex(left)
    if not equal:
        right.text(0.5, 0.5, "no costs in common", transform=right.transAxes, ha="center", color=INK)
    note(
        figure,
        "bands: 95 %, Dvoretzky–Kiefer–Wolfowitz; at equal cost: bands of MAdds that all have weigh the same in each; "
        "further up and to the left is better",
    )
    return figure


def _staircase(errors: ArrayLike, shares: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The corners of an empirical distribution function in percent, from 0 on."""
    x, y = 100 * np.asarray(errors, dtype=float), np.asarray(shares, dtype=float)
    return np.concatenate([x[:1], x]), np.concatenate([[0.0], y])


def figures(title: str, subtitle: str, panels: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with `panels` panels side by side, in the common style."""
    figure = Figure(figsize=(8 if panels == 1 else 12, 5.4), layout=ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.89)))
    _head(figure, title, subtitle, 0.925)
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for one in axes:
        one.grid(True, which="major", linewidth=0.4, alpha=0.5)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _head(figure: Figure, title: str, subtitle: str, height: float) -> None:
    """Draw the title and, from `height` down, the lines of the subtitle, literally and cut to the figure's width."""
    width = figure.get_figwidth()  # inches
    figure.suptitle(literal(title, round(9.5 * width)), fontsize=12, fontweight="bold")
    lines = "\n".join(literal(line, round(16 * width)) for line in subtitle.split("\n"))
    figure.text(0.5, height, lines, ha="center", va="top", fontsize=8.5, color=INK)


def note(figure: Figure, text: str) -> None:
    """Write a small note at the foot of a figure."""
    margin = 0.03 * (1 + text.count("\n"))
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, margin, 1, 0.92 - margin)))
    figure.text(0.5, 0.008, text, ha="center", va="bottom", fontsize=7, color="#555555")


def log_counts(axes: Axes, which: str, values: list[float]) -> None:
    """A logarithmic axis labelled in K, M and G, with enough labels however short its range."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if not values:
        return
    low, high = min(values) / 1.25, max(values) * 1.25
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    decades = np.log10(high / low)
    few = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2 else (1, 3)
    steps = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if decades < 0.4 else few
    axis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value, 3)))
    axis.set_minor_formatter(NullFormatter())
