"""What the page says of a run in words: what was measured on what, how sure it is, and what is not there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nas.base.metrics import spoken
from nas.base.units import format_count, format_duration, plural
from nas.devices import latency
from nas.plots import figures as plots
from nas.report.run import Run, table_of
from nas.runs.records import MEASURED
from nas.selection.sensitivity import LEAST

_OBJECTIVES = ("accuracy", "madds")


def all_sentences(run: Run) -> dict[str, Any]:
    """The page's sentences, by the place where they stand; "" where there is nothing to say."""
    functions = (status, confirmed, basis, bars, counted, why, notes, history, effects, scaling, grid, rules)
    return {sentence.__name__: sentence(run) for sentence in functions}


def objectives(run: Run) -> list[str]:
    """The objectives' columns in trials.csv, the metric among them."""
    names = run.fact("arguments", "objectives")
    columns = {"accuracy": run.metric, **MEASURED}
    return [columns.get(str(name), str(name)) for name in (names if isinstance(names, list) else _OBJECTIVES)]


def status(run: Run) -> str:
    """The progress of the run."""
    if not run.facts:
        return "no search in this run, only a scaling"
    ended, states = len(run.trials), run.trials["state"].value_counts()
    wanted, space = run.fact("arguments", "trials", "?"), run.fact("space", "name", "?")
    spent = format_duration(float(run.trials["seconds"].fillna(0).sum()))
    tried = f"{ended} of {wanted} networks" if ended != wanted else f"{ended} networks"
    failed = f" ({states['FAIL']} failed)" if "FAIL" in states else ""
    trained = f"trained on {run.fact('data', 'name', '?')}{failed}"
    return f"{tried} of the space {space} {trained}, {spent} of training"


def confirmed(run: Run) -> str:
    """Whether the front was trained again."""
    if run.front.empty:
        return ""
    again = _noise(run)
    if again is None:
        return "unconfirmed: each network was trained once, seeds alone may change the front and the baseline"
    noise, freedom = again
    expected = run.front["probability"].sum()
    return (
        f"confirmed by repeats: one training's {spoken(run.metric)} varies by {100 * noise:.2f} points between seeds "
        f"(standard deviation, {plural(freedom, 'degree')} of freedom); of the {len(run.front)} on the front "
        f"{expected:.1f} are expected to be non-dominated"
    )


def _noise(run: Run) -> tuple[float, int] | None:
    """The standard deviation of one training between seeds and its degrees of freedom; None if none was repeated."""
    known = run.trials[run.trials["mean_error"].notna()]
    if known.empty:
        return None
    first = known.iloc[0]
    return float(first["mean_error"] * np.sqrt(first["runs"])), int((known["runs"] - 1).sum())


def basis(run: Run) -> str:
    """On which images accuracy was measured, and how it was counted."""
    if not run.facts:
        return ""
    images, name = run.fact("data", "val"), run.fact("data", "name", "?")
    number = f"{images:,} " if isinstance(images, int) else ""
    size, epochs = run.fact("data", "image_size", "?"), run.fact("proxy", "epochs", "?")
    times = "mean over a network's trainings" if _noise(run) else "one training each"
    trained = plural(epochs, "epoch") if isinstance(epochs, int) else f"{epochs} epochs"
    meant = "Accuracy: top-1" if run.metric == "accuracy" else "Balanced accuracy: the mean of the classes' top-1"
    return (
        f"{meant} on {number}validation images of {name} at {size} px that no network is trained on; proxy "
        f"training of {trained}, {times}."
    )


def bars(run: Run) -> str:
    """The meaning of the intervals."""
    if _noise(run):
        return "Bars: ± 2 standard errors of a mean, from the noise between seeds on the same validation images."
    return (
        "Bars: 95 % intervals from the number of validation images; the noise of one training is not in them, "
        "nothing is confirmed."
    )


def counted(run: Run) -> str:
    """The resolution, channels and classes that costs are counted at."""
    pixels, classes, channels = (run.fact("cost", key, "?") for key in ("resolution", "classes", "channels"))
    where = f"at {pixels} px, channels: {channels}, classes: {classes}" if run.facts else "at each network's own pixels"
    return f"Costs: counted exactly for one image {where}; MAdds are multiply-adds of convolutions and linear layers."


def why(run: Run) -> str:
    """By which reward the baseline was picked."""
    reward, target = run.fact("arguments", "reward"), run.fact("arguments", "target_madds")
    if reward == "hard" and isinstance(target, int):
        return (
            f"the cheapest that cannot be told from the most accurate within {format_count(target)} MAdds, by the "
            "model of all trainings (one standard error)"
        )
    if reward in ("soft", "v1") and isinstance(target, int):
        return f"largest reward of all trials: {spoken(run.metric)} · (MAdds / {format_count(target)})⁻⁰·⁰⁷"
    if reward == "v2":
        return f"largest reward of all trials: {spoken(run.metric)} · (training step)⁻⁰·⁰⁷ · (parameters)⁻⁰·⁰⁵"
    return ""


