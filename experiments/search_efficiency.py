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

import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib import metadata
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from benchmarks import BENCHMARKS, Benchmark, Code, fidelity
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial
from rows import append
from threadpoolctl import threadpool_limits

from nas import Sampler, SearchSpace
from nas.base.arrays import Floats
from nas.base.machine import available_cores
from nas.selection.pareto import hypervolume, non_dominated
from nas.selection.sampler.candidates import neighbours

OUT = Path(__file__).resolve().parent / "search_efficiency"
SEEDS, FEW = 50, 10  # FEW for the searches that are slow
AT = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200)  # evaluations reported


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
        near = (
            rng.permutation(neighbours(np.array([parent]), sizes)) if parent else np.empty((0, len(sizes)), dtype=int)
        )
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
        best = np.flatnonzero(non_dominated(list(values.values()))) if values else np.empty(0)
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


def ours(trainer: Trainer, lag: int = 0) -> Sampler:
    bench, known = trainer.bench, [trainer.bench.distributions]

    def code(params: Mapping[str, Any]) -> Code:
        return tuple(params[name] for name in known[0])

    return Sampler(
        trainer.seed,
        feasible=lambda params: bench.canonical(code(params)) == code(params) and trainer.allows(code(params)),
        known={1: lambda params: trainer.cost(code(params))},
        search_space=bench.distributions,
        pool=trainer.problem.pool,
        lag=lag,
    )


