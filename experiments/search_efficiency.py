"""How many trainings a search needs: `nas.Sampler` against its peers on published benchmarks.

    python experiments/search_efficiency.py run [SEARCH ...]    # hours; all searches, or those whose names begin so
    python experiments/search_efficiency.py time                # one proposal after 200 and 5,000 trials
    python experiments/search_efficiency.py report              # tables, pictures, RESULT.md

A search pays for each distinct network that it trains; what is over the budget and what it has trained before is free.
`run` writes a row per search to experiments/search_efficiency/results.csv and repeats none that is there, one seed of
all problems after the other, so it can be stopped at any time. Seeds from 0 on are reported; settings of nas.Sampler
were chosen on seeds from 1000 on. The tables are in ../shared/benchmarks.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache, partial
from importlib import metadata
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from nas import Sampler, SearchSpace
from nas.pareto import hypervolume, non_dominated
from nas.sampler.candidates import neighbours

OUT = Path(__file__).resolve().parent / "search_efficiency"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "benchmarks"
SEEDS, FEW = 50, 10  # FEW for the searches that are slow
AT = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200)  # evaluations reported

Code = tuple[int, ...]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# --- benchmarks


@dataclass(frozen=True)
class Benchmark:
    """Networks as codes, one choice index per slot; `accuracy` (percent) and `cost` (MAdds) take codes [n, slots]."""

    sizes: tuple[int, ...]
    accuracy: Callable[[Ints], Floats]
    cost: Callable[[Ints], Floats]
    front: Ints  # [k, slots]: codes that hold the best network under any budget
    floor: float  # accuracy of the hypervolume's reference, percent
    canonical: Callable[[Code], Code] = tuple  # of equal networks, the one that stands for all
    one_run: Callable[[Code, int], float] | None = None  # accuracy of the run of this number, 0 to 2

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {f"x{i:02}": CategoricalDistribution(tuple(range(size))) for i, size in enumerate(self.sizes)}


def macro() -> Benchmark:
    """NAS-Bench-Macro: 8 layers in stages of 2, 3, 3, of which identities (0) may stand anywhere: 3,969 networks."""
    file = SHARED / "nas-bench-macro" / "nas_bench_macro_cifar10.csv.gz"
    table = pd.read_csv(file, dtype={"arch": str, "canonical": str}).set_index("arch").sort_index()
    codes = np.array(list(product(range(3), repeat=8)))
    runs = table[["acc_run1", "acc_run2", "acc_run3"]].to_numpy()
    accuracy, cost = table["mean_acc"].to_numpy(float), table["flops"].to_numpy(float)

    def row(codes: Any) -> Any:
        return np.ravel_multi_index(np.asarray(codes).T, (3,) * 8)

    return Benchmark(
        sizes=(3,) * 8,
        accuracy=lambda codes: np.asarray(accuracy[row(codes)]),
        cost=lambda codes: np.asarray(cost[row(codes)]),
        front=codes[(table.index == table["canonical"]).to_numpy()],
        floor=85.0,
        canonical=lambda code: tuple(map(int, table["canonical"].iat[row(code)])),
        one_run=lambda code, number: float(runs[row(code), number]),
    )


def accel() -> Benchmark:
    """Accel-NASBench through a surrogate, as its authors use it: trees, here of scikit-learn, on all its rows.

    The 4,612 rows alone would leave most of what a peer proposes in this space of 10^11 without an answer. MAdds are
    a sum over the seven blocks, exact on every row.
    """
    table, codes, sizes = accel_rows()
    trees = surrogate().fit(codes, table["val_top1"])

    def blocks(codes: Ints) -> Ints:
        """The index of each block's whole choice, [n, 7]; offsets tell the blocks apart."""
        parts = [np.ravel_multi_index(codes[:, i : i + 4].T, sizes[i : i + 4]) for i in range(0, 28, 4)]
        return np.stack(parts, axis=1) + 48 * np.arange(7)

    shares = np.linalg.lstsq(np.eye(7 * 48)[blocks(codes)].sum(axis=1), 1e6 * table["macs"].to_numpy(), rcond=None)[0]

    def accuracy(codes: Ints) -> Floats:
        return np.asarray(trees.predict(codes), dtype=float)

    def cost(codes: Ints) -> Floats:
        return np.asarray(shares[blocks(codes)].sum(axis=1), dtype=float)

    front = np.empty((0, len(sizes)), dtype=np.int64)
    added = np.random.default_rng(0).integers(sizes, size=(20_000, len(sizes)))
    while len(added):  # the best known: all single changes of the front, until none helps
        near = np.unique(np.concatenate([front, added]), axis=0)
        near = near[non_dominated(np.column_stack([-accuracy(near), cost(near)]))]
        new = ~np.isin(np.ravel_multi_index(near.T, sizes), np.ravel_multi_index(front.T, sizes))
        front, added = near, neighbours(near[new], sizes)
    return Benchmark(sizes, accuracy, cost, front, floor=50.0)