def notes(run: Run) -> list[str]:
    """Further remarks, one line each."""
    lines = []
    states = run.trials["state"].value_counts()
    if len(objectives(run)) > 2:
        lines.append(
            f"The front is that of {spoken(run.metric)}, {_costs(run)}: against one cost alone some members lie below "
            "others."
        )
    if failed := int(states.get("FAIL", 0)):
        causes = run.trials.loc[run.trials["state"] == "FAIL"].get("note", pd.Series(dtype=str)).dropna().astype(str)
        why_not = f": {'; '.join(sorted(set(causes)))[:300]}" if len(causes) else ""
        lines.append(f"{plural(failed, 'trial')} failed{why_not}.")
    if "latency" in run.trials:
        where = ", ".join(f"{key} {value}" for key, value in table_of(run.facts, "latency").items())
        lines.append(f"Latency: predicted, the sum over a network's blocks as measured ({where}); never from MAdds.")
    if {"latency", "latency_measured"} <= set(run.front):
        both = run.front[["latency", "latency_measured"]].dropna()
        if doubt := latency.doubt(both["latency"].tolist(), both["latency_measured"].tolist()):
            lines.append(f"{doubt[0].upper()}{doubt[1:]}.")
    if table_of(run.facts, "progressive"):
        lines.append("Training images grew while a network trained (its recipe is progressive).")
    if run.study_error:
        lines.append(f"The study was not read, so learning curves are missing: {run.study_error}")
    return lines


def history(run: Run) -> str:
    """The meaning of the curve of the search."""
    return (
        f"Hypervolume: the share of the box between the worst and the best {spoken(run.metric)} and the logarithm of "
        f"{_costs(run)} that the front dominates, each network by its first training."
    )


def _costs(run: Run) -> str:
    return " and ".join(plots.short_name(name) for name in objectives(run) if name != run.metric)


def effects(run: Run) -> str:
    """The meaning of the sensitivity, or why there is none."""
    if len(run.effects):
        return (
            "What an alternative does, everything else being equal, compared with the average over its choice's "
            f"alternatives. {spoken(run.metric).capitalize()}: posterior mean of the sampler's model, bars ± 2 "
            "posterior standard deviations. MAdds need no model."
        )
    if not run.facts:
        return ""
    return f"No sensitivity yet: it is written when a search ends that has trained {LEAST} networks or more."


def scaling(run: Run) -> str:
    """How the baseline was scaled, or that it was not."""
    if run.family.empty:
        doing = "The grid is being searched" if run.rules.empty else "The rules are being compared"
        return "Not scaled yet." if run.grid.empty else f"{doing}; the family follows."
    if not run.scaling:
        return "The family of the baseline."
    found = table_of(run.scaling, "coefficients")
    values = {sign: found.get(key) for sign, key in (("α", "alpha"), ("β", "beta"), ("γ", "gamma"))}
    chosen = ", ".join(f"{sign} = {value:.4g}" for sign, value in values.items() if isinstance(value, int | float))
    origin, rule = run.scaling.get("baseline", "the baseline"), run.scaling.get("rule", "?")
    return f"From {origin} by the rule {rule}{f': {chosen}' if chosen else ''}."


def grid(run: Run) -> str:
    """The meaning of the grid's figures."""
    if run.grid.empty:
        return ""
    data = table_of(run.scaling, "arguments").get("data") or run.fact("data", "name", "the run's data")
    halved = (
        " Half of them went on from stage to stage, the last are means over several seeds; stages do not compare with "
        "each other."
    )
    return (
        f"{len(run.grid)} triples with α·β²·γ² near the target, {run.grid['hash'].nunique()} networks of φ = 1; proxy "
        f"{spoken(run.metric)} on validation images of {data}; bars are 95 % intervals."
        f"{halved if run.grid['stage'].max() > 1 else ''}"
    )


def rules(run: Run) -> str:
    """The meaning of the comparison of rules."""
    if run.rules.empty:
        return ""
    low, high = (format_count(bound) for bound in (run.rules["madds"].min(), run.rules["madds"].max()))
    return (
        f"One network a rule, of {low} to {high} counted MAdds; proxy {spoken(run.metric)} is the mean over several "
        "seeds, bars are 95 % intervals between them."
    )


def commands(run: Run) -> list[dict[str, str]]:
    """The commands that repeat the run, and the one that comes next."""
    found: list[tuple[str, list[str]]] = []
    if run.facts:
        found.append(("the search", ["search", "--from", f"{run.path}/run.toml"]))
    if arguments := table_of(run.facts, "arguments"):
        found.append(("the same with all its options", ["search", "--run", f"{run.name}-again", *_options(arguments)]))
    if arguments := table_of(run.scaling, "arguments"):
        found.append(("the scaling", ["scale", *_options(arguments)]))
    elif len(run.front):
        found.append(("next: the scaling", ["scale", "--phi", "3", "--baseline", run.name]))
    return [{"what": what, "command": f"python -m nas.{shlex.join(words)}"} for what, words in found]


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments of a run.toml as they are given; a table or a false flag is left out."""
    words: list[str] = []
    for key, value in arguments.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not False and not isinstance(value, dict):
            words += [option, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def origin(run: Run) -> list[dict[str, str]]:
    """Where the figures come from: data, versions, machine; name and value."""
    facts = run.facts or run.scaling
    data, versions, machine = (table_of(facts, name) for name in ("data", "versions", "machine"))
    known: dict[str, Any] = {
        key: data[key] for key in ("name", "train", "val", "classes", "fingerprint", "note") if key in data
    }
    tables: dict[str, dict[str, Any]] = {"data": known, "versions": versions, "machine": machine}
    return [{"name": f"{name}: {key}", "value": str(table[key])} for name, table in tables.items() for key in table]