OURS = "nas.Sampler"
SEARCHES: dict[str, Callable[[Trainer], None]] = {
    OURS: partial(through_optuna, ours),
    "random": partial(through_optuna, lambda t: RandomSampler(t.seed)),
    "local search": local_search,
    "regularized evolution": evolution,
    "Optuna NSGA-II": partial(through_optuna, lambda t: NSGAIISampler(seed=t.seed, population_size=20)),
    "Optuna TPE": partial(through_optuna, lambda t: TPESampler(seed=t.seed, multivariate=True)),
    "Optuna GPSampler": partial(
        through_optuna, lambda t: GPSampler(seed=t.seed, warn_independent_sampling=False), patience=5
    ),
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
        return np.asarray(best - np.array([accuracy[confirmed(trainer, n + 1)] for n in range(len(codes))]))
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
        append(file, row, "%.5g")
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


def time_proposals(asks: int = 5) -> None:
    """Write proposals.csv: the median of processor seconds of one proposal, by space and number of trials told."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace.load("mnas")
    large: dict[str, BaseDistribution] = {c.name: CategoricalDistribution(c.values) for c in space.choices}
    small = Trainer(Problem("macro", 0), 0)

    def madds(params: dict[str, Any]) -> float:
        return float(space.decode(space.code(params)).cost().madds)

    cases = {"NAS-Bench-Macro, listed": (small.bench.distributions, lambda p: small.cost(tuple(p.values())))}
    cases["mnas, through its pool"] = (large, madds)
    rows = []
    for (name, (distributions, cost)), told in product(cases.items(), (200, 5000)):
        rng = np.random.default_rng(0)
        study = optuna.create_study(directions=["minimize", "minimize"])
        for _ in range(told):
            params = {key: rng.choice(len(d.choices)) for key, d in distributions.items()}
            params = {key: distributions[key].choices[i] for key, i in params.items()}
            values = [rng.normal() - np.log(cost(params)), cost(params)]
            study.add_trial(create_trial(params=params, distributions=distributions, values=values))
        study.sampler = Sampler(0, known={1: cost}, search_space=distributions)
        seconds = []
        for _ in range(asks + 1):  # the first also lists the candidates
            begun = time.process_time()
            trial = study.ask(distributions)
            seconds.append(time.process_time() - begun)
            study.tell(trial, [0.0, cost(trial.params)])
        rows.append({"space": name, "told": told, "seconds": np.median(seconds[1:]), "first": seconds[0]})
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(OUT / "proposals.csv", index=False, float_format="%.4f")


# --- reporting


@dataclass(frozen=True)
class Target:
    """A figure of nas.Sampler: `measure` of the rows of a problem is to be at most, or at least, `bound`."""

    problem: str
    what: str
    measure: Callable[[pd.DataFrame], float]
    bound: float
    least: bool = False

    def verdict(self, rows: pd.DataFrame) -> str:
        value, sign = self.measure(rows), -1 if self.least else 1
        over = sign * (value - self.bound)
        said = "met" if over <= 0 else f"missed by {over:.2g}"
        wanted = f"{'at least' if self.least else 'at most'} {self.bound:g}"
        return f"- {self.problem}: {self.what} {wanted}: {said}, {value:.4g} ({len(rows)} seeds)"


def mean_at(problem: str, evaluations: int, bound: float) -> Target:
    least = PROBLEMS[problem].front
    what = f"{'hypervolume share' if least else 'regret'} after {evaluations}"
    return Target(problem, what, lambda rows: rows[f"at_{evaluations}"].mean(), bound, least)


TARGETS = [
    mean_at("macro", 30, 0.03),
    mean_at("macro", 50, 0.003),
    Target("macro, 50M", "share of seeds that find the best", lambda r: r["found"].notna().mean(), 1.0, least=True),
    Target("macro, 50M", "median of evaluations to the best", lambda r: r["found"].fillna(np.inf).median(), 25),
    mean_at("macro, front", 50, 0.965),
    mean_at("macro, front", 100, 0.985),
    mean_at("macro, front", 200, 0.998),
    mean_at("macro, noisy", 100, 0.06),
    mean_at("macro, pool of 5 %", 30, 0.03),
    mean_at("macro, pool of 5 %", 50, 0.003),
    mean_at("macro, front, pool of 5 %", 50, 0.965),
    mean_at("macro, front, pool of 5 %", 100, 0.985),
    mean_at("macro, front, pool of 5 %", 200, 0.998),
]


def report() -> None:
    """Write the pictures and RESULT.md from results.csv and proposals.csv."""
    table = pd.read_csv(OUT / "results.csv")
    draw(table, [name for name, p in PROBLEMS.items() if not p.front], "regret")
    draw(table, [name for name, p in PROBLEMS.items() if p.front], "hypervolume")
    mine = table[table["search"] == OURS]
    verdicts = [t.verdict(mine[mine["problem"] == t.problem]) for t in TARGETS if (mine["problem"] == t.problem).any()]
    times = pd.read_csv(OUT / "proposals.csv")
    for told, most in ((200, 0.05), (5000, 0.5)):
        worst = float(times.loc[times["told"] == told, "seconds"].max())
        said = "met" if worst < most else f"missed by {1e3 * (worst - most):.0f} ms"
        verdicts.append(
            f"- one proposal with {told:,} trials told under {1e3 * most:.0f} ms: {said}, {1e3 * worst:.0f} ms"
        )
    sections = [section(name, table[table["problem"] == name]) for name in PROBLEMS if (table["problem"] == name).any()]
    text = "\n".join([HEAD.format(fidelity=fidelity()), *verdicts, *sections, clock(times), foot()])
    (OUT / "RESULT.md").write_text(text)


HEAD = """# How many trainings a search needs

Mean ± standard error over seeds; an evaluation is a distinct network trained. Regret is in points of mean accuracy
below the best (of Accel-NASBench: the best known), hypervolume a share of the true front's (reference: 85 % and the
largest MAdds for NAS-Bench-Macro, 50 % and the largest of the front for Accel-NASBench). Networks over a budget and
networks trained before cost nothing. In the noisy problem the search sees one of the three runs, drawn by seed and
network; regret is that of the best of its five best, by the mean of two runs. "Pool of 5 %": nas.Sampler sees 198
random networks and the neighbours of its best instead of the table. Accel-NASBench is asked through a surrogate, as
its authors do (its 4,612 rows leave out nearly all of a space of 10^11, and with them what peers propose): {fidelity}

