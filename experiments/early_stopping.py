"""Stopping trials early by `nas.Stopper`: the same hypervolume for how many training steps?

    python experiments/early_stopping.py record [PART OF]     # half an hour; e.g. "record 0 2" and "record 1 2"
    python experiments/early_stopping.py live                 # two real searches, with and without; some minutes
    python experiments/early_stopping.py                      # replays what was recorded; tables, picture, RESULT.md

100 networks of mnas drawn uniformly with at most 400M MAdds (counted at 224 px, 1000 classes), trained on 3,000 images
of CIFAR-10 from ../shared at 16 px for 8 epochs, and measured on 1,500 others after each. A row for each network goes
to experiments/early_stopping/curves_PART.csv, and none is trained twice, so recording can be stopped at any time.
A replay is an Optuna study whose objective reads the recorded curve instead of training: networks in random order, or
as nas.Sampler proposes them. Only networks trained to the end count for the hypervolume, of accuracy and MAdds between
the worst values recorded, as a share of that of all networks. The live searches train small networks on 1,500 images.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from fidelity import cifar
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from PIL import Image

from nas import Architecture, Sampler, SearchSpace, Stopper
from nas.datasets import Dataset
from nas.pareto import hypervolume
from nas.proxy import Recipe, train

KEPT = Path(__file__).resolve().parent / "early_stopping"
NETWORKS, BUDGET, VAL = 100, 400e6, 1500
RECIPE = Recipe(epochs=8, image_size=16)
SEEDS = 50
ETAS = (0, 2, 3, 4)  # 0: no stopping
ORDERS = ("random", "nas.Sampler")
MARKS = (0.25, 0.5)  # share of the networks trained without stopping, at which hypervolumes are compared
COLOURS = {0: "#222222", 2: "#9aa5b1", 3: "#1f6fb4", 4: "#d1495b"}
LIVE_TRIALS = 40
LIVE_SPACE = """
stem = 8
head = 64
resolution = 224
stages = [
    "ds_r1_k3_s1_c8",
    "ir_r{1|2|3}_k{3|5}_s2_e{1|3|6}_c{8|16|24}_se{0|0.25}",
    "ir_r{1|2|3}_k{3|5}_s2_e{1|3|6}_c{16|32|48}_se{0|0.25}",
]
"""


def record(part: int, of: int) -> None:
    """Train every `of`-th network from `part` on: what no file holds yet."""
    torch.set_num_threads(1)
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"curves_{part}.csv"
    done = set(recorded()["network"]) if len(recorded()) else set()
    data = images()
    space = SearchSpace.load("mnas")
    for i in range(part, NETWORKS, of):
        if i in done:
            continue
        arch = space.sample(seed=i, max_madds=BUDGET)
        began = time.process_time()
        outcome = train(arch, data, RECIPE, 0, "cpu")
        row = {
            "network": i,
            "madds": arch.cost().madds,
            **{f"epoch_{e}": round(value, 5) for e, value in enumerate(outcome.curve, 1)},
            "steps": outcome.steps,
            "compute": round(time.process_time() - began, 2),
            "architecture": str(arch),
        }
        pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False)
        print(i, outcome.curve, row["compute"], flush=True)


def images() -> Dataset:
    """3,000 images to train on, VAL to measure with."""
    data = cifar(0.25)
    return replace(data, val_images=data.val_images[:VAL], val_labels=data.val_labels[:VAL])


def recorded() -> pd.DataFrame:
    """All rows that recording has written, by network."""
    files = sorted(KEPT.glob("curves_*.csv"))
    rows = pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()
    return rows.sort_values("network", ignore_index=True) if len(rows) else rows


class Table:
    """What was recorded: a curve [networks, epochs] and a cost [networks]; and the networks as parameters."""

    def __init__(self, rows: pd.DataFrame) -> None:
        space = SearchSpace.load("mnas")
        self.curves = rows[[f"epoch_{e}" for e in range(1, RECIPE.epochs + 1)]].to_numpy()
        self.madds = rows["madds"].to_numpy(dtype=float)
        self.space: dict[str, Any] = {c.name: CategoricalDistribution(c.values) for c in space.choices}
        self.params = [space.params(space.encode(Architecture.parse(text))) for text in rows["architecture"]]
        self.row = {self.key(params): i for i, params in enumerate(self.params)}
        self.reference = [-self.curves[:, -1].min(), self.madds.max()]
        self.whole = self.volume(range(len(rows)))

    def key(self, params: dict[str, Any]) -> tuple[Any, ...]:
        """What names a network."""
        return tuple(params[name] for name in self.space)

    def volume(self, networks: Iterable[int]) -> float:
        """The hypervolume of networks trained to the end."""
        chosen = list(networks)
        points = np.column_stack([-self.curves[chosen, -1], self.madds[chosen]])
        return hypervolume(points, self.reference)

    def sampler(self, seed: int) -> Sampler:
        """nas.Sampler over the recorded networks."""
        return Sampler(
            seed,
            feasible=lambda params: self.key(params) in self.row,
            known={1: lambda params: float(self.madds[self.row[self.key(params)]])},
            search_space=self.space,
            draw=lambda n, rng: self.params,
        )


def replay(table: Table, order: str, eta: int, seed: int) -> NDArray[np.float64]:
    """Search through the whole table once; the share of the hypervolume after 0, 1, ... epochs of training."""
    own = order == "nas.Sampler"
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=table.sampler(seed) if own else optuna.samplers.RandomSampler(seed),
    )
    shuffled = np.random.default_rng(seed).permutation(len(table.madds))
    stopper = Stopper(RECIPE.epochs, eta) if eta else None
    spent, done = 0, []
    shares = np.zeros(len(table.madds) * RECIPE.epochs + 1)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        nonlocal spent
        chosen = int(shuffled[trial.number])
        if own:
            chosen = table.row[tuple(trial.suggest_categorical(n, d.choices) for n, d in table.space.items())]
        for epoch, accuracy in enumerate(table.curves[chosen], 1):
            spent += 1
            if stopper and stopper.report(trial, epoch, [accuracy, table.madds[chosen]]):
                raise optuna.TrialPruned
        done.append(chosen)
        shares[spent:] = table.volume(done) / table.whole
        return accuracy, table.madds[chosen]

    study.optimize(objective, n_trials=len(table.madds))
    return shares


def replays(table: Table) -> Iterator[dict[str, Any]]:
    """A row for each order, eta and number of epochs: the mean share over seeds and its standard error."""
    for order in ORDERS:
        for eta in ETAS:
            shares = np.array([replay(table, order, eta, seed) for seed in range(SEEDS)])
            print(order, eta, shares[:, -1].mean(), flush=True)
            mean, error = shares.mean(axis=0), shares.std(axis=0, ddof=1) / SEEDS**0.5
            for epochs in range(0, shares.shape[1], 2):
                yield {"order": order, "eta": eta, "epochs": epochs, "share": mean[epochs], "error": error[epochs]}


def compare(found: pd.DataFrame, networks: int) -> Iterator[dict[str, Any]]:
    """For each order, mark and eta: after how many epochs the hypervolume is that without stopping at the mark."""
    for order in ORDERS:
        lines = {eta: found[(found["order"] == order) & (found["eta"] == eta)] for eta in ETAS}
        for mark in MARKS:
            epochs = round(mark * networks) * RECIPE.epochs
            level = lines[0].set_index("epochs")["share"][epochs]
            for eta in ETAS[1:]:
                reached = lines[eta][lines[eta]["share"] >= level]["epochs"].min()
                last = lines[eta]["share"].iloc[-1]
                row = {"order": order, "mark": round(mark * networks), "epochs_without": epochs, "share": level}
                yield {**row, "eta": eta, "epochs_with": reached, "ratio": reached / epochs, "share_of_table": last}


def live() -> None:
    """The same search with and without stopping: small networks on half of the images."""
    data = images()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "space.toml").write_text(LIVE_SPACE)
        parts = {"train": (data.train_images[::2], data.train_labels[::2]), "val": (data.val_images, data.val_labels)}
        for part, (pictures, labels) in parts.items():
            for title in data.classes:
                (folder / "images" / part / title).mkdir(parents=True)
            for i, (pixels, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
                small = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BOX)
                small.save(folder / "images" / part / data.classes[label] / f"{i}.png")
        command = f"-m nas.search --space space.toml --data images --epochs {RECIPE.epochs} --trials {LIVE_TRIALS}"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        for run, more in (("without", []), ("with", ["--early-stopping"])):
            call = [sys.executable, *command.split(), "--workers", "1", "--run", run, *more]
            subprocess.run(call, cwd=folder, env=environment, check=True)
            shutil.copy(folder / "runs" / run / "trials.csv", KEPT / f"live_{run}.csv")


def picture(found: pd.DataFrame) -> Figure:
    """A panel for each order: the hypervolume's share against epochs of training, a line for each eta."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, order in zip(figure.subplots(1, len(ORDERS)), ORDERS, strict=True):
        for eta in ETAS:
            line = found[(found["order"] == order) & (found["eta"] == eta) & (found["share"] > 0)]
            label = f"η = {eta}, rungs {', '.join(map(str, Stopper(RECIPE.epochs, eta).rungs))}" if eta else "without"
            axes.plot(line["epochs"], line["share"], color=COLOURS[eta], label=label)
            low, high = line["share"] - 2 * line["error"], line["share"] + 2 * line["error"]
            axes.fill_between(line["epochs"], low, high, color=COLOURS[eta], alpha=0.15, linewidth=0)
        axes.set(xlabel="epochs of training, all networks", ylabel="share of the hypervolume", ylim=(0.4, 1.01))
        axes.set_title(f"order: {order} (mean of {SEEDS} replays, ± 2 standard errors)", fontsize=10)
        axes.legend(fontsize=9)
    return figure


