"""Does a scaled network train faster from the weights of the smaller one that it was scaled from?

    python experiments/grown_weights.py [--seeds 3]

One of the cheapest networks of mnas and its φ = 2 member (α 1.2, β 1.1, γ 1.15), on a third of the embedded data at
28 px, with the default recipe. For each seed the small one is trained, then the large one for 2, 4 and 8 epochs, each a
whole training with its learning rate going to 0: from scratch, and from the small one's weights (`nas.training.grow`).
Writes experiments/grown_weights/: results.csv, grown.png, RESULT.md. Trainings that results.csv holds are not repeated.
Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from datetime import date
from importlib import metadata
from pathlib import Path

import pandas as pd
import rows
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from nas import datasets
from nas.base.machine import available_cores
from nas.datasets import Dataset
from nas.networks.architecture import Architecture
from nas.networks.module import Network, zero_init
from nas.plots import figures as plots
from nas.spaces.space import SearchSpace
from nas.training.distributed import Ranks
from nas.training.pretrained import Pretrained, load_pretrained
from nas.training.recipe import Recipe
from nas.training.trainer import Task, Trainer, train

KEPT = Path(__file__).resolve().parent / "grown_weights"
EPOCHS = (2, 4, 8)
SMALL_EPOCHS = 8
HERE = Ranks(torch.device("cpu"))


def networks() -> tuple[Architecture, Architecture]:
    """The small one and the large one."""
    small = SearchSpace.load("mnas").sample(seed=0, max_madds=100e6)
    return small, small.scale(1.2**2, 1.1**2, 1.15**2)


def fitted(
    arch: Architecture, data: Dataset, epochs: int, seed: int, begin: Pretrained | None = None
) -> tuple[Network, float, float]:
    """Train a network; returns it, its top-1 on the validation images, and the seconds it took."""
    began = time.process_time()
    recipe = replace(Recipe.load("default"), epochs=epochs)
    torch.manual_seed(seed)
    model = arch.build(data.num_classes, data.channels, recipe.dropout, recipe.drop_path)
    zero_init(model)
    if begin:
        load_pretrained(model, begin, data.classes)
    trainer = Trainer(model, recipe, HERE)
    result = train(trainer, Task.of(data, recipe, seed, HERE.device))
    return trainer.evaluated, result.metrics.top1, time.process_time() - began


def done(table: pd.DataFrame, **wanted: object) -> bool:
    """Whether the table has such a row."""
    return len(table) > 0 and bool((table[list(wanted)] == pd.Series(wanted)).all(axis=1).any())


def measure(seed: int, data: Dataset) -> None:
    """All trainings of a seed, one row each."""
    small, large = networks()
    file = KEPT / "results.csv"
    known = rows.kept(KEPT, file.name)
    if len(known) and (known["seed"] == seed).sum() == 1 + 2 * len(EPOCHS):
        return
    model, top1, seconds = fitted(small, data, SMALL_EPOCHS, seed)
    found = {"network": "small", "start": "scratch", "epochs": SMALL_EPOCHS, "seed": seed}
    if not done(known, **found):
        rows.append(file, {**found, "top1": top1, "seconds": round(seconds, 1)})
    weights = Pretrained("the small one", model.state_dict(), small, data.classes, (0.0,), (1.0,))
    for epochs in EPOCHS:
        for start, begin in (("scratch", None), ("grown", weights)):
            found = {"network": "large", "start": start, "epochs": epochs, "seed": seed}
            if done(known, **found):
                continue
            _, top1, seconds = fitted(large, data, epochs, seed, begin)
            rows.append(file, {**found, "top1": top1, "seconds": round(seconds, 1)})
            print(found, f"{top1:.4f}", flush=True)


def picture(table: pd.DataFrame) -> Figure:
    """Top-1 against epochs of the large network, and against all seconds."""
    figure, (left, right) = plots.figures(
        "The φ = 2 network from scratch and from the small one's weights",
        "each point a whole training; lines through the means",
        2,
    )
    small = table[table["network"] == "small"].set_index("seed")
    large = table[table["network"] == "large"]
    left.axhline(100 * small["top1"].mean(), color=plots.PALE, label=f"the small one, {SMALL_EPOCHS} epochs")
    for start, colour in (("scratch", plots.FRONT), ("grown", plots.PICK)):
        part = large[large["start"] == start].copy()
        part["all"] = part["seconds"] + (part["seed"].map(small["seconds"]) if start == "grown" else 0)
        for axes, x in ((left, "epochs"), (right, "all")):
            axes.scatter(part[x], 100 * part["top1"], s=18, color=colour, alpha=0.6)
            means = part.assign(x=part[x]).groupby("epochs")[["x", "top1"]].mean()
            axes.plot(means["x"], 100 * means["top1"], color=colour, label=start)
    left.set_xscale("log")
    left.xaxis.set_major_locator(FixedLocator(EPOCHS))
    left.xaxis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_locator(NullLocator())
    left.set_xlabel("epochs of the large network")
    right.set_xlabel("processor seconds, with those of the small one for grown")
    for axes in (left, right):
        axes.set_ylabel("top-1 on validation images (%)")
        axes.legend(fontsize=8)
    return figure


def result(table: pd.DataFrame, data: Dataset) -> str:
    """RESULT.md."""
    small, large = networks()
    base = table[table["network"] == "small"]
    pairs = table[table["network"] == "large"].pivot_table(index=["seed", "epochs"], columns="start", values="top1")
    gain = 100 * (pairs["grown"] - pairs["scratch"])
    seconds = table[table["network"] == "large"].groupby("epochs")["seconds"].mean()
    lines = []
    for epochs in EPOCHS:
        here, gained = 100 * pairs.xs(epochs, level="epochs"), gain.xs(epochs, level="epochs")
        error = gained.std() / len(gained) ** 0.5
        cells = [f"{here[start].mean():.2f} ± {here[start].std():.2f}" for start in ("scratch", "grown")]
        lines.append(
            f"| {epochs} | {cells[0]} | {cells[1]} | {gained.mean():+.2f} ± {error:.2f} | {seconds[epochs]:.0f} |"
        )
    first, last = EPOCHS[0], EPOCHS[-1]
    mean = 100 * pairs.groupby("epochs").mean()
    sooner = [e for e in EPOCHS if mean["grown"][e] >= mean["scratch"][last]]
    alone = (
        f"The small network after {SMALL_EPOCHS} epochs: {100 * base['top1'].mean():.2f} ± "
        f"{100 * base['top1'].std():.2f} % in {base['seconds'].mean():.0f} seconds."
    )
    reached = (
        f"Grown, {sooner[0]} epochs gave at least what\n{last} gave from scratch ({mean['grown'][sooner[0]]:.2f} and "
        f"{mean['scratch'][last]:.2f} %): {seconds[last] - seconds[sooner[0]]:.0f} seconds less of the large network. "
        f"That is a gain where the small one\nis trained anyway; if only the large one is wanted, the "
        f"{base['seconds'].mean():.0f} seconds of the small one's training are to be added\n(right panel)."
        if sooner
        else f"However long it was trained, the grown one\nstayed below what {last} epochs gave from scratch."
    )
    return f"""# Weights of the small network as a start for the scaled one

| epochs | from scratch, top-1 % (mean ± sd) | grown, top-1 % | grown less scratch (± standard error) | seconds |
|---|---|---|---|---|
{chr(10).join(lines)}

{alone} {reached}

The gain shrinks from {first} to {last} epochs; more epochs, larger images and more data were not tried. On
{len(data.val_labels):,} validation images and so few seeds a difference below a point is within the noise.

Small: `{small}`
Large: `{large}`
{len(data.train_labels):,} images of {data.name} at 28 px, recipe `default`, {base["seed"].nunique()} seeds.
{available_cores()} CPU cores ({platform.machine()}, {platform.system()}), one thread, shared,
torch {metadata.version("torch")}, torchvision {metadata.version("torchvision")}, {date.today()}.
"""


def main() -> None:
    """Train what is missing, then write what there is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    whole = datasets.load()
    data = replace(whole, train_images=whole.train_images[::3], train_labels=whole.train_labels[::3])
    for seed in range(arguments.seeds):
        measure(seed, data)
    table = rows.kept(KEPT, "results.csv")
    plots.save(picture(table), KEPT / "grown.png")
    (KEPT / "RESULT.md").write_text(result(table, data))


if __name__ == "__main__":
    main()
