"""Stopping trials early by `nas.Stopper`: the same hypervolume for how many training steps?

    python experiments/early_stopping.py record [PART OF]     # half an hour; e.g. "record 0 2" and "record 1 2"
    python experiments/early_stopping.py live                 # real searches with and without; some minutes
    python experiments/early_stopping.py                      # replays what was recorded, writes table, picture, RESULT.md

100 networks of mnas drawn uniformly with at most 400M MAdds (counted at 224 px, 1000 classes), trained on 3,000 images
of CIFAR-10 from ../shared at 16 px for 8 epochs, and measured on 1,500 others after each. A row for each network goes
to experiments/early_stopping/curves_PART.csv, and none is trained twice, so recording can be stopped at any time.
A replay is an Optuna study whose objective reads the recorded curve instead of training: networks in random order, or
as nas.Sampler proposes them. Only networks trained to the end count for the hypervolume, of accuracy and MAdds between
the worst values recorded, as a share of that of all 100 networks.
"""

from __future__ import annotations

import sys
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

from nas import Architecture, Sampler, SearchSpace, Stopper
from nas.pareto import hypervolume
from nas.proxy import Recipe, train

KEPT = Path(__file__).resolve().parent / "early_stopping"
NETWORKS, BUDGET, VAL = 100, 400e6, 1500
RECIPE = Recipe(epochs=8, image_size=16)
SEEDS = 50
ETAS = (None, 2, 3, 4)  # None: no stopping
ORDERS = ("random", "nas.Sampler")
MARKS = (25, 50, 75)  # networks trained to the end without stopping, at which hypervolumes are compared


def record(part: int, of: int) -> None:
    """Train every `of`-th network from `part` on: what no file holds yet."""
    torch.set_num_threads(1)
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"curves_{part}.csv"
    done = set(recorded()["network"]) if len(recorded()) else set()
    data = cifar(0.25)
    data = replace(data, val_images=data.val_images[:VAL], val_labels=data.val_labels[:VAL])
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


def replay(table: Table, order: str, eta: int | None, seed: int) -> NDArray[np.float64]:
    """Search through the whole table once: the share of the hypervolume [0 ... networks * epochs] after each epoch."""
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
    return np.append(shares, spent)


def replays(table: Table) -> Iterator[dict[str, Any]]:
    """A row for each order, eta and number of epochs: the mean share over seeds and its standard error."""
    for order in ORDERS:
        for eta in ETAS:
            found = np.array([replay(table, order, eta, seed) for seed in range(SEEDS)])
            shares, spent = found[:, :-1], found[:, -1]
            print(order, eta, shares[:, -1].mean(), spent.mean(), flush=True)
            for epochs in range(shares.shape[1]):
                yield {
                    "order": order,
                    "eta": eta or "none",
                    "epochs": epochs,
                    "share": shares[:, epochs].mean(),
                    "error": shares[:, epochs].std(ddof=1) / SEEDS**0.5,
                    "whole_table": spent.mean(),
                }
