"""Published tables of trained networks, as functions from codes to accuracy and MAdds; from ../shared/benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from sklearn.ensemble import HistGradientBoostingRegressor

from nas.base.arrays import Floats, Ints
from nas.selection.pareto import non_dominated
from nas.selection.sampler.candidates import neighbours

SHARED = Path(__file__).resolve().parents[2] / "shared" / "benchmarks"

Code = tuple[int, ...]


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
    names = table["canonical"].to_numpy(str)
    runs = table[["acc_run1", "acc_run2", "acc_run3"]].to_numpy()
    accuracy, cost = table["mean_acc"].to_numpy(float), table["flops"].to_numpy(float)

    def row(codes: Any) -> Any:
        return np.ravel_multi_index(np.asarray(codes).T, (3,) * 8)

    return Benchmark(
        sizes=(3,) * 8,
        accuracy=lambda codes: np.asarray(accuracy[row(codes)]),
        cost=lambda codes: np.asarray(cost[row(codes)]),
        front=codes[np.array(names == table.index)],
        floor=85.0,
        canonical=lambda code: tuple(map(int, str(names[row(code)]))),
        one_run=lambda code, number: float(runs[row(code), number]),
    )


def macro_params(codes: Ints) -> Floats:
    """Params of codes of NAS-Bench-Macro, [n]."""
    return np.asarray(_macro_params()[np.ravel_multi_index(np.asarray(codes).T, (3,) * 8)])


@cache
def _macro_params() -> Floats:
    file = SHARED / "nas-bench-macro" / "nas_bench_macro_cifar10.csv.gz"
    return pd.read_csv(file, dtype={"arch": str}).set_index("arch").sort_index()["params"].to_numpy(float)


def accel() -> Benchmark:
    """Accel-NASBench through a surrogate, as its authors use it: trees, here of scikit-learn, on all its rows.

    The 4,612 rows alone would leave most of what a peer proposes in this space of 10^11 without an answer. MAdds are
    a sum over the seven blocks, exact on every row.
    """
    table, codes, sizes = accel_rows()
    trees = surrogate().fit(codes, table["val_top1"])
    madds = accel_costs("macs")

    def accuracy(codes: Ints) -> Floats:
        return np.asarray(trees.predict(codes), dtype=float)

    def cost(codes: Ints) -> Floats:
        return 1e6 * madds(codes)[:, 0]

    front = np.empty((0, len(sizes)), dtype=np.int64)
    added = np.random.default_rng(0).integers(sizes, size=(20_000, len(sizes)))
    while len(added):  # the best known: all single changes of the front, until none helps
        near = np.unique(np.concatenate([front, added]), axis=0)
        near = near[non_dominated(np.column_stack([-accuracy(near), cost(near)]))]
        new = ~np.isin(np.ravel_multi_index(near.T, sizes), np.ravel_multi_index(front.T, sizes))
        front, added = near, neighbours(near[new], sizes)
    return Benchmark(sizes, accuracy, cost, front, floor=50.0)


def accel_costs(*columns: str) -> Callable[[Ints], Floats]:
    """Costs [n, columns] of codes of Accel-NASBench's space, as the table has them; "activations" as counted below.

    Each is a sum over the seven blocks: of those here exactly, but for latencies (R² 0.9995 on rows left out).
    """
    table, codes, sizes = accel_rows()
    table = table.assign(activations=accel_activations(codes))[list(columns)]
    radix = np.array([[np.prod(sizes[i + j + 1 : i + 4], dtype=int) for j in range(4)] for i in range(0, 28, 4)])

    def blocks(codes: Ints) -> Ints:
        """The index of each block's whole choice, [n, 7]; offsets tell the blocks apart."""
        return np.asarray((codes.reshape(-1, 7, 4) * radix).sum(axis=2) + 48 * np.arange(7))

    complete = table.notna().all(axis=1).to_numpy()
    shown = np.eye(7 * 48)[blocks(codes)].sum(axis=1)
    shares = np.linalg.lstsq(shown[complete], table[complete].to_numpy(float), rcond=None)[0]
    return lambda codes: np.asarray(shares[blocks(codes)].sum(axis=1), dtype=float)


def accel_activations(codes: Ints) -> Floats:
    """Elements that the convolutions of the blocks put out at 224 px, [n]: stem 32, strides and widths as published."""
    px, channels, total = 112, 32, np.zeros(len(codes))
    for block, (stride, width) in enumerate(zip((1, 2, 2, 2, 1, 2, 1), (16, 24, 40, 80, 112, 192, 320), strict=True)):
        expansion = np.array([1, 4, 6])[codes[:, 4 * block]]
        layers = codes[:, 4 * block + 2] + 1
        inner = (
            np.where(expansion > 1, px**2, 0) + (px // stride) ** 2
        )  # of the expanding and the depthwise convolution
        px //= stride
        total += expansion * channels * inner + width * px**2
        total += (layers - 1) * px**2 * width * (expansion + np.where(expansion > 1, expansion, 0) + 1)
        channels = width
    return total


def accel_rows() -> tuple[pd.DataFrame, Ints, tuple[int, ...]]:
    """The table of Accel-NASBench, its codes [n, 28] and the number of choices of each slot."""
    table = pd.read_csv(SHARED / "accel-nasbench" / "anb_archs.csv.gz")
    names = [f"block{i}_{part}" for i in range(7) for part in ("e", "k", "l", "se")]
    codes = np.column_stack([np.unique(table[name], return_inverse=True)[1] for name in names])
    return table, codes, tuple((codes.max(axis=0) + 1).tolist())


def surrogate() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(max_iter=200, learning_rate=0.15, max_leaf_nodes=8, random_state=0)


def fidelity() -> str:
    """How well the surrogate ranks rows that it was not fitted to."""
    table, codes, _ = accel_rows()
    fitted = (table["split"] == "train").to_numpy()
    truth, guess = (
        table["val_top1"][~fitted],
        surrogate().fit(codes[fitted], table["val_top1"][fitted]).predict(codes[~fitted]),
    )
    tau = pd.Series(guess).corr(truth.reset_index(drop=True), method="kendall")
    error = float(np.mean((guess - truth) ** 2) / np.var(truth))
    return f"gradient-boosted trees, on the validation split Kendall's tau {tau:.3f} and R² {1 - error:.3f}."


BENCHMARKS = {"macro": cache(macro), "accel": cache(accel)}
