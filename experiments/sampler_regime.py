"""`nas.Sampler` where a search uses it: a large space, a budget, 24 to 100 trainings, noise as large as the signal.

    python experiments/sampler_regime.py run [SEARCH ...]    # all searches, or those whose names begin so
    python experiments/sampler_regime.py report              # picture, table and RESULT.md

A search trains distinct networks within a budget; what is over it or trained before is free. After 24, 50 and 100
trainings it picks a network, and what is reported is the true accuracy of the pick. `run` adds a row per search to
experiments/sampler_regime/results.csv and repeats none that is there, so it can be stopped at any time. Settings of
nas.Sampler were chosen on NAS-Bench-Macro and on functions of our own; Accel-NASBench was kept for the report. The
tables are in ../shared/benchmarks.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import cache, partial
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from benchmarks import BENCHMARKS, Code, accel_costs, accel_rows, fidelity, macro_params, surrogate
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial
from rows import append
from threadpoolctl import threadpool_limits

from nas import Sampler
from nas.base.arrays import Floats, Ints
from nas.base.machine import available_cores
from nas.selection.posterior import posterior
from nas.selection.sampler.candidates import neighbours

OUT = Path(__file__).resolve().parent / "sampler_regime"
SEEDS, FEW = 50, 10  # FEW for the development table
AT = (24, 50, 100)
NOISES = (0.0, 0.5, 1.0)
PATIENCE = 200  # refused or known proposals in a row, before a random network is trained
OVER = "over"  # user attribute of a trial: by how much its network is over the budget, a share


@dataclass(frozen=True)
class Space:
    """Networks as codes: their true accuracy [n], percent, and costs [n, k], of which the model sees `features`."""

    sizes: tuple[int, ...]
    accuracy: Callable[[Ints], Floats]
    costs: Callable[[Ints], Floats]
    features: tuple[int, ...]
    canonical: Callable[[Code], Code] = tuple

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {f"x{i:02}": CategoricalDistribution(tuple(range(size))) for i, size in enumerate(self.sizes)}


@cache
def accel() -> Space:
    """Accel-NASBench through trees fitted to all its rows; MAdds, params, activations and a device's latency."""
    table, codes, sizes = accel_rows()
    trees = surrogate().fit(codes, table["val_top1"])
    return Space(
        sizes,
        lambda codes: np.asarray(trees.predict(codes), dtype=float),
        accel_costs("macs", "params", "latency_zcu102", "activations"),
        (0, 1, 3),
    )


@cache
def macro() -> Space:
    """NAS-Bench-Macro: means over its three runs; MAdds (millions) and params."""
    bench = BENCHMARKS["macro"]()
    return Space(
        bench.sizes,
        bench.accuracy,
        lambda codes: np.column_stack([bench.cost(codes) / 1e6, macro_params(codes)]),
        (0, 1),
        bench.canonical,
    )


@dataclass(frozen=True)
class Budget:
    """At most `limit` of one cost of a space."""

    space: Callable[[], Space]
    cost: int
    limit: float
    development: bool = False

    def over(self, codes: Ints) -> Floats:
        return np.asarray(self.space().costs(codes)[:, self.cost] / self.limit - 1)

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        """Uniform draws from what is within the budget, [count, slots]."""
        found = np.empty((0, len(self.space().sizes)), dtype=np.int64)
        while len(found) < count:
            drawn = rng.integers(self.space().sizes, size=(4 * count, len(self.space().sizes)))
            names = [self.space().canonical(tuple(code)) == tuple(code) for code in drawn.tolist()]
            found = np.concatenate([found, drawn[np.array(names) & (self.over(drawn) <= 0)]])
        return found[:count]

    @property
    def facts(self) -> tuple[float, float]:
        """The best accuracy known, by local search, and the deviation at equal MAdds of random networks."""
        return _facts(self)


@cache
def _facts(budget: Budget) -> tuple[float, float]:
    space, codes = budget.space(), budget.draw(20_000, np.random.default_rng(0))
    accuracy, log = space.accuracy(codes), np.log(space.costs(codes)[:, 0])
    deviation = float(np.std(accuracy - np.polyval(np.polyfit(log, accuracy, 2), log)))
    best = codes[np.argsort(-accuracy)[:50]]
    while True:
        near = np.unique(np.concatenate([best, neighbours(best, space.sizes)]), axis=0)
        near = near[budget.over(near) <= 0]
        near = near[np.argsort(-space.accuracy(near), kind="stable")[:50]]
        if len(near) == len(best) and (near == best).all():
            return float(space.accuracy(best[:1])[0]), deviation
        best = near


