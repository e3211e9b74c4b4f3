"""The config of a search, and what is known of its networks without training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from math import inf
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution

from nas.base.limits import COLUMNS, Bounds
from nas.datasets import Dataset, load_data
from nas.devices import latency
from nas.networks.architecture import Architecture, published_networks
from nas.networks.cost import Cost
from nas.runs.database import Direction
from nas.runs.facts import environment
from nas.runs.records import MEASURED
from nas.runs.workers import Workers
from nas.spaces.space import SearchSpace
from nas.training.proxy import Proxy

COSTS = ("madds", "flops", "params", "activations", "memory")
KNOWN = (*COSTS, "latency")  # before any training
OBJECTIVES = ("accuracy", *KNOWN, *MEASURED)
ORDERED = 8  # workers that wait for each other, at most


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: the space, its bounds, the objectives, how trials are proposed and trained.

    image_size: pixels of the images in training. target_madds: T of the reward. confirm: repeats of each contender.
    shared: whether other processes may work on the same search. metric: the column that serves as accuracy for
    objective, reward and front. options: as run.toml keeps them, by name. fitting: how the space was changed for the
    resolution, or "". began: when this process started, on the monotonic clock.
    """

    space: SearchSpace
    bounds: Bounds
    objectives: tuple[str, ...]
    reward: str
    target_madds: int
    sampler: str
    trials: int
    time_budget: float | None
    seed: int
    proxy: Proxy
    workers: Workers
    image_size: int
    confirm: int = 0
    latencies: latency.Table | None = None
    shared: bool = False
    metric: str = "accuracy"
    options: Mapping[str, Any] = field(default_factory=dict)
    fitting: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def images(self) -> Dataset:
        """What networks are trained and validated on."""
        return load_data(self.proxy.data)

    def facts(self) -> dict[str, Any]:
        """What run.toml says: all that is needed to repeat the run, and in which terms its figures are."""
        space, recipe, images = self.space, self.proxy.recipe, self.images
        return {
            "arguments": self.options,
            "space": {"name": space.name, "size": str(space.size), "fingerprint": space.fingerprint},
            "data": images.table(),
            "cost": {
                "resolution": space.resolution,
                "channels": space.in_channels,
                "classes": space.num_classes,
            },
            "proxy": {**recipe.table(), "image_size": self.image_size, "classes": images.num_classes},
            "progressive": recipe.progressive.table() if recipe.progressive else None,
            "latency": asdict(latency.Conditions.here(self.proxy.device)) if self.timed else None,
            "ray": self.workers.table(),
            **environment(self.proxy.device),
        }

    @cached_property
    def published(self) -> dict[str, Architecture]:
        """The published networks, fitted as the space is, that are in the space and within the budget, by name."""
        space = self.space
        known = published_networks(space.resolution, self.options.get("width"))
        found = {name: space.decode(space.encode(arch)) for name, arch in known.items() if arch in space}
        return {name: arch for name, arch in found.items() if self.within(arch, self.space.cost(arch))}

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The least and the most MAdds that a network of the space within the budget may have."""
        low, high = self.bounds.get("madds", (0.0, inf))
        least, most = self.space.extremes()["madds"]
        return max(low, least), min(high, most)

    @property
    def ordered(self) -> bool:
        """Whether proposals are the same whichever worker finishes first: in one process with at most ORDERED workers.

        More workers would wait too long for the slowest, or learn too late what the others found
        (`experiments/cluster_simulation`).
        """
        return not self.shared and self.workers.count <= ORDERED

    @property
    def lag(self) -> int:
        """How many of the trials just before the next one may still be in training.

        Two for each other worker, which may overtake the slowest twice. 0 without an order: each result counts at once.
        """
        return 2 * (self.workers.count - 1) if self.ordered else 0

    @property
    def pace(self) -> float:
        """The lag that trials have to keep; infinite where proposals do not depend on it."""
        return self.lag if self.ordered and self.sampler == "auto" else inf

    @property
    def directions(self) -> list[Direction]:
        """Optuna's directions of the objectives."""
        return ["maximize" if name == "accuracy" else "minimize" for name in self.objectives]

    @property
    def columns(self) -> list[str]:
        """The objectives' columns in trials.csv; that of accuracy is the metric's."""
        return [{"accuracy": self.metric, **COLUMNS, **MEASURED}.get(name, name) for name in self.objectives]

    @property
    def further(self) -> list[str]:
        """The columns of trials.csv beside those that every run has."""
        return list(dict.fromkeys([*self.columns, *self.bounds]))

    @property
    def costs(self) -> list[str]:
        """The columns that are minimized."""
        return [name for name in self.columns if name != self.metric]

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Optuna's view of the space."""
        return {choice.name: CategoricalDistribution(choice.values) for choice in self.space.choices}

    def cost(self, params: Mapping[str, Any]) -> Cost:
        """The cost of the network of these parameters."""
        return self._asked(params)[1]

    def code(self, text: str) -> tuple[int, ...]:
        """The code of a network of the space by its block strings."""
        return _code(self.space, text)

    def known(self, name: str, params: Mapping[str, Any]) -> float:
        """An objective that needs no training: a cost, or the latency that the table predicts."""
        if name == "latency":
            return self.predicted(self.network(params))
        return float(getattr(self.cost(params), COLUMNS.get(name, name)))

    @property
    def timed(self) -> bool:
        """Whether the latency of networks is to be known: as an objective or for a limit."""
        return "latency" in self.objectives or "latency" in self.bounds

    def others(self, params: Mapping[str, Any]) -> dict[str, float]:
        """What is known before training beside the cost: a predicted latency, as an objective or for its limit."""
        named = [name for name in (*self.objectives, *self.bounds) if name in KNOWN and name not in COSTS]
        return {name: self.known(name, params) for name in dict.fromkeys(named)}

    def feasible(self, params: Mapping[str, Any]) -> bool:
        """Whether the network of these parameters is within the budget."""
        return self.within(*self._asked(params))

    def within(self, arch: Architecture, cost: Cost) -> bool:
        """Whether a network of this cost is within the budget."""

        def amount(name: str) -> float:
            return self.predicted(arch) if name == "latency" else getattr(cost, name)

        return all(low <= amount(name) <= high for name, (low, high) in self.bounds.items())

    def predicted(self, arch: Architecture) -> float:
        """The latency in seconds that the table predicts."""
        assert self.latencies is not None
        return self.latencies.predict(arch)

    def network(self, params: Mapping[str, Any]) -> Architecture:
        """The network of these parameters."""
        return self._asked(params)[0]

    def _asked(self, params: Mapping[str, Any]) -> tuple[Architecture, Cost]:
        return _asked(self.space, tuple(params[name] for name in self.distributions))


@lru_cache(maxsize=10_000)
def _code(space: SearchSpace, text: str) -> tuple[int, ...]:
    return tuple(space.encode(Architecture.parse(text)).tolist())


@lru_cache(maxsize=10_000)
def _asked(space: SearchSpace, values: tuple[Any, ...]) -> tuple[Architecture, Cost]:
    """Cached: the sampler asks of each network whether it is within the budget, for its costs and for its name."""
    arch = space.decode(space.code({c.name: value for c, value in zip(space.choices, values, strict=True)}))
    return arch, space.cost(arch)


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """A search at work: its config, the directory of its results, the studies of its trials and of their repeats."""

    config: Search
    path: Path
    trials: optuna.Study
    repeats: optuna.Study
