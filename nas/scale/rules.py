"""The rule `auto`: one network a rule at equal counted MAdds, trained from several seeds, and the best is taken."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas as pd

from nas.base import cli
from nas.base.errors import RunFailed
from nas.base.files import to_csv, write_atomic
from nas.base.units import format_count, plural, shown
from nas.datasets import load_data
from nas.networks import scaling
from nas.networks.scaling import Coefficients, Member
from nas.plots import figures as plots
from nas.plots import scaling as pictures
from nas.scale.config import Scaling
from nas.scale.grid import MEANS, Known, Stage, comparison_text, means, scores_of
from nas.scale.halving import Network, gap
from nas.scale.trainings import Trainings
from nas.training.proxy import Job


@dataclass(frozen=True)
class Comparison:
    """The rules at equal counted MAdds: `target` times the baseline's. compound: the coefficients of that rule."""

    config: Scaling
    compound: Coefficients
    epochs: int

    @cached_property
    def coefficients(self) -> dict[str, Coefficients]:
        """The coefficients of each rule."""
        others = [rule for rule in scaling.WEIGHTS if rule not in self.config.left_out]
        return {
            "compound": self.compound,
            **{rule: scaling.rule_coefficients(rule, self.config.target) for rule in others},
        }

    @cached_property
    def members(self) -> dict[str, Member]:
        """The network of each rule."""
        base = self.config.found.architecture
        goal = self.config.target * self.config.found.cost(base).madds
        return {
            rule: scaling.equal_cost(base, one, goal, self.config.found.deployment)
            for rule, one in self.coefficients.items()
        }

    @cached_property
    def networks(self) -> dict[str, Network]:
        """The network of each rule with its image size in proxy training."""
        networks = self.config.proxy_networks([member.architecture for member in self.members.values()])
        return dict(zip(self.members, networks, strict=True))

    @property
    def jobs(self) -> list[Job]:
        """All trainings, seed by seed."""
        first = self.config.found.seed
        distinct = dict.fromkeys(self.networks.values())
        seeds = range(first, first + self.config.seeds)
        return [network.job(self.epochs, seed) for seed in seeds for network in distinct]

    def done(self, known: Known) -> Stage:
        """The complete trainings of each network."""
        found: Stage = {}
        for job in self.jobs:
            if job in known and self.config.metric in known[job].user_attrs:
                assert job.image_size is not None
                found.setdefault(Network(job.architecture, job.image_size), []).append(known[job])
        return found

    def best(self, known: Known) -> str | None:
        """The rule with the best mean of the metric; of equal ones the first."""
        scores = scores_of(self.done(known), self.config.metric)
        tried = [rule for rule, network in self.networks.items() if network in scores]
        return max(tried, key=lambda rule: mean(scores[self.networks[rule]]), default=None)

    def table(self, known: Known) -> pd.DataFrame:
        """The rows of rules.csv; step_seconds is the median training step of the proxy."""
        done, best = self.done(known), self.best(known)
        base = self.config.found.cost(self.config.found.architecture).madds
        rows: list[dict[str, Any]] = []
        for rule, member in self.members.items():
            network = self.networks[rule]
            trials = done.get(network, [])
            rows.append(
                {
                    "rule": rule,
                    **asdict(self.coefficients[rule]),
                    "phi": member.phi,
                    "depth": member.depth,
                    "width": member.width,
                    "resolution": member.architecture.resolution,
                    **asdict(member.cost),
                    "counted_ratio": member.cost.madds / base,
                    "moved": member.moved,
                    "image_size": network.image_size,
                    **means(done, network),
                    "trainings": len(trials),
                    "epochs": self.epochs,
                    "step_seconds": median(t.user_attrs["step_seconds"] for t in trials) if trials else None,
                    "picked": rule == best,
                    "architecture": str(member.architecture),
                }
            )
        floats = dict.fromkeys([*MEANS, "step_seconds"], float)
        return pd.DataFrame(rows).astype({**floats, "error_freedom": "Int64"})


def best_rule(comparison: Comparison, trainings: Trainings, folder: Path) -> str:
    """Train the rules' networks, print how they compare, and return the best rule; continues what was begun."""
    config = comparison.config
    images = load_data(config.proxy.data)
    cli.say(f"rules at {config.target:g}× counted MAdds, {plural(config.seeds, 'training')} each:")
    for rule, member in comparison.members.items():
        cli.say(
            f"  {rule}: depth {member.depth:.3f}, width {member.width:.3f}, {member.architecture.resolution} px, "
            f"{format_count(member.cost.madds)} MAdds, {format_count(member.cost.activations)} activations"
        )
    for rule, why in config.left_out.items():
        cli.say(f"  {rule} is left out: {why}")
    title = f"{shown(config.found.path.name, 40)}: scaling rules at {config.target:g}× counted MAdds"
    subtitle = (
        f"baseline {shown(config.found.origin, 40)}; {plural(comparison.epochs, 'epoch')} on {shown(images.name, 40)}, "
        f"images up to {images.image_size} px in proportion to the resolution"
    )

    def after() -> str:
        known = trainings.known()
        table = comparison.table(known)
        write_atomic(folder / "rules.csv", to_csv(table))
        best = comparison.best(known)
        if best is None:
            return ""
        plots.draw(folder / "rules.png", pictures.rules, table, title, subtitle, config.metric)
        return f"best rule {best}"

    trainings.run(lambda _: comparison.jobs, len(comparison.jobs), after)
    after()
    known = trainings.known()
    best = comparison.best(known)
    if best is None:
        raise RunFailed(f"{folder}: none of the rules' networks could be trained")
    cli.say(f"rule: {best}")
    scores = scores_of(comparison.done(known), config.metric)
    for rule, network in comparison.networks.items():
        if rule != best and network == comparison.networks[best]:
            cli.say(f"  {rule} comes to the same network")
        elif rule != best and network in scores:
            cli.say(f"  {comparison_text(gap(scores, comparison.networks[best], network), rule)}")
    cli.say(f"rules: {folder / 'rules.csv'}, {folder / 'rules.png'}")
    return best
