"""How large a cluster one search serves, by storage, and what searching side by side costs in quality.

    python experiments/cluster_simulation.py run times      # 11 minutes: what a trial costs beside its training
    python experiments/cluster_simulation.py run quality    # 12 minutes: searches of NAS-Bench-Macro
    python experiments/cluster_simulation.py report         # simulates the clusters; tables, picture, RESULT.md

What happens between two trainings is measured (`cluster_costs`); from that `report` simulates 1 to 512 workers in two
set-ups: one process that asks for all of them, and a process for each. Both parts write rows to
experiments/cluster_simulation and repeat none that is there, so they can be stopped at any time. The benchmark is in
../shared/benchmarks.
"""

from __future__ import annotations

import heapq
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from cluster_costs import CYCLES, MEDIAN, PARTS, TOLD, WORKERS, make_config, measure, quiet
from matplotlib.figure import Figure
from optuna.trial import Trial
from rows import append
from search_efficiency import Problem, Trainer, curve, ours
from threadpoolctl import threadpool_limits

from nas.base.arrays import Floats
from nas.base.machine import available_cores

OUT = Path(__file__).resolve().parent / "cluster_simulation"
TRIALS = 10_000  # of a simulated search
SPREAD = 0.5  # of the logarithm of a training's seconds: one in twenty takes less than 26 s or more than 137 s
SEEDS = 3
BUSY = 0.95


# --- clusters in simulated time


