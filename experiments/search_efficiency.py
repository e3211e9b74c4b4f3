"""How fast `nas.Sampler` and its peers find the best network, and the front, of two published benchmarks.

    python experiments/search_efficiency.py [--seeds 50] [--quick] [--benchmarks ../shared/benchmarks]

Cost is counted in distinct networks trained. NAS-Bench-Macro (Su et al. 2021, arXiv 2103.11922) is its table of 3,969
networks. Accel-NASBench (Ahmad et al. 2024, arXiv 2404.08005) covers 0.0002 % of its space, so that it is, as its authors
have it, a surrogate: gradient-boosted trees on their 4,612 networks. Writes results.csv, and a picture per problem,
beside this script. Settings were chosen on seeds from 1000 on; seeds from 0 on are reported.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # two processes share two cores

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from nas.pareto import hypervolume, non_dominated
from nas.sampler import Sampler
from nas.sampler.candidates import LISTED, POOL, Candidates, Grid, neighbours
from nas.sampler.choice import Goal, History, propose

HERE = Path(__file__).resolve().parent
Code = tuple[int, ...]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# --- benchmarks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benchmark:
    """Networks as codes, one choice index per slot; `accuracy` (percent) and `cost` (MAdds) take codes [n, slots]."""

    name: str
    sizes: tuple[int, ...]
    accuracy: Callable[[Ints], Floats]
    cost: Callable[[Ints], Floats]
    canonical: Callable[[Code], Code]  # of equal networks, the one that stands for all
    best: Ints  # [n, slots]: its networks, or of a large space those of the front
    floor: float  # accuracy of the hypervolume's reference, percent
    runs: Mapping[Code, tuple[float, ...]] = field(default_factory=dict)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {f"x{i:02}": CategoricalDistribution(tuple(range(size))) for i, size in enumerate(self.sizes)}

    def code(self, params: Mapping[str, Any]) -> Code:
        return tuple(params[name] for name in sorted(params))


def macro(folder: Path) -> Benchmark:
    """NAS-Bench-Macro: 8 layers in stages of 2, 3, 3, of which identities (0) may stand anywhere: 3,969 networks."""
    table = pd.read_csv(folder / "nas-bench-macro/nas_bench_macro_cifar10.csv.gz", dtype={"arch": str, "canonical": str})
    codes = np.array([[int(c) for c in arch] for arch in table["arch"]])
    keys = [tuple(code) for code in codes.tolist()]
    accuracy = dict(zip(keys, table["mean_acc"].tolist(), strict=True))
    cost = dict(zip(keys, table["flops"].astype(float).tolist(), strict=True))
    canonical = {key: tuple(map(int, name)) for key, name in zip(keys, table["canonical"], strict=True)}
    runs = dict(zip(keys, table[["acc_run1", "acc_run2", "acc_run3"]].itertuples(index=False, name=None), strict=True))
    return Benchmark(
        "NAS-Bench-Macro",
        (3,) * 8,
        lambda codes: np.array([accuracy[tuple(c)] for c in codes.tolist()]),
        lambda codes: np.array([cost[tuple(c)] for c in codes.tolist()]),
        canonical.__getitem__,
        codes[(table["arch"] == table["canonical"]).to_numpy()],
        85.0,
        runs,
    )


def accel(folder: Path) -> Benchmark:
    """Accel-NASBench as a surrogate: trees on one-hot choices for accuracy; MAdds are a sum over the seven blocks."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    table = pd.read_csv(folder / "accel-nasbench/anb_archs.csv.gz")
    names = [f"block{i}_{part}" for i in range(7) for part in ("e", "k", "l", "se")]
    table = table.drop_duplicates(names)
    codes = np.column_stack([np.unique(table[name], return_inverse=True)[1] for name in names])
    sizes = tuple(int(size) for size in codes.max(axis=0) + 1)
    trees = HistGradientBoostingRegressor(max_iter=600, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
    trees.fit(codes, table["val_top1"])

    def blocks(codes: Ints) -> Floats:
        """One-hot of each block's whole choice, [n, 7 * 48]."""
        index = [np.ravel_multi_index(codes[:, 4 * i : 4 * i + 4].T, sizes[4 * i : 4 * i + 4]) for i in range(7)]
        return np.concatenate([np.eye(48)[i] for i in index], axis=1)

    coefficients = np.linalg.lstsq(blocks(codes), 1e6 * table["macs"].to_numpy(), rcond=None)[0]

    def accuracy(codes: Ints) -> Floats:
        return np.asarray(trees.predict(codes))

    def cost(codes: Ints) -> Floats:
        return np.asarray(blocks(codes) @ coefficients)

    front = np.random.default_rng(0).integers(sizes, size=(100_000, len(sizes)))
    for _ in range(60):  # the front of the surrogate, by all single changes of the front so far, until none helps
        near = np.unique(np.concatenate([front, neighbours(front, sizes)]), axis=0) if len(front) < 2_000 else front
        points = np.column_stack([-accuracy(near), cost(near)])
        grown = near[non_dominated(points)]
        if np.array_equal(grown, front):
            break
        front = grown
    return Benchmark("Accel-NASBench", sizes, accuracy, cost, lambda code: code, front, 50.0)


@cache
def load(name: str, folder: Path) -> Benchmark:
    return {"macro": macro, "accel": accel}[name](folder)


# --- problems -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What is searched for: the most accurate network of at most `limit` MAdds, or (`front`) the hypervolume."""

    name: str
    benchmark: str
    evaluations: int
    front: bool = False
    limit: float = np.inf
    noisy: bool = False
    pool: int | None = None


PROBLEMS = (
    Problem("macro", "macro", 100),
    Problem("macro 50M", "macro", 50, limit=50e6),
    Problem("macro 35M", "macro", 50, limit=35e6),
    Problem("macro 75M", "macro", 50, limit=75e6),
    Problem("macro noisy", "macro", 100, noisy=True),
    Problem("macro front", "macro", 200, front=True),
    Problem("macro, pool of 5 %", "macro", 100, pool=198),
    Problem("macro front, pool of 5 %", "macro", 200, front=True, pool=198),
    Problem("accel", "accel", 100),
    Problem("accel 300M", "accel", 100, limit=300e6),
    Problem("accel front", "accel", 200, front=True),
)


@dataclass
class Trainer:
    """Trains networks for a search: counts the distinct ones, in order."""

    bench: Benchmark
    problem: Problem
    seed: int
    order: dict[Code, float] = field(default_factory=dict)

    def allowed(self, code: Code) -> bool:
        return self.cost(code) <= self.problem.limit

    def cost(self, code: Code) -> float:
        return float(self.bench.cost(np.array([code]))[0])

    def train(self, code: Code) -> tuple[float, ...]:
        """Objectives of a network, all minimized."""
        code = self.bench.canonical(code)
        if code not in self.order:
            run = self.bench.runs[code][self.seed % 3] if self.problem.noisy else None
            self.order[code] = float(self.bench.accuracy(np.array([code]))[0]) if run is None else run
        return (-self.order[code], self.cost(code)) if self.problem.front else (-self.order[code],)

    @property
    def done(self) -> bool:
        return len(self.order) >= self.problem.evaluations

    def fresh(self, rng: np.random.Generator, parent: Code | None = None) -> Code:
        """A random feasible network not trained yet, or, while there is one, such a neighbour of the parent."""
        sizes = self.bench.sizes
        near = rng.permutation(neighbours(np.array([parent]), sizes)) if parent else np.empty((0, len(sizes)), dtype=int)
        for code in (*map(tuple, near.tolist()), *(tuple(rng.integers(sizes).tolist()) for _ in range(100_000))):
            code = self.bench.canonical(code)
            if code not in self.order and self.allowed(code):
                return code
        raise RuntimeError("everything is trained")


# --- searches: each trains networks until the trainer is done --------------------------------------------------


def random_search(trainer: Trainer) -> None:
    rng = np.random.default_rng(trainer.seed)
    while not trainer.done:
        trainer.train(trainer.fresh(rng))


def evolution(trainer: Trainer) -> None:
    """Regularized evolution (Real et al. 2019, arXiv 1802.01548): population 20, tournaments of 5."""
    rng = np.random.default_rng(trainer.seed)
    population: list[tuple[float, Code]] = []
    while not trainer.done:
        players = [population[i] for i in rng.integers(len(population), size=5)] if len(population) == 20 else []
        child = trainer.fresh(rng, min(players)[1] if players else None)
        population = [*population[-19:], (trainer.train(child)[0], child)]


def local_search(trainer: Trainer) -> None:
    """One mutation of the best, or of a random member of the front; a random network where none is new."""
    rng = np.random.default_rng(trainer.seed)
    trained: dict[Code, tuple[float, ...]] = {}
    while not trainer.done:
        codes = list(trained)
        front = np.flatnonzero(non_dominated(np.array(list(trained.values())))) if trained else []
        child = trainer.fresh(rng, codes[rng.choice(front)] if len(front) else None)
        trained[child] = trainer.train(child)


def nas_core(trainer: Trainer) -> None:
    """`nas.Sampler` without Optuna around it: the same proposals (`tests/test_sampler.py`), quicker."""
    bench, problem = trainer.bench, trainer.problem
    grid = Grid.of(bench.distributions)
    candidates = Candidates(grid, partial(_is_candidate, trainer), [lambda params: trainer.cost(bench.code(params))])
    size = problem.pool or (LISTED if np.prod(bench.sizes, dtype=float) <= LISTED else POOL)
    candidates.fill(size, trainer.seed)
    goal = Goal((1, 1), (1,)) if problem.front else Goal((1,), (1,))
    rows: list[int] = []
    values: list[tuple[float, ...]] = []
    none = np.empty(0, dtype=np.int64)
    while not trainer.done:
        told = np.array(rows, dtype=np.int64)
        history = History(told, np.array(values).reshape(-1, len(goal.signs)), none, told)
        rows.append(propose(candidates, goal, history, trainer.seed, len(rows)))
        values.append(trainer.train(tuple(candidates.codes[rows[-1]].tolist())))


def _is_candidate(trainer: Trainer, params: Mapping[str, Any]) -> bool:
    code = trainer.bench.code(params)
    return trainer.bench.canonical(code) == code and trainer.allowed(code)


def through_optuna(make: Callable[[Trainer], optuna.samplers.BaseSampler], trainer: Trainer) -> None:
    """Any Optuna sampler. Networks over the limit are refused and known ones answered without counting; after 200
    of these in a row a random new network is trained instead."""
    study = optuna.create_study(directions=["minimize"] * (1 + trainer.problem.front), sampler=make(trainer))
    rng = np.random.default_rng(trainer.seed)
    idle = 0
    while not trainer.done:
        if idle > 200:
            code = trainer.fresh(rng)
            study.enqueue_trial(dict(zip(trainer.bench.distributions, code, strict=True)))
        trial = study.ask(trainer.bench.distributions)
        code = trainer.bench.canonical(trainer.bench.code(trial.params))
        idle = 0 if trainer.allowed(code) and code not in trainer.order else idle + 1
        if trainer.allowed(code):
            study.tell(trial, trainer.train(code))
        else:
            study.tell(trial, state=TrialState.FAIL)


def _ours(trainer: Trainer) -> Sampler:
    return Sampler(
        trainer.seed,
        feasible=partial(_is_candidate, trainer),
        known={1: lambda params: trainer.cost(trainer.bench.code(params))},
        search_space=trainer.bench.distributions,
        pool=trainer.problem.pool,
    )


SEARCHES: dict[str, Callable[[Trainer], None]] = {
    "nas.Sampler": nas_core,
    "nas.Sampler in Optuna": partial(through_optuna, _ours),
    "random": random_search,
    "regularized evolution": evolution,
    "local search": local_search,
    "Optuna TPE": partial(
        through_optuna, lambda t: optuna.samplers.TPESampler(seed=t.seed, multivariate=True, constant_liar=False)
    ),
    "Optuna NSGA-II": partial(
        through_optuna, lambda t: optuna.samplers.NSGAIISampler(seed=t.seed, population_size=20)
    ),
    "Optuna GPSampler": partial(
        through_optuna, lambda t: optuna.samplers.GPSampler(seed=t.seed, warn_independent_sampling=False)
    ),
}


# --- measures -----------------------------------------------------------------------------------------------


def curve(trainer: Trainer) -> Floats:
    """After each evaluation: regret (points of mean accuracy), or the share of the front's hypervolume; [n]."""
    bench, problem = trainer.bench, trainer.problem
    codes = np.array(list(trainer.order))
    accuracy = bench.accuracy(codes)
    if problem.front:
        points = np.column_stack([-accuracy, bench.cost(codes)])
        every = np.column_stack([-bench.accuracy(bench.best), bench.cost(bench.best)])
        reference = [-bench.floor, every[:, 1].max()]
        whole = hypervolume(every, reference)
        return np.array([hypervolume(points[: n + 1], reference) / whole for n in range(len(points))])
    best = bench.accuracy(bench.best[bench.cost(bench.best) <= problem.limit]).max()
    if problem.noisy:
        return best - np.array([accuracy[_confirmed(trainer, n + 1)] for n in range(len(codes))])
    return np.asarray(best - np.maximum.accumulate(accuracy))


def _confirmed(trainer: Trainer, count: int) -> int:
    """The best of the five best of `count` networks, after a second run of each, by the mean of both."""
    codes = list(trainer.order)[:count]
    first = np.array([trainer.order[code] for code in codes])
    five = np.argsort(-first, kind="stable")[:5]
    second = np.array([trainer.bench.runs[codes[i]][(trainer.seed + 1) % 3] for i in five])
    return int(five[np.argmax(first[five] + second)])


def run(task: tuple[Problem, str, int, Path]) -> tuple[Floats, float]:
    """One search: its curve and its seconds."""
    problem, search, seed, folder = task
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trainer = Trainer(load(problem.benchmark, folder), problem, seed)
    begun = time.perf_counter()
    SEARCHES[search](trainer)
    return curve(trainer), time.perf_counter() - begun


def tasks(seeds: Iterable[int], names: Iterable[str], slow: int) -> Iterator[tuple[Problem, str, list[int]]]:
    """Which search runs which problem with which seeds."""
    seeds = list(seeds)
    for problem in PROBLEMS:
        for name in names:
            if problem.pool and not name.startswith("nas"):
                continue
            if problem.front and name == "regularized evolution":
                continue  # it has no front
            few = name in ("Optuna GPSampler", "nas.Sampler in Optuna")
            yield problem, name, seeds[:slow] if few else seeds