def report() -> None:
    """Replay, and write hypervolume.csv, compared.csv, hypervolume.png and RESULT.md."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = recorded()
    table = Table(rows)
    found = pd.DataFrame(replays(table))
    compared = pd.DataFrame(compare(found, len(rows)))
    found.round(5).to_csv(KEPT / "hypervolume.csv", index=False)
    compared.round(4).to_csv(KEPT / "compared.csv", index=False)
    picture(found).savefig(KEPT / "hypervolume.png", dpi=120)
    curves = pd.DataFrame(table.curves)
    ranks = ", ".join(f"{curves[e].corr(curves.iloc[:, -1], method='spearman'):.2f}" for e in range(RECIPE.epochs - 1))
    replayed = "\n".join(
        f"| {r['order']} | {r['mark']} | {r['share']:.3f} | {r['epochs_without']} | {r['eta']} | "
        + (f"{r['epochs_with']:.0f} | {r['ratio']:.2f}" if r["ratio"] > 0 else "not within this table | –")
        + f" | {r['share_of_table']:.3f} |"
        for r in compared.to_dict("records")
    )
    (KEPT / "RESULT.md").write_text(
        f"""# Early stopping for several objectives

{len(rows)} recorded networks, {RECIPE.epochs} epochs each. Rank correlation (Spearman) of accuracy with that after the
last epoch, after epoch 1, 2, ...: {ranks}. {SEEDS} replays of each; a share is of the hypervolume of all networks.

