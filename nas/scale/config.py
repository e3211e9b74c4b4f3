"""The config of a scaling: how α, β, γ are found, which φ, and what its trainings use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import inf
from typing import Any

from nas.base.errors import UserError
from nas.base.limits import Bounds, amount, at_most, words
from nas.base.units import format_count
from nas.datasets import Source, load_data
from nas.devices import latency, memory
from nas.networks import scaling
from nas.networks.architecture import Architecture
from nas.networks.cost import Cost
from nas.networks.scaling import Candidate, Coefficients, Member
from nas.runs.facts import environment
from nas.runs.workers import Workers
from nas.scale.baseline import Baseline
from nas.scale.halving import Network
from nas.training.proxy import Proxy

SMALLEST = 8  # pixels of a side of a proxy's images
MATCHES = ("nominal", "counted")


@dataclass(frozen=True)
class Budget:
    """The most and the least that the largest member may cost: bounds on its columns; latency, in seconds, measured."""

    bounds: Bounds

    def of(self, cost: Callable[[Architecture], Cost], device: str) -> Callable[[Architecture, str], float]:
        """What a network costs, by column; latency is measured on the device, each network once."""
        conditions = latency.Conditions.here(device) if self.measured else None
        seen: dict[Architecture, float] = {}

        def of_column(arch: Architecture, column: str) -> float:
            if column != "latency":
                return float(getattr(cost(arch), column))
            if arch not in seen:
                assert conditions is not None
                seen[arch] = latency.measure(arch, conditions).median
            return seen[arch]

        return of_column

    @property
    def measured(self) -> bool:
        """Whether it takes measurements."""
        return "latency" in self.bounds


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A scaling: its baseline, how the coefficients are found, how far the family goes, what its trainings use.

    options: as scale.toml keeps them, by name. given: the coefficients, None if a grid finds them. match: whether
    `tolerance` holds for nominal or for counted MAdds. phis or else a budget says how far the family goes. seeds:
    trainings of each finalist. train, measure: whether the members' accuracy and latency are measured. published:
    trainings of each published network that is scaled to a member's cost; 0 for none of them.
    """

    found: Baseline
    options: Mapping[str, Any]
    rule: str
    given: Coefficients | None
    target: float
    step: float
    tolerance: float
    match: str
    phis: tuple[float, ...]
    budget: Budget | None
    seeds: int
    train: bool
    measure: bool
    published: int
    proxy: Proxy
    workers: Workers

    def facts(self, rule: str, coefficients: Coefficients) -> dict[str, Any]:
        """The contents of scale.toml: all that is needed to repeat the scaling, and what was chosen."""
        return {
            **{"arguments": self.options, "baseline": self.found.origin, "rule": rule},
            **{"coefficients": asdict(coefficients), "ray": self.workers.table()},
            **environment(self.proxy.device),
        }

    @property
    def metric(self) -> str:
        """The column by which networks are ranked."""
        return self.found.metric

    @property
    def matched_target(self) -> float | None:
        """The target that resolutions are moved to meet; None if they are not moved."""
        return self.target if self.match == "counted" else None

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The triples to choose from, the paper's always among them; raises UserError if the grid leaves none."""
        base, deployment = self.found.architecture, self.found.deployment
        if self.match == "counted":
            found = scaling.counted_grid(base, self.target, self.step, self.tolerance, deployment)
        else:
            triples = scaling.grid(self.target, self.step, self.tolerance)
            found = [scaling.candidate(base, triple, None, deployment) for triple in triples]
        paper = scaling.candidate(base, scaling.paper(self.target), self.matched_target, deployment)
        return found if paper in found else [*found, paper]

    def members(self, coefficients: Coefficients) -> list[Member]:
        """The family by these coefficients; raises UserError for a φ or a budget out of reach."""
        phis = list(self.phis) if self.budget is None else scaling.phis_up_to(self.solved(coefficients))
        return scaling.family(self.found.architecture, coefficients, phis, self.matched_target, self.found.deployment)

    def solved(self, coefficients: Coefficients) -> float:
        """The largest φ within all maxima; raises UserError if there is none, or if it is below a minimum."""
        assert self.budget is not None
        bounds, cost = self.budget.bounds, self.budget.of(self.found.cost, self.proxy.device)
        most = {column: high for column, (_, high) in bounds.items() if high < inf}
        base, deployment = self.found.architecture, self.found.deployment

        def at(phi: float) -> Architecture:
            return scaling.member(base, coefficients, phi, self.matched_target, deployment).architecture

        def largest(arch: Architecture) -> float:
            return max(cost(arch, column) / high for column, high in most.items())

        if len(most) == 1:
            ((column, high),) = most.items()
            found = scaling.solve(at, lambda arch: cost(arch, column), high, at_most(column, high))
        else:
            together = " and ".join(at_most(*one) for one in most.items())
            found = scaling.solve(at, largest, 1, f"{together}, each as 1")
        for column, (low, _) in bounds.items():
            if (has := cost(at(found), column)) < low:
                raise UserError(
                    f"no φ has {words(bounds)}: at φ = {found:g}, the largest within the maxima, it is "
                    f"{amount(column, has)}"
                )
        return found

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Rules whose family auto could not make, and why; not checked for a latency, which would be measured first."""
        found: dict[str, str] = {}
        base = self.found.architecture
        if self.budget is None or not self.budget.measured:
            for rule in scaling.WEIGHTS:
                coefficients = scaling.rule_coefficients(rule, self.target)
                try:
                    goal = self.target * self.found.cost(base).madds
                    scaling.equal_cost(base, coefficients, goal, self.found.deployment)
                    check_memory(self.members(coefficients), self.proxy.device)
                except UserError as error:
                    found[rule] = str(error)
        return found

    def proxy_networks(self, archs: Sequence[Architecture]) -> list[Network]:
        """Each architecture with the image size that proxy training gives it."""
        sizes = image_sizes(self.proxy.data, self.found.architecture, archs)
        return [Network(str(arch), size) for arch, size in zip(archs, sizes, strict=True)]

    def check(self) -> None:
        """Raise UserError for what cannot work, before anything is written or trained."""
        for triple in [self.given] if self.given else [one.coefficients for one in self.candidates]:
            if self.budget is None or not self.budget.measured:  # that takes measurements
                check_memory(self.members(triple), self.proxy.device)


def check_memory(members: list[Member], device: str) -> None:
    """Raise UserError for networks that this machine could not train on a single image."""
    free = memory.available(device)
    for member in members:
        need = memory.least_memory(member.architecture)
        if need > free:
            arch, params = member.architecture, format_count(member.cost.params)
            raise UserError(
                f"--phi {member.phi:g}: too large for memory: {params} parameters at {arch.resolution} px need more "
                f"than {format_count(need)}B to train on one image, {format_count(free)}B are free on {device}; lower φ"
            )


def image_sizes(data: Source, baseline: Architecture, networks: Sequence[Architecture]) -> list[int]:
    """The image size in pixels for training each network, in proportion to its resolution.

    The largest network gets the data's own size, so that no image is enlarged: a larger γ shows more detail.
    """
    native, largest = load_data(data).image_size, max(arch.resolution for arch in [baseline, *networks])
    return [max(SMALLEST, round(native * arch.resolution / largest)) for arch in networks]
