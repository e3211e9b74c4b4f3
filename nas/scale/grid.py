"""The choice of α, β, γ: φ = 1 networks trained by successive halving, the table and the picture of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from nas.base import cli
from nas.base.errors import RunFailed
from nas.base.files import to_csv, write_atomic
from nas.base.metrics import METRICS, spoken
from nas.base.units import plural, shown
from nas.datasets import load_data
from nas.networks import scaling
from nas.networks.scaling import Candidate, Coefficients
from nas.plots import figures as plots
from nas.plots import scaling as pictures
from nas.scale.config import Scaling
from nas.scale.halving import FINALISTS, Gap, Network, SuccessiveHalving, error, gap, noise
from nas.scale.trainings import Trainings
from nas.training.proxy import Job

Known = Mapping[Job, FrozenTrial]
Stage = dict[Network, list[FrozenTrial]]
MEANS = [name for metric in METRICS.values() for name in (metric, f"{metric}_error")]  # columns of several tables


@dataclass(frozen=True)
class GridSearch:
    """The candidates of a scaling in successive halving: what is trained, the results so far, the winner."""

    config: Scaling

    @cached_property
    def networks(self) -> list[Network]:
        """The network of each candidate: those that round to the same one share it."""
        return self.config.proxy_networks([one.architecture for one in self.config.candidates])

    @cached_property
    def paper(self) -> Candidate:
        """The candidate with the paper's coefficients."""
        triple = scaling.paper(self.config.target)
        return next(one for one in self.config.candidates if one.coefficients == triple)

    @cached_property
    def halving(self) -> SuccessiveHalving:
        """The successive halving, in which the paper's network is kept to the end."""
        always_kept = self.networks[self.config.candidates.index(self.paper)]
        recipe = self.config.proxy.recipe
        distinct = tuple(dict.fromkeys(self.networks))
        return SuccessiveHalving(distinct, always_kept, recipe.epochs, self.config.found.seed, self.config.seeds)

    def stages(self, known: Known) -> list[Stage]:
        """The complete trainings of each stage so far, of the networks that have one."""
        scores = {job: trial.user_attrs.get(self.config.metric) for job, trial in known.items()}
        stages = []
        for stage in self.halving.stages(scores):
            done = {n: [known[job] for job in jobs if scores.get(job) is not None] for n, jobs in stage.items()}
            stages.append({network: trials for network, trials in done.items() if trials})
        return stages

    def leader(self, known: Known) -> Network | None:
        """The network with the best mean of the last stage that has any; of equal ones the first."""
        scores = scores_of(next((stage for stage in reversed(self.stages(known)) if stage), {}), self.config.metric)
        return max(scores, key=lambda network: mean(scores[network]), default=None)

    def candidates_of(self, network: Network) -> list[Candidate]:
        """The candidates that round to a network: the paper's first, then the nearer to the target by their product."""
        shared = [one for one, its in zip(self.config.candidates, self.networks, strict=True) if its == network]
        return sorted(shared, key=lambda one: (one != self.paper, abs(one.coefficients.product - self.config.target)))

    def candidate(self, network: Network) -> Candidate:
        """The candidate that a network stands for."""
        return self.candidates_of(network)[0]

    def table(self, known: Known) -> pd.DataFrame:
        """The rows of grid.csv.

        accuracy and balanced_accuracy are means in the last stage that a network reached; those of the first stage, in
        which all are trained alike, are in columns that begin with first_. Errors are those of `means`. epochs are
        those of a training in the last stage, total_seconds those of all its trainings.
        """
        stages, leader = self.stages(known), self.leader(known)
        rows: list[dict[str, Any]] = []
        for one, network in zip(self.config.candidates, self.networks, strict=True):
            reached = [stage for stage in stages if network in stage]
            last = reached[-1][network] if reached else []
            final = means(reached[-1] if reached else {}, network)
            first = means(reached[0] if reached else {}, network)
            cost = asdict(self.config.found.cost(one.architecture))
            rows.append(
                {
                    **asdict(one.coefficients),
                    "product": one.coefficients.product,
                    "counted_ratio": one.counted_ratio,
                    "accuracy": final["accuracy"],
                    **cost,
                    "resolution": one.architecture.resolution,
                    "moved": one.moved,
                    "image_size": network.image_size,
                    **{f"first_{metric}": first[metric] for metric in METRICS.values()},
                    **{name: value for name, value in final.items() if name != "accuracy"},
                    "stage": len(reached) or None,
                    "epochs": last[0].user_attrs["epochs"] if last else None,
                    "trainings": len(last),
                    "total_seconds": sum(t.user_attrs["seconds"] for stage in reached for t in stage[network]),
                    "paper": one == self.paper,
                    "picked": leader is not None and one == self.candidate(leader),
                    "hash": one.architecture.hash,
                    "architecture": network.architecture,
                }
            )
        floats = dict.fromkeys([*MEANS, *(f"first_{metric}" for metric in METRICS.values())], float)
        whole = dict.fromkeys(["stage", "epochs", "error_freedom"], "Int64")
        return pd.DataFrame(rows).astype({**floats, **whole})


def scores_of(stage: Stage, metric: str) -> dict[Network, list[float]]:
    """A metric of trainings, of the networks that have it: those of older versions lack balanced accuracy."""
    found = {n: [t.user_attrs[metric] for t in trials if metric in t.user_attrs] for n, trials in stage.items()}
    return {network: scores for network, scores in found.items() if scores}