def costs(table: pd.DataFrame, workers: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Seconds that each trial of a search costs outside the database, in it, and of publishing, [TRIALS, 3]; and the
    same of one that opens the study, [3].

    table: as measured with one storage. A trial's are drawn from those measured, and between the measured numbers of
    trials told and in training they are interpolated.
    """
    parts = table.assign(own=table["whole"] - table["in_database"] - table["publishing"])
    tolds, runnings = (sorted(set(parts[name])) for name in ("told", "running"))
    total, opening = np.zeros((TRIALS, 3)), np.zeros(3)
    for (told, running), part in parts.groupby(["told", "running"]):
        near = np.interp(workers - 1, runnings, [float(level == running) for level in runnings])
        share = near * np.interp(np.arange(TRIALS), tolds, [float(level == told) for level in tolds])
        first, *later = part.sort_values("cycle")[["own", "in_database", "publishing"]].to_numpy()
        total += share[:, None] * np.array(later)[rng.integers(len(later), size=TRIALS)]
        opening += share[0] * first
    return total, opening


def one_process(durations: Floats, spent: Floats, opening: Floats, workers: int, pace: float = np.inf) -> float:
    """The share of time that workers train until the last training begins, if one process asks for all of them.

    It does one thing after the other, and publishes when all workers are busy. pace: a trial is asked for when all
    trials before the last so many have ended.
    """
    clock, asked, oldest = float(opening.sum()), 0, 0
    running: list[tuple[float, int]] = []
    ended = np.zeros(TRIALS + 1, dtype=bool)
    starts = np.zeros(TRIALS)
    while asked < TRIALS:
        while asked < TRIALS and len(running) < workers and oldest >= asked - pace:
            starts[asked] = clock = clock + spent[asked, :2].sum()
            heapq.heappush(running, (clock + durations[asked], asked))
            asked += 1
        if ended.any():
            clock += spent[asked - 1, 2]
        clock = max(clock, running[0][0])
        while running and running[0][0] <= clock:
            ended[heapq.heappop(running)[1]] = True
        while ended[oldest]:
            oldest += 1
    return busy(starts, durations, workers)


def process_each(durations: Floats, spent: Floats, opening: Floats, workers: int) -> float:
    """The same if each worker is a process, which opens the study and asks for itself.

    What they do outside the database is done side by side, what they do in it one after the other.
    """
    free = 0.0
    ready = [0.0] * workers
    starts = np.zeros(TRIALS)
    for number, duration in enumerate(durations):
        own, inside, publishing = opening if number < workers else spent[number]
        starts[number] = free = max(heapq.heappop(ready) + own + publishing, free) + inside
        heapq.heappush(ready, free + duration)
    return busy(starts, durations, workers)


def busy(starts: Floats, durations: Floats, workers: int) -> float:
    """The share of all workers' time until the last start that is training."""
    last = float(starts.max())
    return float(np.minimum(durations, last - starts).sum() / (workers * last))


@dataclass(frozen=True)
class Cluster:
    """A way to search with many workers: on which storage, and how a search is simulated."""

    storage: str
    simulate: Callable[[Floats, Floats, Floats, int], float]

    def busy(self, times: pd.DataFrame, workers: int) -> float:
        """The share of time that workers train, mean over SEEDS."""
        table = times[times["storage"] == self.storage]
        shares = []
        for seed in range(SEEDS):
            rng = np.random.default_rng([seed, workers])
            durations = MEDIAN * np.exp(SPREAD * rng.normal(size=TRIALS))
            shares.append(self.simulate(durations, *costs(table, workers, rng), workers))
        return float(np.mean(shares))


def in_order(durations: Floats, spent: Floats, opening: Floats, workers: int) -> float:
    """One process that keeps the order of proposals however many workers there are."""
    return one_process(durations, spent, opening, workers, 2 * (workers - 1))


def as_it_is(durations: Floats, spent: Floats, opening: Floats, workers: int) -> float:
    """One process as `python -m nas.search --workers N` is."""
    return one_process(durations, spent, opening, workers, make_config(workers, shared=False).pace)


CLUSTERS = {
    "one process, study.db": Cluster("SQLite", as_it_is),
    "one process, PostgreSQL": Cluster("PostgreSQL", one_process),
    "a process each, SQLite": Cluster("SQLite", process_each),
    "a process each, PostgreSQL": Cluster("PostgreSQL", process_each),
    "a process each, gRPC proxy": Cluster("gRPC proxy", process_each),
    "one process, study.db, all in order": Cluster("SQLite", in_order),
}


# --- what searching side by side costs in quality

EVALUATIONS = 600
AT = (50, 100, 200, 300, 400, 600)
QUALITY_SEEDS = 5
SEARCHES = ((1, False), (8, False), (8, True), (64, False), (64, True), (512, False))  # workers, and whether in order


def run_quality() -> None:
    """Add to quality.csv what it lacks."""
    file = OUT / "quality.csv"
    keys = ["workers", "in_order", "seed"]
    known = set(pd.read_csv(file)[keys].itertuples(index=False, name=None)) if file.exists() else set()
    for seed, (workers, ordered) in product(range(QUALITY_SEEDS), SEARCHES):
        if (workers, ordered, seed) not in known:
            begun = time.process_time()
            share = searched(workers, ordered, seed)
            row = {"workers": workers, "in_order": ordered, "seed": seed, "seconds": time.process_time() - begun}
            append(file, {**row, **{f"at_{n}": share[n - 1] for n in AT}}, "%.5g")
            print(row, flush=True)


def searched(workers: int, ordered: bool, seed: int) -> Floats:
    """The share of the front's hypervolume that a search of NAS-Bench-Macro has after each of its trials, as they end.

    Trainings take a drawn time, proposals none. ordered: results are heeded as `nas.search` does it in order.
    """
    lag = 2 * (workers - 1) if ordered else 0
    trainer = Trainer(Problem("macro", EVALUATIONS, front=True), seed)
    trials = optuna.create_study(directions=["minimize", "minimize"], sampler=ours(trainer, lag))
    durations = MEDIAN * np.exp(SPREAD * np.random.default_rng(seed).normal(size=EVALUATIONS))
    running: list[tuple[float, int]] = []
    asked: list[Trial] = []
    clock = 0.0
    while not trainer.done:
        while len(running) < workers and len(asked) < EVALUATIONS:
            if ordered and min((number for _, number in running), default=len(asked)) < len(asked) - lag:
                break
            heapq.heappush(running, (clock + durations[len(asked)], len(asked)))
            asked.append(trials.ask(trainer.bench.distributions))
        clock, number = heapq.heappop(running)
        trials.tell(asked[number], trainer.train(tuple(asked[number].params.values())))
    return curve(trainer)


# --- reporting


def report() -> None:
    """Simulate the clusters; write busy.csv, the picture and RESULT.md."""
    times, quality = pd.read_csv(OUT / "times.csv"), pd.read_csv(OUT / "quality.csv")
    sizes = [2**i for i in range(10)]
    shares = {name: [cluster.busy(times, n) for n in sizes] for name, cluster in CLUSTERS.items()}
    table = pd.DataFrame(shares, index=pd.Index(sizes, name="workers"))
    table.to_csv(OUT / "busy.csv", float_format="%.4f")
    draw(table, quality)
    lines = [HEAD, *simulated(table), *verdicts(table), MIDDLE, *measured(times), LAST, *compared(quality), foot()]
    (OUT / "RESULT.md").write_text("\n".join(lines))


HEAD = f"""# How large a cluster one search serves

A search of mnas of {TRIALS:,} trials, in simulated time. A training takes {MEDIAN:g} s in the median (log-normal,
standard deviation of the logarithm {SPREAD}); what is done between two trainings takes as long as was measured on this
machine, and what one process does, or one database, is done one after the other. Meanwhile workers wait. The share of
their time that they train, from the start of the search to its last training:
"""

MIDDLE = """
![Share of time that workers train, and hypervolume after equal numbers of trials](cluster_simulation.png)

"study.db" is SQLite in the run's directory, "one process" a single `nas.search` that asks for all workers (`--workers`,
`--ray`), "a process each" one `nas.search --storage` for each. "All in order" is how one process with any number of
workers used to be: trial n waited for all before n - 2 (workers - 1), so that proposals do not depend on which worker
is first. `nas.search` keeps to that with up to 8 workers, whom it costs what the column of 8 says, and waits for nobody
with more. SQLite serves processes of one machine. The proxy is Optuna's (`run_grpc_proxy_server`) in front of
PostgreSQL, with a study of one's own and `nas.Sampler`: it has no heartbeats, so `nas.search` does not take it.

One process is at its end where trials end faster than it asks for others: from 128 workers on. Processes of their own
are at it where the database is: each reads, some seven times a trial, all that is in training, so that what it asks of
the database grows with their number.

## What was measured

Milliseconds a trial, medians, with so many trials told and so many others in training. The sampler and all that
surrounds it; the storage; of that the database, or the proxy and the way there; the tables and pictures of the run (the
proxy's have none). Last a process's first trial, which opens the study.

| storage | told | in training | sampler | storage | of that the database | tables, pictures | the first trial |
|---|---|---|---|---|---|---|---|"""

LAST = """
## What it costs in quality

The more are in training at once, the less is known of what is proposed. Share of the hypervolume of NAS-Bench-Macro's
front after so many trials have ended (reference as in search_efficiency), mean ± standard error:

| workers | {} | seeds |
|---|{}---|""".format(" | ".join(map(str, AT)), "---|" * len(AT))


def simulated(table: pd.DataFrame) -> list[str]:
    """The share of time that workers train, and up to which size a set-up serves."""
    head = [f"| workers | {' | '.join(map(str, WORKERS))} | {100 * BUSY:g} % up to |", "|---" * 6 + "|"]
    return head + [
        f"| {name} | {' | '.join(f'{100 * table[name][n]:.1f} %' for n in WORKERS)} | {serves(table[name])} |"
        for name in CLUSTERS
    ]


def serves(shares: pd.Series) -> int:
    """The largest number of workers that are busy enough."""
    return max((int(n) for n in shares.index[shares >= BUSY].to_numpy()), default=0)


def verdicts(table: pd.DataFrame) -> list[str]:
    """How the target was met."""
    lines = ["\n## Target\n"]
    for name in ("one process, PostgreSQL", "a process each, PostgreSQL"):
        share = float(table[name][64])
        said = "met" if share >= BUSY else f"missed by {100 * (BUSY - share):.1f} points"
        lines.append(f"- 64 workers train at least {100 * BUSY:g} % of their time, {name}: {said}, {100 * share:.1f} %")
    return lines


def measured(times: pd.DataFrame) -> list[str]:
    """What a trial costs beside its training."""
    lines = []
    shown = times[(times["told"] >= 1000) & (times["running"] != 7)]
    for (storage, told, running), rows in shown.groupby(["storage", "told", "running"], sort=False):
        first, later = rows[rows["cycle"] == 0]["whole"].iloc[0], rows[rows["cycle"] > 0]
        own = later["whole"] - later["in_storage"] - later["publishing"]
        parts = [float(part.median()) for part in (own, *(later[part] for part in PARTS))]
        cells = " | ".join(f"{1000 * seconds:.0f}" for seconds in (*parts, first))
        lines.append(f"| {storage} | {told} | {running} | {cells} |")
    return lines


def compared(quality: pd.DataFrame) -> list[str]:
    """What a search has after equal numbers of trials."""
    lines = []
    for name, rows in named(quality):
        mean, error = across_seeds(rows)
        cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
        lines.append(f"| {' | '.join([name, *cells, str(len(rows))])} |")
    return lines


def named(quality: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The searches by what they are called."""
    for workers, ordered in SEARCHES:
        rows = quality[(quality["workers"] == workers) & (quality["in_order"] == ordered)]
        yield f"{workers}{', in order' if ordered else ''}", rows


def across_seeds(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Means and standard errors of the columns of AT."""
    values = rows[[f"at_{n}" for n in AT]].to_numpy(dtype=float)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def foot() -> str:
    """What was assumed, and where it was measured."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("optuna", "sqlalchemy", "psycopg", "grpcio", "numpy"))
    told, running = (", ".join(map(str, levels)) for levels in (TOLD, [n - 1 for n in WORKERS]))
    return f"""
Assumed: every process has a core for itself; a database, and a proxy, does one thing at a time, as if it had one core;
no time is lost on the network. What a trial costs is drawn from {CYCLES - 1} that were measured for each number told
({told}) and in training ({running}), and interpolated between them;
means over {SEEDS} seeds. Trainings in the searches of NAS-Bench-Macro take such times too, and proposals none; seeds
from 0 on. A machine with {available_cores()} shared cores ({platform.machine()}), PostgreSQL on the same, one thread,
Python {platform.python_version()}, {versions}; {date.today()}.
"""


def draw(table: pd.DataFrame, quality: pd.DataFrame) -> None:
    """Busy workers against their number, and hypervolume against trials."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left = figure.add_subplot(1, 2, 1, xlabel="workers", ylabel="share of time that workers train", xscale="log")
    for name in CLUSTERS:
        left.plot(table.index, table[name], marker="o", ms=3.5, label=name, ls="--" if "order" in name else "-")
    left.axhline(BUSY, color="#777777", lw=0.8, ls=":")
    left.set_xticks(table.index, [str(n) for n in table.index])
    left.minorticks_off()
    right = figure.add_subplot(1, 2, 2, xlabel="trials that have ended", ylabel="share of the front's hypervolume")
    for name, rows in named(quality):
        mean, error = across_seeds(rows)
        style = "--" if "order" in name else "-"
        right.errorbar(AT, mean, error, marker="o", ms=3.5, capsize=2, label=f"workers: {name}", ls=style)
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.legend(fontsize="small")
    figure.savefig(OUT / "cluster_simulation.png", dpi=110)


if __name__ == "__main__":
    quiet()
    OUT.mkdir(exist_ok=True)
    with threadpool_limits(1):
        if sys.argv[1:] == ["run", "times"]:
            measure(OUT / "times.csv")
        elif sys.argv[1:] == ["run", "quality"]:
            run_quality()
        else:
            report()