BUDGETS = {
    "Accel-NASBench, 300M MAdds": Budget(accel, 0, 300.0),
    "Accel-NASBench, 3M params": Budget(accel, 1, 3.0),
    "Accel-NASBench, 5 ms on a ZCU102": Budget(accel, 2, 5.0),
    "development: NAS-Bench-Macro, 50M MAdds": Budget(macro, 0, 50.0, development=True),
}


@dataclass
class Trainer:
    """Trains networks for a search, with noise; counts the distinct ones, in order."""

    budget: Budget
    noise: float  # deviation, points
    seed: int
    trained: dict[Code, float] = field(default_factory=dict)  # accuracy as measured

    @property
    def done(self) -> bool:
        return len(self.trained) >= max(AT)

    def train(self, code: Code) -> float:
        """The measured accuracy of a network; the noise of the n-th training is the same for all searches."""
        if code not in self.trained:
            rng = np.random.default_rng([self.seed, len(self.trained)])
            truth = float(self.budget.space().accuracy(np.array([code]))[0])
            self.trained[code] = truth + self.noise * rng.standard_normal()
        return self.trained[code]

    def fresh(self, rng: np.random.Generator) -> Code:
        """A random network within the budget that is not trained yet."""
        while True:
            code = tuple(self.budget.draw(1, rng)[0].tolist())
            if code not in self.trained:
                return code


def random(trainer: Trainer) -> None:
    rng = np.random.default_rng(trainer.seed)
    while not trainer.done:
        trainer.train(trainer.fresh(rng))


def through_optuna(make: Callable[[Trainer], BaseSampler], trainer: Trainer) -> None:
    """Any Optuna sampler. Networks over the budget are told as such, known ones are answered, both free of charge."""
    space, rng, idle = trainer.budget.space(), np.random.default_rng(trainer.seed), 0
    study = optuna.create_study(direction="maximize", sampler=make(trainer))
    while not trainer.done:
        if idle > PATIENCE:
            study.enqueue_trial(dict(zip(space.distributions, trainer.fresh(rng), strict=True)))
        trial = study.ask(space.distributions)
        code = space.canonical(tuple(trial.params.values()))
        over = float(trainer.budget.over(np.array([code]))[0])
        idle = idle + 1 if over > 0 or code in trainer.trained else 0
        trial.set_user_attr(OVER, over)
        study.tell(trial, trainer.train(code) if over <= 0 else 0.0)


def ours(trainer: Trainer) -> Sampler:
    budget, names = trainer.budget, list(trainer.budget.space().distributions)
    known: dict[Code, tuple[bool, list[float]]] = {}

    def asked(params: dict[str, Any]) -> tuple[bool, list[float]]:
        code = tuple(params.values())  # the sampler asks in the order of names
        if code not in known:
            costs = budget.space().costs(np.array([code]))[0].tolist()
            known[code] = (costs[budget.cost] <= budget.limit and budget.space().canonical(code) == code, costs)
        return known[code]

    def cost(which: int, params: dict[str, Any]) -> float:
        return asked(params)[1][which]

    return Sampler(
        trainer.seed,
        feasible=lambda params: asked(params)[0],
        known={1 + i: partial(cost, i) for i in budget.space().features},
        search_space=budget.space().distributions,
        draw=lambda n, rng: [dict(zip(names, code, strict=True)) for code in budget.draw(n, rng).tolist()],
    )


def _constraints(trial: FrozenTrial) -> tuple[float]:
    return (trial.user_attrs[OVER],)


OURS, CONTROL = "nas.Sampler", "random, our pick"
SEARCHES: dict[str, Callable[[Trainer], None]] = {
    "random": random,
    CONTROL: random,
    "Optuna TPE": partial(
        through_optuna, lambda t: TPESampler(seed=t.seed, multivariate=True, constraints_func=_constraints)
    ),
    "Optuna NSGA-II": partial(
        through_optuna, lambda t: NSGAIISampler(seed=t.seed, population_size=20, constraints_func=_constraints)
    ),
    OURS: partial(through_optuna, ours),
}