def accel_rows() -> tuple[pd.DataFrame, Ints, tuple[int, ...]]:
    """The table of Accel-NASBench, its codes [n, 28] and the number of choices of each slot."""
    table = pd.read_csv(SHARED / "accel-nasbench" / "anb_archs.csv.gz")
    names = [f"block{i}_{part}" for i in range(7) for part in ("e", "k", "l", "se")]
    codes = np.column_stack([np.unique(table[name], return_inverse=True)[1] for name in names])
    return table, codes, tuple((codes.max(axis=0) + 1).tolist())


def surrogate() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(max_iter=600, learning_rate=0.05, max_leaf_nodes=8, random_state=0)


BENCHMARKS = {"macro": cache(macro), "accel": cache(accel)}


# --- problems


@dataclass(frozen=True)
class Problem:
    """What is searched for: the most accurate network of at most `limit` MAdds, or (`front`) the hypervolume."""

    benchmark: str
    evaluations: int
    front: bool = False
    limit: float = np.inf
    noisy: bool = False  # the search sees one run; the five best are confirmed by a second one
    pool: int | None = None


PROBLEMS = {
    "macro": Problem("macro", 100),
    "macro, 35M": Problem("macro", 50, limit=35e6),
    "macro, 50M": Problem("macro", 50, limit=50e6),
    "macro, 75M": Problem("macro", 50, limit=75e6),
    "macro, noisy": Problem("macro", 100, noisy=True),
    "macro, front": Problem("macro", 200, front=True),
    "accel": Problem("accel", 100),
    "accel, 300M": Problem("accel", 100, limit=300e6),
    "accel, front": Problem("accel", 200, front=True),
    "macro, pool of 5 %": Problem("macro", 100, pool=198),
    "macro, 50M, pool of 5 %": Problem("macro", 50, limit=50e6, pool=198),
    "macro, front, pool of 5 %": Problem("macro", 200, front=True, pool=198),
}


