"""The search as it was asked for, and what its space says of parameters without training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from math import inf
from typing import Any

from optuna.distributions import CategoricalDistribution

from nas.devices import latency
from nas.networks.architecture import Architecture
from nas.networks.cost import Cost
from nas.runs import study
from nas.runs.workers import Workers
from nas.spaces.budgets import Bounds
from nas.spaces.space import SearchSpace
from nas.training.proxy import Proxy

COSTS = ("madds", "flops", "params", "activations")
KNOWN = (*COSTS, "latency")  # before any training
OBJECTIVES = ("accuracy", *KNOWN, *study.MEASURED)
ORDERED = 8  # workers that wait for each other, at most


@dataclass(frozen=True)
class Search:
    """A search as asked for: the space, its bounds, what is optimized, how trials are proposed and trained.

    confirm: how many times the front and what is near it are trained again. shared: whether other processes may be at
    work on it as well. metric: the column of what the objective accuracy, the reward and the front go by. began: when
    this process did, on the monotonic clock.
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
    confirm: int = 0
    latencies: latency.Table | None = None
    shared: bool = False
    metric: str = "accuracy"
    began: float = field(default_factory=time.monotonic)

    @property
    def ordered(self) -> bool:
        """Whether what is proposed does not depend on which worker is first: with ORDERED workers at most, in one
        process. More would wait for the slowest too much, or hear too late of what others found
        (`experiments/cluster_simulation`).
        """
        return not self.shared and self.workers.count <= ORDERED

    @property
    def lag(self) -> int:
        """How many trials before the next may be in training still: each other worker overtakes the slowest twice.

        Without an order there is none, and every result is heeded at once.
        """
        return 2 * (self.workers.count - 1) if self.ordered else 0

    @property
    def pace(self) -> float:
        """The lag that has to be kept: none where nothing depends on it."""
        return self.lag if self.ordered and self.sampler == "auto" else inf

    @property
    def directions(self) -> list[study.Direction]:
        """Optuna's directions of the objectives."""
        return ["maximize" if name == "accuracy" else "minimize" for name in self.objectives]

    @property
    def columns(self) -> list[str]:
        """The objectives' columns in trials.csv: the objective accuracy is measured by the metric."""
        return [{"accuracy": self.metric, **study.MEASURED}.get(name, name) for name in self.objectives]

    @property
    def costs(self) -> list[str]:
        """Those of them that are minimized."""
        return [name for name in self.columns if name != self.metric]

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Optuna's view of the space."""
        return {choice.name: CategoricalDistribution(choice.values) for choice in self.space.choices}

    def cost(self, params: Mapping[str, Any]) -> Cost:
        """The cost of the network that parameters stand for."""
        return self.network(params).cost()

    def known(self, name: str, params: Mapping[str, Any]) -> float:
        """An objective that needs no training: a cost, or the latency that the table predicts."""
        if name == "latency":
            assert self.latencies is not None
            return self.latencies.predict(self.network(params))
        return float(getattr(self.cost(params), name))

    def others(self, params: Mapping[str, Any]) -> dict[str, float]:
        """The objectives that need no training and are no costs."""
        return {name: self.known(name, params) for name in self.objectives if name in KNOWN and name not in COSTS}

    def feasible(self, params: Mapping[str, Any]) -> bool:
        """Whether a network keeps the budget."""
        cost = asdict(self.cost(params))
        return all(low <= cost[name] <= high for name, (low, high) in self.bounds.items())

    def network(self, params: Mapping[str, Any]) -> Architecture:
        """The network that parameters stand for."""
        return _network(self.space, tuple(self.space.code(dict(params)).tolist()))


@lru_cache(maxsize=256)
def _network(space: SearchSpace, code: tuple[int, ...]) -> Architecture:
    """Kept, since a network is asked for its budget, each of its costs and its name."""
    return space.decode(code)
