"""`python -m nas.compare`: error distributions of random networks, to compare spaces or runs.

As Radosavovic et al. 2019 (arXiv 1905.13214) and 2020 (arXiv 2003.13678) compare design spaces: not by the best network
found, but by the error distributions of random networks, also at equal cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from nas.base import cli
from nas.base.arrays import Floats
from nas.base.errors import UserError
from nas.base.files import read_csv, read_toml
from nas.base.metrics import metric_of, option_of
from nas.base.units import format_count, shown
from nas.plots import figures as plots
from nas.runs.lookup import find_run
from nas.selection.distributions import SHUFFLES, difference, distribution, equal_cost
from nas.training.recipe import Recipe

LEAST = 5  # networks in a distribution
BANDS = 5  # of networks of similar cost


@dataclass(frozen=True)
class Sample:
    """Random networks of one run, named as typed: errors (1 - metric) and MAdds, [n] each; `facts` is its run.toml."""

    name: str
    path: Path
    errors: Floats
    madds: Floats
    facts: dict[str, Any]
    metric: str


def main(
    runs: Annotated[list[str], typer.Argument(help="Runs of --sampler random, by name or directory.")],
    out: Annotated[str, typer.Option(help="File for the picture.")] = "compare.png",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the permutation test.")] = 0,
) -> None:
    """Compare the error distributions of random networks of several runs, as drawn and at equal cost.

    A run represents its space only if its networks are uniform samples: use --sampler random. All runs must share
    training, data and --metric; an error is 1 minus that metric.
    """
    path = Path(out)
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--out {out}: give a file in a folder that exists, like compare.png")
    samples = [sample_of(name) for name in runs]
    if len({sample.path.resolve() for sample in samples}) < len(samples):
        raise UserError(f"name each run once, got {', '.join(runs)[:100]}")
    for other in samples[1:]:
        check_alike(samples[0], other)
    first, *_ = samples
    error = "error" if first.metric == "accuracy" else "balanced error"
    table = Table("run", "networks", "MAdds, median", f"least {error}", f"median {error}", "difference", "p")
    for sample in samples:
        errors = (f"{100 * value:.1f} %" for value in (sample.errors.min(), float(np.median(sample.errors))))
        apart = ["", ""]
        if sample is not first:
            gap, p = difference(first.errors, sample.errors, seed)
            apart = [f"{gap:.2f}", f"{p:.2g}"]
        median = format_count(float(np.median(sample.madds)))
        table.add_row(shown(sample.name), str(len(sample.errors)), median, *errors, *apart)
    cli.show(table)
    cli.say(f"difference: the largest between the distributions (Kolmogorov–Smirnov), to {first.name}; p: how probable")
    cli.say(f"  one at least as large is between samples of one distribution, from {SHUFFLES} permutations")
    spaces = ", ".join(f"{shown(s.name, 40)}: {shown(s.facts['space']['name'], 40)}" for s in samples)
    data, epochs = shown(first.facts["data"]["name"], 40), first.facts["proxy"]["epochs"]
    subtitle = f"{spaces}; {data}, epochs: {epochs}, one training each"
    weights = equal_cost([sample.madds for sample in samples], BANDS)
    plain = {s.name: (*distribution(s.errors), len(s.errors)) for s in samples}
    equal = {s.name: distribution(s.errors, w) for s, w in zip(samples, weights, strict=True) if w.any()}
    title = f"{error} distributions of random networks"
    plots.draw(path, plots.distributions, plain, equal, title, subtitle, error)
    cli.say(f"picture: {path}")


def sample_of(name: str) -> Sample:
    """The networks of a run; raises UserError if they are no random sample of a space."""
    path = find_run(name)
    if path is None or not (path / "run.toml").exists() or not (path / "trials.csv").exists():
        raise UserError(f"{name[:100]!r}: no run of this name that has trials")
    facts = read_toml(path / "run.toml")
    sampler = facts.get("arguments", {}).get("sampler")
    if sampler != "random":
        raise UserError(
            f"{path}: its networks were proposed by --sampler {sampler}, which is after good ones, so they say nothing "
            "of the space as a whole; make a run with --sampler random"
        )
    try:
        metric = metric_of(None, facts)
        table = read_csv(path / "trials.csv", ("state", metric, "madds"))
        done = table[table["state"] == "COMPLETE"]
        errors, madds = 1 - done[metric].to_numpy(float), done["madds"].to_numpy(float)
    except ValueError as error:
        raise UserError(f"{path / 'trials.csv'}: cannot be read: {error}") from None
    if others := sorted(set(table["state"]) - {"COMPLETE", "FAIL"}):
        raise UserError(f"{path}: some trials are {', '.join(others)}: without their errors the others are no sample")
    if len(done) < LEAST:
        raise UserError(f"{path}: {len(done)} trained networks; a distribution needs {LEAST}, better 50 or more")
    if len(done) < len(table):
        cli.say(f"{name}: {len(table) - len(done)} trials that failed are left out")
    return Sample(name, path, errors, madds, facts, metric)


def check_alike(one: Sample, other: Sample) -> None:
    """Raise a UserError if two runs were not trained alike on the same data, or their costs count differently."""
    mine, theirs = (
        {
            f"--metric {option_of(one.metric)} differs from {option_of(other.metric)}": sample.metric,
            "the proxy training differs": Recipe.of_run(sample.facts, str(sample.path / "run.toml")),
            "the data set differs": (sample.facts.get("data") or {}).get("fingerprint"),
            "the cost differs": sample.facts.get("cost"),
        }
        for sample in (one, other)
    )
    for reason, value in mine.items():
        if value != theirs[reason]:
            raise UserError(f"{one.name} and {other.name} cannot be compared: {reason}")


if __name__ == "__main__":
    cli.run(main)