@dataclass
class Trainer:
    """Trains networks for a search: counts the distinct ones, in order."""

    problem: Problem
    seed: int
    trained: dict[Code, float] = field(default_factory=dict)  # accuracy as the search sees it

    @property
    def bench(self) -> Benchmark:
        return BENCHMARKS[self.problem.benchmark]()

    @property
    def done(self) -> bool:
        return len(self.trained) >= self.problem.evaluations

    def cost(self, code: Code) -> float:
        return float(self.bench.cost(np.array([code]))[0])

    def allows(self, code: Code) -> bool:
        return self.cost(code) <= self.problem.limit

    def train(self, code: Code) -> tuple[float, ...]:
        """Objectives of a network, all minimized."""
        code = self.bench.canonical(code)
        if code not in self.trained:
            self.trained[code] = self.seen(code, 0) if self.problem.noisy else self.accuracy(code)
        return (-self.trained[code], self.cost(code)) if self.problem.front else (-self.trained[code],)

    def accuracy(self, code: Code) -> float:
        return float(self.bench.accuracy(np.array([code]))[0])

    def seen(self, code: Code, training: int) -> float:
        """Accuracy of a network's first or second training: runs of the table in an order of this seed and network."""
        assert self.bench.one_run is not None
        order = np.random.default_rng([self.seed, *code]).permutation(3)
        return self.bench.one_run(code, int(order[training]))

    def fresh(self, rng: np.random.Generator, parent: Code | None = None) -> Code:
        """A random feasible network not trained yet: a neighbour of the parent, if it has such."""
        sizes = self.bench.sizes
        near = rng.permutation(neighbours(np.array([parent]), sizes)) if parent else np.empty((0, len(sizes)), dtype=int)
        for drawn in chain(near, (rng.integers(sizes) for _ in range(100_000))):
            code = self.bench.canonical(tuple(drawn.tolist()))
            if code not in self.trained and self.allows(code):
                return code
        raise RuntimeError("everything is trained")


# --- searches: each trains networks until the trainer is done


def evolution(trainer: Trainer, population: int = 20, players: int = 5) -> None:
    """Regularized evolution (Real et al. 2019, arXiv 1802.01548); of several objectives, players on their front win."""
    rng = np.random.default_rng(trainer.seed)
    members: list[tuple[Code, tuple[float, ...]]] = []
    while not trainer.done:
        parent = None
        if len(members) == population:
            drawn = [members[i] for i in rng.integers(population, size=players)]
            parent = drawn[rng.choice(np.flatnonzero(non_dominated([values for _, values in drawn])))][0]
        child = trainer.fresh(rng, parent)
        members = [*members[1 - population :], (child, trainer.train(child))]


def local_search(trainer: Trainer) -> None:
    """One mutation of the best, or of a random member of the front; a random network where none is new."""
    rng = np.random.default_rng(trainer.seed)
    values: dict[Code, tuple[float, ...]] = {}
    while not trainer.done:
        best = np.flatnonzero(non_dominated(list(values.values()))) if values else []
        child = trainer.fresh(rng, list(values)[rng.choice(best)] if values else None)
        values[child] = trainer.train(child)


def through_optuna(make: Callable[[Trainer], BaseSampler], trainer: Trainer, patience: int = 200) -> None:
    """Any Optuna sampler. Networks over the limit fail and known ones are answered, both free of charge; after
    `patience` of these in a row a random new network is trained instead."""
    bench, rng, idle = trainer.bench, np.random.default_rng(trainer.seed), 0
    study = optuna.create_study(directions=["minimize"] * (1 + trainer.problem.front), sampler=make(trainer))
    while not trainer.done:
        if idle > patience:
            study.enqueue_trial(dict(zip(bench.distributions, trainer.fresh(rng), strict=True)))
        trial = study.ask(bench.distributions)
        code = bench.canonical(tuple(trial.params.values()))
        idle = 0 if trainer.allows(code) and code not in trainer.trained else idle + 1
        if trainer.allows(code):
            study.tell(trial, trainer.train(code))
        else:
            study.tell(trial, state=TrialState.FAIL)


def ours(trainer: Trainer) -> Sampler:
    bench, known = trainer.bench, [trainer.bench.distributions]

    def code(params: Mapping[str, Any]) -> Code:
        return tuple(params[name] for name in known[0])

    return Sampler(
        trainer.seed,
        feasible=lambda params: bench.canonical(code(params)) == code(params) and trainer.allows(code(params)),
        known={1: lambda params: trainer.cost(code(params))},
        search_space=bench.distributions,
        pool=trainer.problem.pool,
    )