![regret](regret.png)

![hypervolume](hypervolume.png)

## Targets for nas.Sampler
"""


def section(name: str, rows: pd.DataFrame) -> str:
    """One problem's table."""
    problem = PROBLEMS[name]
    at = [n for n in (10, 20, 30, 50, 100, 200) if n <= problem.evaluations]
    single = not (problem.front or problem.noisy)
    lines = [f"\n## {name}: {'hypervolume share' if problem.front else 'regret'} after\n"]
    columns = ["search", *map(str, at), *(["found", "median"] if single else []), "seeds", "seconds"]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for search in SEARCHES:
        part = rows[rows["search"] == search]
        if len(part):
            cells = [
                f"{mean:.3f} ± {error:.3f}"
                for mean, error in part[[f"at_{n}" for n in at]].agg(["mean", "sem"]).T.to_numpy()
            ]
            median = float(part["found"].fillna(np.inf).median())
            found = [f"{float(part['found'].notna().mean()):.0%}", f"{median:g}" if np.isfinite(median) else "–"]
            tail = [*(found if single else []), str(len(part)), f"{part['seconds'].mean():.1f}"]
            lines.append(f"| {' | '.join([search, *cells, *tail])} |")
    return "\n".join(lines)


def clock(times: pd.DataFrame) -> str:
    rows = times[["space", "told", "seconds", "first"]].to_numpy().tolist()
    lines = [
        "\n## Processor time of one proposal\n",
        "| space | trials told | ms | first one, ms |",
        "|---|---|---|---|",
    ]
    lines += [f"| {space} | {told:,} | {1e3 * usual:.0f} | {1e3 * first:.0f} |" for space, told, usual, first in rows]
    return "\n".join([*lines, "\nThe first proposal of a process also lists the candidates and asks for their costs."])


def foot() -> str:
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("optuna", "numpy", "scikit-learn"))
    return f"""
Peers: Optuna's samplers as they come (TPE multivariate, NSGA-II with a population of 20; after 200 refused or known
proposals in a row, of the GPSampler 5, a random network is trained); regularized evolution with a population of 20 and
tournaments of 5; local search by one mutation. `seconds` is processor time of a whole search, the trees of
Accel-NASBench included. A machine with {available_cores()} shared cores ({platform.machine()}), one thread, Python
{platform.python_version()}, {versions}; {date.today()}.
"""


def draw(table: pd.DataFrame, problems: list[str], what: str) -> None:
    """A panel per problem: mean and standard error against evaluations, a line per search."""
    problems = [name for name in problems if (table["problem"] == name).any()]
    figure = Figure(figsize=(13, 3.4 * ((len(problems) + 2) // 3)), layout="constrained")
    for place, name in enumerate(problems):
        axes = figure.add_subplot((len(problems) + 2) // 3, 3, place + 1, title=name, xlabel="evaluations", ylabel=what)
        at = [n for n in AT if n <= PROBLEMS[name].evaluations]
        rows = table[table["problem"] == name]
        for colour, search in enumerate(SEARCHES):
            values = rows.loc[rows["search"] == search, [f"at_{n}" for n in at]].to_numpy()
            if len(values):
                mean, error = values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))
                label = search if len(values) == SEEDS else f"{search} ({len(values)} of {SEEDS} seeds)"
                axes.plot(at, mean, color=f"C{colour}", label=label, lw=2.5 if search == OURS else 1.2)
                axes.fill_between(at, mean - error, mean + error, color=f"C{colour}", alpha=0.15, lw=0)
        axes.legend(fontsize="x-small")
    figure.savefig(OUT / f"{what}.png", dpi=110)


if __name__ == "__main__":
    with threadpool_limits(1):
        if sys.argv[1:2] == ["run"]:
            run([name for name in SEARCHES if not sys.argv[2:] or name.startswith(tuple(sys.argv[2:]))])
        elif sys.argv[1:2] == ["time"]:
            time_proposals()
        else:
            report()
