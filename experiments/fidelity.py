"""How well a brief training, or none, ranks networks as a long one does - against what it costs.

    python experiments/fidelity.py train [PART OF]     # hours; e.g. "train 0 2" and "train 1 2" side by side
    python experiments/fidelity.py report              # zero-cost scores, Kendall's tau, picture, RESULT.md

40 networks of mnas drawn uniformly with at most 400M MAdds (counted at 224 px, 1000 classes), on CIFAR-10 from
../shared at its own 32 px. `long` is the yardstick; every fifth network has it with three seeds. Training writes a row
per training to experiments/fidelity/curves_PART.csv and repeats none that is there, so it can be stopped at any time.
Each part runs on one thread; compute is its processor time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib import metadata
from itertools import combinations
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import rows
import torch
from matplotlib.figure import Figure
from scipy.stats import kendalltau
from shared_images import FOLDER, jpegs, pixels
from zero_cost import SCORES

from nas import Architecture, SearchSpace
from nas.base.machine import available_cores
from nas.datasets import Dataset, split
from nas.plots import figures as plots
from nas.training.proxy import train_proxy
from nas.training.recipe import Recipe

KEPT = Path(__file__).resolve().parent / "fidelity"
RECIPE = Recipe.load("proxy")
NETWORKS, BUDGET, SEEDS, EVERY = 40, 400e6, 3, 5
TRAIN, VAL = 12_000, 3_000


@dataclass(frozen=True)
class Way:
    """A training: epochs, share of the training images, image size in pixels, width factor, largest shift, batch
    size, and whether the arithmetic is fp32, or else the product's own (bf16 on a CPU that has it)."""

    epochs: int = 1
    share: float = 1.0
    pixels: int = 32
    width: float = 1.0
    shift: float = 0.0
    batch: int = RECIPE.batch_size
    fp32: bool = True


LONG = "long"
CUT = "the long training, cut short"
WAYS = {
    "1 epoch": Way(),
    "1 epoch, half of the images": Way(share=0.5),
    "1 epoch, quarter of the images": Way(share=0.25),
    "1 epoch, 16 px": Way(pixels=16),
    "1 epoch, quarter of the images, 16 px": Way(share=0.25, pixels=16),
    "1 epoch, half the width": Way(width=0.5),
    "2 epochs, half of the images": Way(epochs=2, share=0.5),
    LONG: Way(epochs=6, shift=0.125),
    "1 epoch, bf16": Way(fp32=False),
    "2 epochs, bf16": Way(epochs=2, fp32=False),
    "1 epoch, batches of 32, bf16": Way(batch=32, fp32=False),
    "3 epochs, bf16": Way(epochs=3, fp32=False),
}


def networks() -> list[Architecture]:
    """The networks, drawn uniformly under the budget."""
    space = SearchSpace.load("mnas")
    return [space.sample(seed=seed, max_madds=BUDGET) for seed in range(NETWORKS)]