def picks(trainer: Trainer, by_model: bool) -> list[float]:
    """True accuracy of the pick after so many trainings: the best as measured, or by our model's posterior mean."""
    space, codes = trainer.budget.space(), np.array(list(trainer.trained))
    measured, truth = np.array(list(trainer.trained.values())), space.accuracy(codes)
    costs = space.costs(codes)[:, list(space.features)]
    found = []
    for n in AT:
        score = measured[:n]
        if by_model and trainer.noise:
            score = posterior(codes[:n], space.sizes, costs[:n], score).mean
        found.append(float(truth[np.argmax(score)]))
    return found


def run(names: Iterable[str]) -> None:
    """Add to results.csv what it lacks of these searches."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")  # constraints_func is experimental, and to be replaced
    warnings.filterwarnings("ignore", category=FutureWarning)
    OUT.mkdir(exist_ok=True)
    file, keys = OUT / "results.csv", ["problem", "noise", "search", "seed"]
    known = set(pd.read_csv(file)[keys].itertuples(index=False, name=None)) if file.exists() else set()
    for seed, (title, budget), noise, name in product(range(SEEDS), BUDGETS.items(), NOISES, names):
        if (title, noise, name, seed) in known or (budget.development and seed >= FEW):
            continue
        best, deviation = budget.facts
        trainer = Trainer(budget, noise * deviation, seed)
        begun = time.process_time()
        SEARCHES[name](trainer)
        seconds = time.process_time() - begun
        at = {f"at_{n}": best - value for n, value in zip(AT, picks(trainer, name in (OURS, CONTROL)), strict=True)}
        append(file, {"problem": title, "noise": noise, "search": name, "seed": seed, "seconds": seconds, **at}, "%.5g")
        print(title, noise, name, seed, f"{seconds:.1f} s", flush=True)


# --- reporting


def worst_tenth(regrets: Floats) -> float:
    """The mean of the tenth of seeds with the largest regret."""
    return float(np.sort(regrets)[-max(1, len(regrets) // 10) :].mean())


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean regret with its standard error and the worst tenth, and how far behind ours, paired by seed.

    Of each problem, the seeds that all searches have run.
    """
    found = []
    for (problem, noise), part in rows.groupby(["problem", "noise"], sort=False):
        part = part[part.groupby("seed")["search"].transform("nunique") == len(SEARCHES)]
        mine = part[part["search"] == OURS].set_index("seed")
        for search in SEARCHES:
            theirs = part[part["search"] == search].set_index("seed")
            for n in AT:
                values = theirs[f"at_{n}"]
                behind = (values - mine[f"at_{n}"]).dropna()
                found.append(
                    {
                        "problem": problem,
                        "noise": noise,
                        "search": search,
                        "trainings": n,
                        "seeds": len(values),
                        "regret": values.mean(),
                        "error": values.sem(),
                        "worst_tenth": worst_tenth(values.to_numpy()),
                        "behind": behind.mean(),
                        "behind_error": behind.sem(),
                    }
                )
    return pd.DataFrame(found)


def report() -> None:
    """Write regret.png, summary.csv and RESULT.md from results.csv."""
    rows = pd.read_csv(OUT / "results.csv")
    table = table_of(rows)
    table.to_csv(OUT / "summary.csv", index=False, float_format="%.4g")
    draw(table)
    held = table[~table["problem"].str.startswith("development")]
    verdicts = [verdict(held, peer) for peer in SEARCHES if peer != OURS]
    sections = [section(table[table["problem"] == name]) for name in BUDGETS if (table["problem"] == name).any()]
    mine = rows[rows["search"] == OURS]["seconds"].mean() / max(AT)
    deviations = [budget.facts[1] for budget in BUDGETS.values()]
    text = [
        HEAD.format(fidelity=fidelity(), least=min(deviations), most=max(deviations), control=CONTROL),
        *verdicts,
        *sections,
        foot(1e3 * mine, int(held["seeds"].min())),
    ]
    (OUT / "RESULT.md").write_text("\n".join(text))


