"""What the page shows, as plain values: columns of numbers, tables as rows, sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from nas.base.arrays import Floats
from nas.base.errors import UserError
from nas.base.metrics import spoken
from nas.base.statistics import half_intervals
from nas.networks.architecture import Architecture
from nas.networks.blocks import OPS
from nas.networks.cost import parts
from nas.plots import figures as plots
from nas.report import sentences
from nas.report.run import Run
from nas.runs.records import CURVES
from nas.selection import pareto

# What trials can be drawn against.
COSTS = ("madds", "params", "flops", "activations", "peak", "latency", "latency_measured", "step_seconds")
_COLUMNS = ("trial", "mean_error", "runs", "epochs", "seconds", "resolution", *COSTS)


def contents(run: Run) -> dict[str, Any]:
    """All that the page shows of a run, ready for JSON; raises UserError for block strings that cannot be read."""
    places, objectives, trials = _sources(run), sentences.objectives(run), run.trials
    costs = [name for name in COSTS if name in trials and (trials.empty or trials[name].notna().any())]
    main = {"madds", "params", "latency_measured", *objectives}
    network = {text: number for number, text in enumerate(places)}
    return {
        "name": run.name,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "metric": {"key": run.metric, "name": spoken(run.metric)},
        "version": metadata.version("compound-nas"),
        "ops": {name: op.title for name, op in OPS.items()},
        "drawings": drawings(places),
        "texts": sentences.all_sentences(run),
        "commands": sentences.commands(run),
        "origin": sentences.origin(run),
        "costs": [
            {"key": name, "label": plots.LABELS[name], "short": plots.short_name(name), "main": name in main}
            for name in costs
        ],
        "cost": next((name for name in objectives if name in costs), "madds"),
        "trials": _trials(run, network),
        "running": [{"trial": t.number, "network": network[str(t.user_attrs["architecture"])]} for t in run.running],
        "history": _history(run),
        "effects": _rows(run.effects),
        "kinds": plots.KINDS,
        "grid": _rows(_with_drawing_numbers(_with_bars(run.grid, run.metric), network)),
        "rules": _rows(_with_bars(run.rules, run.metric)),
        "family": _rows(_with_drawing_numbers(_with_bars(run.family, run.metric), network)),
        "published": _rows(_with_bars(run.published, run.metric).drop(columns="architecture", errors="ignore")),
    }


def drawings(places: Mapping[str, str]) -> dict[str, Any]:
    """Networks as the page draws them, in the order given; places: block strings, and where each was read.

    What many networks share is written once. words, sides: distinct words of block strings, and distinct lists of the
    sides of a network's parts in pixels; stages: [op, repeats, kernel, stride, expansion, channels, se] by word;
    networks: [numbers of words, number of sides, shares of the MAdds in percent]. Parts are stem, stages, head and
    classifier. Raises UserError, which names the place.
    """
    words: dict[str, int] = {}
    sides: dict[tuple[int, ...], int] = {}
    stages: dict[str, list[Any]] = {}
    networks: list[list[Any]] = []
    for text, place in places.items():
        try:
            arch, sizes, shares = _counted(text)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        for stage in arch.stages:
            shape = (stage.repeats, stage.kernel, stage.stride, stage.expansion, stage.channels, stage.se)
            stages[str(stage)] = [stage.op, *shape]
        written = [words.setdefault(word, len(words)) for word in str(arch).split()]
        networks.append([written, sides.setdefault(sizes, len(sides)), shares])
    return {"words": list(words), "sides": list(map(list, sides)), "stages": stages, "networks": networks}


@lru_cache(maxsize=65536)
def _counted(text: str) -> tuple[Architecture, tuple[int, ...], list[int]]:
    """A network, the sides of its parts' outputs in pixels, and their shares of the MAdds in percent."""
    arch = Architecture.parse(text)
    counted = parts(arch)
    madds = [part.cost.madds for part in counted]
    return arch, tuple(part.size for part in counted), [round(100 * one / sum(madds)) for one in madds]


def _sources(run: Run) -> dict[str, str]:
    """All block strings that are drawn, and where each was read."""
    places: dict[str, str] = {}
    for trial in run.running:
        places.setdefault(str(trial.user_attrs["architecture"]), f"{run.path / 'study.db'}, trial {trial.number}")
    for number, text in zip(run.trials["trial"], run.trials["architecture"], strict=True):
        places.setdefault(str(text), f"{run.path / 'trials.csv'}, trial {number:g}")
    for phi, text in zip(run.family["phi"], run.family["architecture"], strict=True):
        places.setdefault(str(text), f"{run.path / 'scale/family.csv'}, φ = {phi:g}")
    for row in run.grid.itertuples() if "architecture" in run.grid else ():
        triple = f"α = {row.alpha:g}, β = {row.beta:g}, γ = {row.gamma:g}"
        places.setdefault(str(row.architecture), f"{run.path / 'scale/grid.csv'}, {triple}")
    return places