def cifar(share: float) -> Dataset:
    """A share of TRAIN images, and VAL others, of CIFAR-10's training part; the classes are equally frequent."""
    files, labels = jpegs("cifar10", "train")
    rest, val = split([str(i) for i in range(len(labels))], labels, VAL / len(labels))
    train_part = rest[: round(TRAIN * share)]  # classes take turns in the file

    def decoded(chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels([files[i] for i in chosen]), torch.tensor([labels[i] for i in chosen])

    classes = tuple((FOLDER / "cifar10/classes.txt").read_text().split())
    return Dataset("cifar10", *decoded(train_part), *decoded(val), classes, True, "JPEG")


def tasks() -> Iterator[tuple[int, str, int]]:
    """Network, way, seed: the long training with further seeds, then one way after the other for all networks."""
    yield from ((i, LONG, seed) for i in range(0, NETWORKS, EVERY) for seed in range(1, SEEDS))
    yield from ((i, name, 0) for name in WAYS for i in range(NETWORKS))


def train_part(part: int, of: int) -> None:
    """Train every `of`-th network from `part` on: what no file holds yet."""
    torch.set_num_threads(1)
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"curves_{part}.csv"
    known = rows.kept(KEPT, "curves_*.csv")
    done = set(zip(known["network"], known["way"], known["seed"], strict=True)) if len(known) else set()
    data = {share: cifar(share) for share in {way.share for way in WAYS.values()}}
    drawn = networks()
    for i, name, seed in tasks():
        if i % of != part or (i, name, seed) in done:
            continue
        way = WAYS[name]
        arch = drawn[i] if way.width == 1 else drawn[i].scale(1, way.width, 1)
        recipe = replace(RECIPE, epochs=way.epochs, shift=way.shift, batch_size=way.batch)
        began = time.process_time()
        with mock.patch("nas.training.trainer.mixed_dtype", return_value=None) if way.fp32 else nullcontext():
            outcome = train_proxy(arch, data[way.share], recipe, seed, "cpu", image_size=way.pixels)
        row = {
            "network": i,
            "way": name,
            "seed": seed,
            "accuracy": outcome.accuracy,
            "curve": " ".join(f"{value:.4f}" for value in outcome.curve),
            "compute": round(time.process_time() - began, 2),
            **asdict(way),
            "architecture": str(drawn[i]),
        }
        rows.append(file, row)
        print(i, name, seed, f"{outcome.accuracy:.4f}", row["compute"], flush=True)


def zero_cost() -> pd.DataFrame:
    """Every score of every network with its processor seconds, from 64 training images; computed once."""
    file = KEPT / "zero_cost.csv"
    if file.exists():
        return pd.read_csv(file)
    torch.set_num_threads(1)
    sample = cifar(1.0).train_images[:64].float()
    images = (sample - sample.mean((0, 2, 3), keepdim=True)) / sample.std((0, 2, 3), keepdim=True)
    found = []
    for i, arch in enumerate(networks()):
        for name, score in SCORES.items():
            torch.manual_seed(i)
            began = time.process_time()
            value = score(arch, images)
            found.append({"network": i, "way": name, "score": value, "compute": time.process_time() - began})
    pd.DataFrame(found).to_csv(file, index=False)
    return pd.DataFrame(found)


def scores(trained: pd.DataFrame, free: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each way says of each network, and its processor seconds for it: two tables, a row per network.

    The beginnings of the long training, whose curves are at hand, count as ways too.
    """
    first = trained[(trained["seed"] == 0) & trained["way"].isin(WAYS)]
    said = first.pivot(index="network", columns="way", values="accuracy")
    spent = first.pivot(index="network", columns="way", values="compute")
    curves = first[first["way"] == LONG].set_index("network")["curve"].str.split(" ", expand=True).astype(float)
    epochs = curves.shape[1]
    for n in range(1, epochs):
        name = f"first {n} of {epochs} long epochs"
        said[name], spent[name] = curves[n - 1], spent[LONG] * n / epochs
    extra = (free.pivot(index="network", columns="way", values=value) for value in ("score", "compute"))
    said, spent = (pd.DataFrame(t.join(more).dropna()) for t, more in zip((said, spent), extra, strict=True))
    return said, spent


def at_equal_madds(values: pd.DataFrame, madds: pd.Series[float]) -> pd.DataFrame:
    """What is left of each column after a parabola in log MAdds: who is better than its cost suggests."""
    x = np.log(madds.to_numpy())
    parabolas = {name: np.polyval(np.polyfit(x, values[name], 2), x) for name in values}
    return values - pd.DataFrame(parabolas, values.index)


def taus(said: pd.DataFrame) -> pd.Series[float]:
    """Kendall's tau-b of each way with the long training."""
    return pd.Series({name: kendalltau(said[name], said[LONG]).statistic for name in said if name != LONG})


def resampled(said: pd.DataFrame, repeats: int = 2000) -> pd.DataFrame:
    """The taus of networks drawn with replacement, a row per repeat."""
    rng = np.random.default_rng(0)
    return pd.DataFrame([taus(said.iloc[rng.integers(len(said), size=len(said))]) for _ in range(repeats)])


def ceiling(trained: pd.DataFrame) -> tuple[float, float, float]:
    """Tau between two seeds of the long training, and sd of seeds and of networks in points of accuracy.

    Tau is what two trainings of these networks would have if accuracies were normal with these two deviations:
    2/pi asin(correlation). So few networks have three seeds that their own tau says little; it is in RESULT.md too.
    """
    long = trained[trained["way"] == LONG].pivot(index="network", columns="seed", values="accuracy") * 100
    several = long.dropna()
    noise = several.var(axis=1, ddof=1).mean()
    between = max(long[0].var(ddof=1) - noise, 0.0)
    return float(2 / np.pi * np.arcsin(between / (between + noise))), float(noise**0.5), float(between**0.5)


def picture(table: pd.DataFrame, top: float) -> Figure:
    """Tau of each way with its interval, by rising compute from top to bottom, and the ceiling."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    places = pd.Series(range(len(table)), table.index)
    for kind, part in table.groupby("kind", sort=False):
        bars = [part["tau"] - part["low"], part["high"] - part["tau"]]
        axes.errorbar(part["tau"], places[part.index], xerr=bars, fmt="o", capsize=2, elinewidth=1, label=str(kind))
    axes.axvline(top, color="#222222", linestyle="--", linewidth=1, label="two seeds of the long training")
    axes.axvline(0, color="#9aa5b1", linewidth=0.8)
    axes.set_yticks(places, [f"{row['way']}   {row['compute']:.2g} s" for row in table.to_dict("records")])
    axes.invert_yaxis()
    axes.set_xlabel("Kendall's τ with the long training (bars: 95 %)")
    axes.set_title("Ranking networks: by each way, with its processor seconds")
    axes.legend(fontsize=8, loc="lower left")
    return figure


def report() -> None:
    """Write taus.csv, fidelity.png and RESULT.md from what is there."""
    trained = rows.kept(KEPT, "curves_*.csv")
    said, spent = scores(trained, zero_cost())
    madds = said["MAdds"].astype(float)
    trials = resampled(said)
    tau = taus(said)
    best = str(tau[[name for name in tau.index if "long" not in str(name)]].idxmax())
    apart: pd.Series[float] = taus(at_equal_madds(said, madds).assign(**{LONG: at_equal_madds(said, madds)[LONG]}))
    table = pd.DataFrame(
        {
            "compute": spent.median(),
            "share": spent.div(spent[LONG], axis=0).median(),
            "tau": tau,
            "low": trials.quantile(0.025),
            "high": trials.quantile(0.975),
            "tau_at_equal_madds": apart,
            "within_error": tau[best] - tau <= trials.sub(trials[best], axis=0).std(),
            "within_interval": trials.sub(trials[best], axis=0).quantile(0.975) >= 0,
        }
    ).dropna(subset="tau")
    table.insert(0, "way", table.index)
    table.insert(1, "kind", [kind_of(str(name)) for name in table.index])
    table = table.sort_values("compute")
    table.to_csv(KEPT / "taus.csv", index=False, float_format="%.4g")
    top, noise, between = ceiling(trained)
    plots.save(picture(table, top), KEPT / "fidelity.png")
    (KEPT / "RESULT.md").write_text(result(table, trained, said, best, (top, noise, between)))


def kind_of(name: str) -> str:
    """The family that a way belongs to."""
    if name in SCORES:
        return "no training"
    return CUT if "long" in name else "brief training"


def chosen(table: pd.DataFrame) -> str:
    """The way of least compute within one standard error of the best, in quotes."""
    found = table[table["within_error"] & (table["kind"] != CUT)]
    return f'"{found.sort_values("compute")["way"].iloc[0]}"'


def result(
    table: pd.DataFrame, trained: pd.DataFrame, said: pd.DataFrame, best: str, noise: tuple[float, float, float]
) -> str:
    """The text of RESULT.md."""
    long = trained[trained["way"] == LONG].pivot(index="network", columns="seed", values="accuracy").dropna()
    pairs = [kendalltau(long[a], long[b]).statistic for a, b in combinations(long, 2) if len(long) > 2]
    lines = [
        f"| {row['way']} | {row['compute']:.3g} | {100 * row['share']:.2g} % | {row['tau']:.2f} | "
        f"{row['low']:.2f} … {row['high']:.2f} | "
        f"{row['tau_at_equal_madds']:.2f} | {'yes' if row['within_error'] else 'no'} | "
        f"{'yes' if row['within_interval'] else 'no'} |"
        for row in table.to_dict("records")
    ]
    way = WAYS[LONG]
    return f"""# Fidelity: which brief training ranks networks as a long one does

{len(said)} networks of mnas, drawn uniformly with at most {BUDGET / 1e6:g}M MAdds; CIFAR-10 (JPEG) at 32 px,
{TRAIN:,} training and {VAL:,} validation images. The long training: {way.epochs} epochs, shifted by up to
{way.shift:g} of the side.

| way | processor s | of the long training's | Kendall's τ | 95 % | τ at equal MAdds | within 1 s.e. | within 95 % |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

Ceiling, τ between two seeds of the long training: **{noise[0]:.2f}** (sd of seeds {noise[1]:.2f} points, of networks
{noise[2]:.2f}); the networks with three seeds ({len(long)}) give {", ".join(f"{p:.2f}" for p in pairs) or "none yet"}.
The best of the brief trainings and scores is "{best}". 95 %: networks drawn anew 2,000 times. Within 1 s.e., within
95 %: how far below the best, measured by the difference over the same draws. At equal MAdds: after taking a parabola
in log MAdds from both. All ways and the long training share seed 0, thus the start and part of the noise.

The default of `nas.search` is the way of least compute within one standard error of the best (the rule of Breiman et
al. 1984), {chosen(table)}. {len(said)} networks are too few to tell it from everything cheaper at 95 %. All trainings
are fp32 but those called bf16, which the product does on this processor.

{available_cores()} CPU cores ({platform.machine()}), one thread a training, shared; Python {platform.python_version()},
torch {metadata.version("torch")}, torchvision {metadata.version("torchvision")}; {date.today()}.
"""


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train_part(*(int(word) for word in sys.argv[2:] or ("0", "1")))
    elif sys.argv[1:2] == ["report"]:
        report()
    else:
        sys.exit(__doc__)
