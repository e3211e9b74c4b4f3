"""Stopping trials early by `nas.Stopper`: the same hypervolume for how many training steps?

    python experiments/early_stopping.py record SPACE [PART OF]     # hours for mnas, minutes for small
    python experiments/early_stopping.py live                       # two real searches, with and without; minutes
    python experiments/early_stopping.py                            # replays; tables, picture, RESULT.md

Recorded are learning curves of 100 networks of a space - mnas, or `small`, of small networks - drawn uniformly with at
most 400M MAdds (counted at 224 px, 1000 classes): 8 epochs of 3,000 images (small: 1,500) of CIFAR-10 from ../shared
at 16 px, measured on 1,500 others after each. A row for each network goes to experiments/early_stopping/SPACE_PART.csv,
and none is trained twice, so recording can be stopped at any time. "record mnas 0 2" and "record mnas 1 2" share it.
A replay is an Optuna study whose objective reads the recorded curve instead of training: networks in random order, or
as nas.Sampler proposes them. Only networks trained to the end count for the hypervolume, of accuracy and MAdds between
the worst values recorded, as a share of that of all networks.
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
import rows
import torch
from fidelity import cifar
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from PIL import Image

from nas import Architecture, Sampler, SearchSpace, Stopper
from nas.datasets import Dataset
from nas.selection.pareto import hypervolume
from nas.training.proxy import train_proxy
from nas.training.recipe import Recipe

KEPT = Path(__file__).resolve().parent / "early_stopping"
SPACES = {"mnas": "mnas", "small": str(KEPT / "small.toml")}
IMAGES = {"mnas": 3000, "small": 1500}  # to train on
NETWORKS, BUDGET, VAL = 100, 400e6, 1500
RECIPE = replace(Recipe.load("proxy"), epochs=8)
SEEDS = 50
ETAS = (0, 2, 3, 4)  # 0: no stopping
ORDERS = ("random", "nas.Sampler")
MARKS = (0.25, 0.5)  # share of the networks trained without stopping, at which hypervolumes are compared
COLOURS = {0: "#222222", 2: "#9aa5b1", 3: "#1f6fb4", 4: "#d1495b"}
LIVE_TRIALS = 24


def record(name: str, part: int, of: int) -> None:
    """Train every `of`-th network of a space from `part` on: what no file holds yet."""
    torch.set_num_threads(1)
    file = KEPT / f"{name}_{part}.csv"
    done = set(recorded(name)["network"])
    data = images(IMAGES[name])
    space = SearchSpace.load(SPACES[name])
    for i in range(part, NETWORKS, of):
        if i in done:
            continue
        arch = space.sample(seed=i, max_madds=BUDGET)
        began = time.process_time()
        outcome = train_proxy(arch, data, RECIPE, 0, "cpu", image_size=16)
        row = {
            "network": i,
            "madds": arch.cost().madds,
            **{f"epoch_{e}": round(value, 5) for e, value in enumerate(outcome.curve, 1)},
            "steps": outcome.steps,
            "compute": round(time.process_time() - began, 2),
            "architecture": str(arch),
        }
        rows.append(file, row)
        print(i, outcome.curve, row["compute"], flush=True)


def images(count: int) -> Dataset:
    """So many images to train on, VAL to measure with."""
    data = cifar(0.25)
    return replace(
        data,
        train_images=data.train_images[:count],
        train_labels=data.train_labels[:count],
        val_images=data.val_images[:VAL],
        val_labels=data.val_labels[:VAL],
    )


def recorded(name: str) -> pd.DataFrame:
    """All rows that recording has written of a space, by network; no network is there twice."""
    found = rows.kept(KEPT, f"{name}_*.csv")
    if found.empty:
        return pd.DataFrame({"network": []})
    return found.drop_duplicates("architecture").sort_values("network", ignore_index=True)


class Table:
    """What was recorded: a curve [networks, epochs] and a cost [networks]; and the networks as parameters."""

    def __init__(self, name: str) -> None:
        table, space = recorded(name), SearchSpace.load(SPACES[name])
        self.curves = table[[f"epoch_{e}" for e in range(1, RECIPE.epochs + 1)]].to_numpy()
        self.madds = table["madds"].to_numpy(dtype=float)
        self.space: dict[str, Any] = {c.name: CategoricalDistribution(c.values) for c in space.choices}
        self.params = [space.params(space.encode(Architecture.parse(text))) for text in table["architecture"]]
        self.row = {self.key(params): i for i, params in enumerate(self.params)}
        self.reference = [-self.curves[:, -1].min(), self.madds.max()]
        self.whole = self.volume(range(len(table)))

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


def replays(name: str, table: Table) -> Iterator[dict[str, Any]]:
    """A row for each order, eta and number of epochs: the mean share over seeds and its standard error."""
    for order in ORDERS:
        for eta in ETAS:
            shares = np.array([replay(table, order, eta, seed) for seed in range(SEEDS)])
            print(name, order, eta, shares[:, -1].mean(), flush=True)
            mean, error = shares.mean(axis=0), shares.std(axis=0, ddof=1) / SEEDS**0.5
            for epochs in range(0, shares.shape[1], 2):
                row = {"space": name, "order": order, "eta": eta, "epochs": epochs}
                yield {**row, "share": mean[epochs], "error": error[epochs]}


def compare(found: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For each space, order, mark and eta: after how many epochs the hypervolume is that without stopping."""
    for (name, order), lines in found.groupby(["space", "order"], sort=False):
        line = {eta: lines[lines["eta"] == eta].set_index("epochs")["share"] for eta in ETAS}
        for mark in MARKS:
            networks = round(mark * line[0].index[-1] / RECIPE.epochs)
            epochs = networks * RECIPE.epochs
            level = line[0][epochs]
            for eta in ETAS[1:]:
                reached = line[eta].index[line[eta] >= level].min()
                row = {"space": name, "order": order, "networks": networks, "share": level, "epochs_without": epochs}
                row |= {"eta": eta, "epochs_with": reached, "ratio": reached / epochs}
                yield {**row, "share_of_table": line[eta].iloc[-1]}