HEAD = """# The sampler where a search uses it

Regret in points of accuracy of the network that each search would pick, below the best known within the budget, after
24, 50 and 100 trainings: mean ± standard error over seeds, and in brackets the mean of the worst tenth of seeds. Noise
is in units of the deviation of random networks at equal MAdds, {least:.1f} to {most:.1f} points. With noise, peers pick
what was measured best, nas.Sampler by its model's posterior mean; "{control}" are the random networks with such a pick.
The accuracy reported is the true one. Accel-NASBench is asked through a surrogate: {fidelity} Nothing was chosen on it
but, in earlier work, that params and activations are worth showing to the model; its results were looked at once, after
the last run. NAS-Bench-Macro is the development table.

![regret](regret.png)

## Targets: ahead at 24, 50 and 100 on every budget and noise of Accel-NASBench, and so the worst tenth
"""


def verdict(table: pd.DataFrame, peer: str) -> str:
    keys = ["problem", "noise", "trainings"]
    theirs, mine = (table[table["search"] == name].set_index(keys) for name in (peer, OURS))
    ahead, clear = theirs["behind"] > 0, theirs["behind"] > 1.96 * theirs["behind_error"]
    worst = theirs["worst_tenth"] > mine["worst_tenth"]
    missed = [f"{p}, noise {z:g}, {n} trainings" for p, z, n in theirs.index[~(ahead & worst)]]
    said = f"; not: {'; '.join(missed)}" if missed else ""
    return (
        f"- {peer}: mean ahead in {ahead.sum()} of {len(ahead)} (beyond 1.96 standard errors in {clear.sum()}), worst "
        f"tenth in {worst.sum()}{said}"
    )


def section(table: pd.DataFrame) -> str:
    """One problem's table."""
    lines = [f"\n## {table['problem'].iloc[0]}\n", f"| noise | search | {' | '.join(map(str, AT))} |", "|---" * 5 + "|"]
    for (noise, search), part in table.groupby(["noise", "search"], sort=False):
        cells = [
            f"{r:.2f} ± {e:.2f} ({w:.2f})"
            for r, e, w in part[["regret", "error", "worst_tenth"]].itertuples(index=False)
        ]
        lines.append(f"| {noise:g} | {search} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(table: pd.DataFrame) -> None:
    """A row per problem, a column per noise: mean regret, and the worst tenth dashed."""
    figure = Figure(figsize=(12, 3 * len(BUDGETS)), layout="constrained")
    for place, (problem, noise) in enumerate(product(BUDGETS, NOISES)):
        axes = figure.add_subplot(len(BUDGETS), len(NOISES), place + 1)
        axes.set_title(f"{problem}\nnoise {noise:g}", fontsize="small")
        for colour, search in enumerate(SEARCHES):
            rows = table[(table["problem"] == problem) & (table["noise"] == noise) & (table["search"] == search)]
            if len(rows):
                axes.errorbar(rows["trainings"], rows["regret"], rows["error"], color=f"C{colour}", label=search)
                axes.plot(rows["trainings"], rows["worst_tenth"], color=f"C{colour}", ls="--", lw=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("trainings")
        axes.set_ylabel("regret (points)")
    figure.axes[0].legend(fontsize="x-small")
    figure.savefig(OUT / "regret.png", dpi=90)


def foot(milliseconds: float, seeds: int) -> str:
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("optuna", "numpy", "scikit-learn"))
    return f"""
All peers are told the budget: TPE (multivariate) and NSGA-II (population 20) through `constraints_func`, with what is
over it or known already free of charge (after {PATIENCE} of these in a row a random network is trained); random draws
are uniform within it. nas.Sampler's model sees MAdds, params and (Accel-NASBench) activations. Its proposals took
{milliseconds:.0f} ms of processor time on average over 100 trainings, the trees of Accel-NASBench included. Noise is
paired between searches. Seeds from 0 on: {seeds} of Accel-NASBench, {FEW} of NAS-Bench-Macro. A machine with
{available_cores()} shared cores ({platform.machine()}), one thread, Python {platform.python_version()}, {versions};
{date.today()}.
"""


if __name__ == "__main__":
    with threadpool_limits(1):
        if sys.argv[1:2] == ["run"]:
            run([name for name in SEARCHES if not sys.argv[2:] or name.startswith(tuple(sys.argv[2:]))])
        else:
            report()