OURS = "nas.Sampler"
SEARCHES: dict[str, Callable[[Trainer], None]] = {
    OURS: partial(through_optuna, ours),
    "random": partial(through_optuna, lambda t: RandomSampler(t.seed)),
    "local search": local_search,
    "regularized evolution": evolution,
    "Optuna NSGA-II": partial(through_optuna, lambda t: NSGAIISampler(seed=t.seed, population_size=20)),
    "Optuna TPE": partial(through_optuna, lambda t: TPESampler(seed=t.seed, multivariate=True)),
    "Optuna GPSampler": partial(through_optuna, lambda t: GPSampler(seed=t.seed, warn_independent_sampling=False), patience=5),
}
SLOW = "Optuna GPSampler"


def curve(trainer: Trainer) -> Floats:
    """After each evaluation: regret (points of mean accuracy), or the share of the front's hypervolume; [n]."""
    bench, problem = trainer.bench, trainer.problem
    codes = np.array(list(trainer.trained))
    accuracy = bench.accuracy(codes)
    if problem.front:
        points = np.column_stack([-accuracy, bench.cost(codes)])
        every = np.column_stack([-bench.accuracy(bench.front), bench.cost(bench.front)])
        reference = [-bench.floor, every[:, 1].max()]
        whole = hypervolume(every, reference)
        return np.array([hypervolume(points[: n + 1], reference) / whole for n in range(len(points))])
    best = bench.accuracy(bench.front[bench.cost(bench.front) <= problem.limit]).max()
    if problem.noisy:
        return best - np.array([accuracy[confirmed(trainer, n + 1)] for n in range(len(codes))])
    return np.asarray(best - np.maximum.accumulate(accuracy))


def confirmed(trainer: Trainer, count: int) -> int:
    """The best of the five best of `count` networks, by the mean of their first and a second training."""
    codes, first = list(trainer.trained)[:count], np.array(list(trainer.trained.values())[:count])
    five = np.argsort(-first, kind="stable")[:5]
    return int(five[np.argmax([first[i] + trainer.seen(codes[i], 1) for i in five])])


# --- running


def run(names: Iterable[str]) -> None:
    """Add to results.csv what it lacks of these searches."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    OUT.mkdir(exist_ok=True)
    known = done()
    for seed, name, (title, problem) in product(range(SEEDS), names, PROBLEMS.items()):
        if (name == SLOW and seed >= FEW) or (problem.pool and name != OURS) or (title, name, seed) in known:
            continue
        row = {"problem": title, "search": name, "seed": seed, **outcome(problem, name, seed)}
        file = OUT / "results.csv"
        pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False, float_format="%.5g")
        print(title, name, seed, f"{row['seconds']:.1f} s", flush=True)


def done() -> set[tuple[str, str, int]]:
    """Problem, search and seed of all rows of results.csv."""
    file = OUT / "results.csv"
    keys = ["problem", "search", "seed"]
    return set(pd.read_csv(file, usecols=keys)[keys].itertuples(index=False, name=None)) if file.exists() else set()


def outcome(problem: Problem, name: str, seed: int) -> dict[str, float]:
    """One search: seconds of processor time, evaluations until the best is found, and its curve at AT."""
    trainer = Trainer(problem, seed)
    _ = trainer.bench  # loaded once, outside the timing
    begun = time.process_time()
    SEARCHES[name](trainer)
    seconds = time.process_time() - begun
    values = curve(trainer)
    found = np.flatnonzero(values < 1e-9)
    first = float(found[0] + 1) if len(found) and not (problem.front or problem.noisy) else np.nan
    at = {f"at_{n}": float(values[n - 1]) if n <= len(values) else np.nan for n in AT}
    return {"seconds": seconds, "found": first, **at}


if __name__ == "__main__":
    with threadpool_limits(1):
        if sys.argv[1:2] == ["run"]:
            run([name for name in SEARCHES if not sys.argv[2:] or name.startswith(tuple(sys.argv[2:]))])