def live() -> None:
    """The same search of the small space on half of the images, with and without stopping."""
    data = images(IMAGES["mnas"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {"train": (data.train_images[::2], data.train_labels[::2]), "val": (data.val_images, data.val_labels)}
        for part, (pictures, labels) in parts.items():
            for title in data.classes:
                (folder / "images" / part / title).mkdir(parents=True)
            for i, (pixels, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
                small = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BOX)
                small.save(folder / "images" / part / data.classes[label] / f"{i}.png")
        command = f"-m nas.search --data images --epochs {RECIPE.epochs} --trials {LIVE_TRIALS} --workers 1"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        for run, more in (("without", []), ("with", ["--early-stopping"])):
            call = [sys.executable, *command.split(), "--space", SPACES["small"], "--run", run, *more]
            subprocess.run(call, cwd=folder, env=environment, check=True)
            shutil.copy(folder / "runs" / run / "trials.csv", KEPT / f"live_{run}.csv")


def picture(found: pd.DataFrame) -> Figure:
    """A panel for each space and order: the hypervolume's share against epochs of training, a line for each eta."""
    spaces = list(found["space"].unique())
    figure = Figure(figsize=(11, 4.2 * len(spaces)), layout="constrained")
    panels = figure.subplots(len(spaces), len(ORDERS), squeeze=False).flat
    for axes, (title, lines) in zip(panels, found.groupby(["space", "order"], sort=False), strict=True):
        for eta in ETAS:
            line = lines[(lines["eta"] == eta) & (lines["share"] > 0)]
            label = f"η = {eta}, rungs {', '.join(map(str, Stopper(RECIPE.epochs, eta).rungs))}" if eta else "without"
            axes.plot(line["epochs"], line["share"], color=COLOURS[eta], label=label)
            low, high = line["share"] - 2 * line["error"], line["share"] + 2 * line["error"]
            axes.fill_between(line["epochs"], low, high, color=COLOURS[eta], alpha=0.15, linewidth=0)
        axes.set(xlabel="epochs of training, all networks", ylabel="share of the hypervolume", ylim=(0.4, 1.01))
        axes.set_title(f"space {title[0]}, order {title[1]} (mean of {SEEDS}, ± 2 standard errors)", fontsize=10)
        axes.legend(fontsize=9)
    return figure


def report() -> None:
    """Replay, and write hypervolume.csv, compared.csv, hypervolume.png and RESULT.md."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables = {name: Table(name) for name in SPACES if len(recorded(name))}
    found = pd.DataFrame(row for name, table in tables.items() for row in replays(name, table))
    compared = pd.DataFrame(compare(found))
    found.round(5).to_csv(KEPT / "hypervolume.csv", index=False)
    compared.round(4).to_csv(KEPT / "compared.csv", index=False)
    picture(found).savefig(KEPT / "hypervolume.png", dpi=100)
    replayed = "\n".join(
        f"| {r['space']} | {r['order']} | {r['networks']} | {r['share']:.3f} | {r['epochs_without']} | {r['eta']} | "
        + (f"{r['epochs_with']:.0f} | {r['ratio']:.2f}" if r["ratio"] > 0 else "not within this table | –")
        + f" | {r['share_of_table']:.3f} |"
        for r in compared.to_dict("records")
    )
    (KEPT / "RESULT.md").write_text(
        f"""# Early stopping for several objectives

Recorded, {RECIPE.epochs} epochs each, and the rank correlation (Spearman) of accuracy after each epoch with the last:

| space | networks | {" | ".join(f"epoch {e}" for e in range(1, RECIPE.epochs))} |
|---|---|{"---|" * (RECIPE.epochs - 1)}
{chr(10).join(f"| {name} | {len(table.curves)} | {correlations(table)} |" for name, table in tables.items())}

After how many epochs of training, by all networks together, the mean hypervolume of {SEEDS} replays is what it is
without stopping after a quarter and after half of the networks (a share is of the hypervolume of all of them):

| space | order | networks without stopping | share | epochs | η | epochs with stopping | ratio | share in the end |
|---|---|---|---|---|---|---|---|---|
{replayed}

A table is soon used up when most networks are stopped: the last column is all that is left to find in this one.
nas.Stopper's own η is {Stopper.eta}.

![Hypervolume against epochs of training](hypervolume.png)
{live_result()}"""
    )


def correlations(table: Table) -> str:
    """The cells of a row: how well accuracy after each epoch but the last ranks networks as after the last."""
    curves = pd.DataFrame(table.curves)
    last = curves.iloc[:, -1]
    return " | ".join(f"{curves[e].corr(last, method='spearman'):.2f}" for e in range(RECIPE.epochs - 1))


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
`--early-stopping`, in the small space and on 1,500 images. One search of each; the hypervolume, between the worst
values of both, is that of the networks trained to the end.

| stopping | networks | to the end | epochs | seconds | hypervolume |
|---|---|---|---|---|---|
{body}
"""


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", name, *part]:
            record(name, *(int(word) for word in part or ("0", "1")))
        case ["live"]:
            live()
        case _:
            report()