def _trials(run: Run, network: Mapping[str, int]) -> dict[str, list[Any]]:
    """The finished trials as columns; bar: half of the interval that the page draws."""
    trials = run.trials
    noisy = trials["mean_error"].notna()
    front = run.front.drop_duplicates("trial").set_index("trial")
    curves = {trial.number: trial.user_attrs.get(CURVES[run.metric]) for trial in run.study_trials}
    chosen = front.index[front["baseline"].astype(str) == "True"]
    return {
        **{name: _numbers(trials[name]) for name in (run.metric, f"mean_{run.metric}", *_COLUMNS) if name in trials},
        "bar": _numbers((2 * trials["mean_error"]).where(noisy, 1.96 * trials[f"{run.metric}_error"])),
        "state": [str(state) for state in trials["state"]],
        "hash": [str(value) for value in trials["hash"]],
        "note": [str(note) if pd.notna(note) else "" for note in trials.get("note", [""] * len(trials))],
        "front": trials["trial"].isin(front.index).tolist(),
        "baseline": trials["trial"].isin(chosen).tolist(),
        "probability": _numbers(trials["trial"].map(front["probability"])),
        "reward": _numbers(trials["trial"].map(front["reward"])),
        "network": [network[str(text)] for text in trials["architecture"]],
        "curve": [curves.get(int(number)) for number in trials["trial"]],
    }


def _history(run: Run) -> dict[str, list[Any]]:
    """After each trained network: the hypervolume of the front of the first trainings until then, as a share.

    The reference is the box between the worst and the best value of each objective among all trained networks; costs
    are taken by their logarithm. Empty if there is no such box.
    """
    nothing: dict[str, list[Any]] = {"trial": [], "share": []}
    done = run.trials[run.trials["state"] == "COMPLETE"].sort_values("trial")
    names = sentences.objectives(run)
    if not set(names) <= set(done):
        return nothing
    values = done[names].astype(float)
    points = np.column_stack([-values[name] if name == run.metric else np.log(values[name]) for name in names])
    kept = np.isfinite(points).all(axis=1)
    if not kept.any():
        return nothing
    points = points[kept]
    low, high = points.min(axis=0), points.max(axis=0)
    if not (high > low).all():
        return nothing
    return {"trial": _numbers(done["trial"][kept]), "share": shares((points - low) / (high - low))}


def shares(points: Floats) -> list[float]:
    """The hypervolume of the first one, two, … of points [n, m] in the unit cube, up to its far corner."""
    corner = np.ones(points.shape[1])
    front = points[:0]
    shares: list[float] = []
    for point in points:
        if (front <= point).all(axis=1).any():  # dominated, or equal
            shares.append(shares[-1])
            continue
        front = np.vstack([front[(front < point).any(axis=1)], point])
        shares.append(round(pareto.hypervolume(front, corner), 6))
    return shares


def _with_drawing_numbers(table: pd.DataFrame, network: Mapping[str, int]) -> pd.DataFrame:
    """A table with the numbers of its networks' drawings in place of their block strings, if it has these."""
    if "architecture" not in table:  # older versions' grid.csv has none
        return table
    return table.assign(network=table["architecture"].map(network)).drop(columns="architecture")


def _with_bars(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A table of a scaling with half the 95 % intervals of a metric as a column `bar`, if it has trainings."""
    if "error_freedom" not in table:  # a family that was not trained
        return table
    freedom = pd.to_numeric(table["error_freedom"]).fillna(0)
    return table.assign(bar=half_intervals(pd.to_numeric(table[f"{metric}_error"]), freedom))


def _numbers(values: pd.Series) -> list[Any]:
    return [_cell(value) for value in values]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _cell(value) for key, value in row.items()} for row in table.to_dict("records")]


def _cell(value: Any) -> Any:
    """A value for JSON: numbers to six digits, whole ones as integers, non-finite ones as null; texts unchanged."""
    if isinstance(value, str | bool | np.bool_):
        return value if isinstance(value, str) else bool(value)
    number = math.nan if value is None or value is pd.NA else float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.6g}")
