"""Progressive learning against plain training: accuracy and time of one network, same epochs and final size.

    python experiments/progressive.py [--seeds 3] [--epochs 4]

One of the cheapest networks of mnas on a third of the embedded data (28 px). Three recipes, by turns within each seed:
plain; the default schedule; and the regularization of that schedule at its last stage for the whole training, at full
size, which tells what growing adds. Writes experiments/progressive/: results.csv, progressive.png, RESULT.md. Runs that
results.csv holds already are not repeated, so that the experiment can be made in pieces (--seeds 1, then 2, then 3).
Time is that of the processor, on one thread, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from datetime import date
from functools import partial
from importlib import metadata
from itertools import pairwise, repeat
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from matplotlib.figure import Figure

from nas import datasets
from nas.base.machine import available_cores
from nas.networks.architecture import Architecture
from nas.plots import figures as plots
from nas.spaces.space import SearchSpace
from nas.training.distributed import Ranks
from nas.training.proxy import train_proxy
from nas.training.recipe import Recipe
from nas.training.schedule import Schedule
from nas.training.trainer import Trainer

KEPT = Path(__file__).resolve().parent / "progressive"


def recipes(epochs: int) -> dict[str, Recipe]:
    """The recipes by name."""
    growing = Schedule.load("default")
    last = Schedule("last", (1,), (1,), growing.randaugment[-1:], growing.mixup[-1:], growing.dropout[-1:])
    plain = replace(Recipe.load("proxy"), epochs=epochs)
    return {
        "plain": plain,
        "progressive": replace(plain, progressive=growing),
        "regularized": replace(plain, progressive=last),
    }


def share_of_time(arch: Architecture, size: int, repeats: int = 5) -> float:
    """The time of the default schedule's steps relative to steps at the final size, by the stages' median steps."""
    schedule = Schedule.load("default")
    trainer = Trainer(arch.build(10, 1), Recipe.load("proxy"), Ranks(torch.device("cpu")))
    seconds = []
    for until in schedule.until:
        images = torch.randn(64, 1, *[schedule.at(until - 1e-9, size).size] * 2)
        batches = partial(repeat, (images, torch.arange(64) % 10))
        times = []
        for _ in range(repeats):
            began = time.process_time()
            trainer.step(batches, 64, 1e-3)
            times.append(time.process_time() - began)
        seconds.append(median(times))
    shares = [b - a for a, b in pairwise((0.0, *schedule.until))]
    return sum(share * step for share, step in zip(shares, seconds, strict=True)) / seconds[-1]


def picture(table: pd.DataFrame) -> Figure:
    """Accuracy against seconds: a point for each training."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, part in table.groupby("recipe", sort=False):
        axes.scatter(part["seconds"], 100 * part["accuracy"], label=str(name), s=40)
    axes.set_xlabel("processor seconds of training, one thread")
    axes.set_ylabel("accuracy on validation images (%)")
    axes.set_title(f"One network, {table['epochs'].iloc[0]} epochs, three recipes")
    axes.legend()
    return figure


def main() -> None:
    """Train what is missing, then write what there is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    file = KEPT / "results.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    torch.set_num_threads(1)
    whole = datasets.load()
    data = replace(whole, train_images=whole.train_images[::3], train_labels=whole.train_labels[::3])
    arch = SearchSpace.load("mnas").sample(seed=0, max_madds=100e6)
    for seed in range(arguments.seeds):
        for name, recipe in recipes(arguments.epochs).items():
            if any((row["recipe"], row["seed"], row["epochs"]) == (name, seed, recipe.epochs) for row in rows):
                continue
            began = time.process_time()
            outcome = train_proxy(arch, data, recipe, seed, "cpu")
            rows.append(
                {
                    "recipe": name,
                    "seed": seed,
                    "epochs": recipe.epochs,
                    "accuracy": outcome.accuracy,
                    "seconds": round(time.process_time() - began, 2),
                    "architecture": str(arch),
                }
            )
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(file, index=False)
    table = pd.DataFrame(rows)
    plots.save(picture(table), KEPT / "progressive.png")
    # Speed is compared within a seed, whose trainings followed one another: the machine is shared.
    seconds = table.pivot_table(index="seed", columns="recipe", values="seconds")
    summary = [
        f"| {name} | {100 * part['accuracy'].mean():.2f} ± {100 * part['accuracy'].std():.2f} | "
        f"{part['seconds'].median():.1f} | {(seconds[name] / seconds['plain']).median():.2f} |"
        for name, part in table.groupby("recipe", sort=False)
    ]
    mean = table.groupby("recipe")["accuracy"].mean() * 100
    ratio = (seconds["progressive"] / seconds["plain"]).median()
    against_plain, against_regularized = (mean["progressive"] - mean[name] for name in ("plain", "regularized"))
    steps = {size: share_of_time(arch, size) for size in (28, 64, 128)}
    (KEPT / "RESULT.md").write_text(
        f"""# Progressive learning: accuracy and time

| recipe | accuracy %, mean ± sd | processor seconds, median | against plain, median |
|---|---|---|---|
{chr(10).join(summary)}

With the schedule `default` (sizes 12, 18, 24, 28 px) a training took {ratio:.2f} of the plain time. Its accuracy was
{against_plain:+.2f} points against plain, and {against_regularized:+.2f} against the same regularization at full size
all along. These are brief trainings ({table["epochs"].iloc[0]} epochs) of a small network on small images; the long
ones that regularization is for (350 epochs in the paper) were not tried.

The network's steps alone (forward, backward, optimizer) take, with that schedule, {steps[28]:.2f} of their time at a
final size of 28 px, {steps[64]:.2f} at 64 px and {steps[128]:.2f} at 128 px: time is saved where pixels, not layers,
are what a step costs.

Network `{table["architecture"].iloc[0]}`
on {len(data.train_labels):,} images of {data.name}, validation on {len(data.val_labels):,} at 28 px,
seeds 0 to {table["seed"].max()}, batch {Recipe.load("proxy").batch_size}.
{available_cores()} CPU cores ({platform.machine()}, {platform.system()}), one thread, shared,
torch {metadata.version("torch")}, torchvision {metadata.version("torchvision")}, {date.today()}.
"""
    )


if __name__ == "__main__":
    main()