After how many epochs of training, by all networks together, the mean hypervolume is what it is without stopping:

| order | networks without stopping | share | epochs | η | epochs with stopping | ratio | share after all networks |
|---|---|---|---|---|---|---|---|
{replayed}

A table is soon used up when most networks are stopped: the last column is all that is left to find in this one.

![Hypervolume against epochs of training](hypervolume.png)
{live_result()}"""
    )


def live_result() -> str:
    """What the live searches found, if they were run."""
    files = {run: KEPT / f"live_{run}.csv" for run in ("without", "with")}
    if not all(file.exists() for file in files.values()):
        return ""
    runs = {run: pd.read_csv(file) for run, file in files.items()}
    done = {run: trials[trials["state"] == "COMPLETE"] for run, trials in runs.items()}
    points = {run: trials[["accuracy", "madds"]].to_numpy() * [-1, 1] for run, trials in done.items()}
    reference = np.concatenate(list(points.values())).max(axis=0)
    whole = hypervolume(points["without"], reference)
    body = "\n".join(
        f"| {run} | {len(trials)} | {len(done[run])} | {trials['epochs'].sum()} | {trials['seconds'].sum():.0f} | "
        f"{hypervolume(points[run], reference) / whole:.3f} |"
        for run, trials in runs.items()
    )
    return f"""
## Live

`python -m nas.search` with {LIVE_TRIALS} trials of {RECIPE.epochs} epochs, one worker, seed 0, with and without
`--early-stopping`; a space of small networks, 1,500 images of CIFAR-10 at 16 px, {VAL} to measure with. One search of
each; the hypervolume, between the worst values of both, is that of the networks trained to the end.

| stopping | networks | to the end | epochs | seconds | hypervolume |
|---|---|---|---|---|---|
{body}
"""


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", *part]:
            record(*(int(word) for word in part or ("0", "1")))
        case ["live"]:
            live()
        case _:
            report()