def means(stage: Stage, network: Network) -> dict[str, Any]:
    """The columns MEANS and error_freedom of a network's trainings in a stage; None where there is nothing.

    Means of the metrics with their standard errors: from the noise between trainings, pooled over the stage with
    error_freedom degrees of freedom; of a single training from the number of validation images, with 0.
    """
    row: dict[str, Any] = dict.fromkeys([*MEANS, "error_freedom"])
    for metric in METRICS.values():
        scores = scores_of(stage, metric)
        if network not in scores:
            continue
        several = len(scores[network]) > 1
        single = stage[network][0].user_attrs.get(f"{metric}_error")
        row[metric], row[f"{metric}_error"] = mean(scores[network]), error(scores, network) if several else single
        row["error_freedom"] = noise(scores)[1] if several else 0
    return row


def best_of_grid(config: Scaling, trainings: Trainings, folder: Path) -> Coefficients:
    """Find the coefficients of the best φ = 1 network, or continue to; raises RunFailed if none can be trained."""
    search, images = GridSearch(config), load_data(config.proxy.data)
    halving = search.halving
    finalists = min(FINALISTS, len(halving.networks))
    stages = [f"{size} for {plural(epochs, 'epoch')}" for size, epochs in halving.rungs]
    stages += [f"{finalists} for {plural(halving.final_epochs, 'epoch')} from {plural(config.seeds, 'fresh seed')}"]
    sizes = sorted({network.image_size for network in halving.networks})
    cli.say(
        f"grid: {len(config.candidates)} triples, {len(halving.networks)} networks at φ = 1; trained are "
        f"{', '.join(stages)}"
    )
    cli.say(
        f"the proxy trains {images.name} at {sizes[0]} to {sizes[-1]} px in proportion to a network's resolution, so "
        "that a larger γ shows it more of each image"
    )

    def after() -> str:
        return write_grid(search, trainings.known(), folder)

    trainings.run(halving.plan, halving.total, after)
    after()
    leader = search.leader(trainings.known())
    if leader is None:
        raise RunFailed(f"{folder}: none of the grid's networks could be trained")
    picked = search.candidate(leader)
    final = scores_of(search.stages(trainings.known())[-1], config.metric)
    cli.say(
        f"picked: {picked.coefficients}, nominal {picked.coefficients.product:.4g}×, "
        f"counted {picked.counted_ratio:.4g}×"
        + (f", {spoken(config.metric)} {100 * mean(final[leader]):.2f} %" if leader in final else "")
    )
    if others := [str(one.coefficients) for one in search.candidates_of(leader)[1:]]:
        cli.say(f"  the same network at φ = 1 is that of {'; '.join(others[:5])}{'; …' if others[5:] else ''}")
    for sentence in comparison_sentences(search, final):
        cli.say(f"  {sentence}")
    cli.say(f"grid: {folder / 'grid.csv'}, {folder / 'grid.png'}")
    return picked.coefficients


def comparison_sentences(search: GridSearch, final: Mapping[Network, list[float]]) -> list[str]:
    """Sentences: does the winner differ from the runner-up and from the paper's coefficients by more than noise?"""
    ranked = sorted(final, key=lambda network: -mean(final[network]))
    if not ranked:
        return ["no finalist could be trained: this is the best of the rung before, by one training"]
    lines = []
    if len(ranked) > 1:
        runner = search.candidate(ranked[1]).coefficients
        lines.append(comparison_text(gap(final, ranked[0], ranked[1]), f"the runner-up, {runner}"))
    paper = search.paper
    always_kept = search.halving.always_kept
    name = f"the paper's {paper.coefficients} (counted {paper.counted_ratio:.3g}×)"
    if ranked[0] == always_kept:
        lines.append(f"it is the network of {name}")
    elif always_kept is not None and always_kept in final:
        lines.append(comparison_text(gap(final, ranked[0], always_kept), name))
    else:
        lines.append(f"not compared with {name}: its trainings failed")
    return lines


def comparison_text(found: Gap[Network], other: str) -> str:
    """How far the winner is from another network, and whether that is more than noise."""
    words = "distinguishable from" if found.distinguishable else "not distinguishable from"
    if found.margin == float("inf"):
        return f"{words} {other}: {100 * found.difference:+.2f} points, with too few trainings to know the noise"
    return (
        f"{words} {other}: {100 * found.difference:+.2f} ± {100 * found.margin:.2f} points (95 % interval of the "
        "trainings' noise, same validation images)"
    )


def write_grid(search: GridSearch, known: Known, folder: Path) -> str:
    """Write grid.csv and grid.png as they are now; returns a text on the best network."""
    table = search.table(known)
    metric = search.config.metric
    write_atomic(folder / "grid.csv", to_csv(table))
    done = table[table[metric].notna()]
    if done.empty:
        return ""
    found = search.config.found
    title = f"{shown(found.path.name, 40)}: α, β, γ of φ = 1 networks by proxy {spoken(metric)}"
    subtitle = (
        f"baseline {shown(found.origin, 40)}, trained on {shown(load_data(search.config.proxy.data).name, 40)}; "
        f"{len(done)} of {len(table)} triples, {table['hash'].nunique()} networks"
    )
    plots.draw(folder / "grid.png", pictures.grid, done, title, subtitle, metric)
    best = done[done["picked"]].iloc[0]
    return f"best {Coefficients(best['alpha'], best['beta'], best['gamma'])}"
