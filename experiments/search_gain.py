"""Is the network that a search picks better than one that would have been taken without it?

    python experiments/search_gain.py search [--data fashion-mnist cifar10] [--seeds 5]  # needs the machine for itself
    python experiments/search_gain.py train [--part 0/1] [--repeats 3]                   # parts run side by side
    python experiments/search_gain.py report

`search` runs, for each search seed, `python -m nas.search` with its defaults, and the same with `--sampler random` (as
many random networks by the same proxy). It notes the pick; the pick of the random search; and, within 5 % of the MAdds
of the pick, a random network of the space, and B0, MobileNetV2 and MnasNet-A1, fitted and narrowed or widened to the
searches' target, so that they are trained once.
`train` trains each in full with the bundled recipe `default` and --repeats seeds, and measures it on images that
nothing was chosen by: the official test images of Fashion-MNIST, 10,000 images of CIFAR-10 kept back. The best
published network is chosen on validation images. Writes experiments/search_gain/: picks.csv, trials.csv (all trainings
of the searches), trained_*.csv (row by row; what is there is not repeated), search_gain.png, RESULT.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rows import append, kept
from scipy import stats
from shared_images import FOLDER, idx, write_cifar10

from nas import Architecture, datasets
from nas.base.machine import available_cores
from nas.datasets import Dataset
from nas.datasets.batches import Images
from nas.networks.module import zero_init
from nas.runs.facts import space_of
from nas.runs.run import Run
from nas.training.distributed import Ranks
from nas.training.evaluate import evaluate
from nas.training.recipe import Recipe
from nas.training.trainer import Task, Trainer
from nas.training.trainer import train as run_trainer

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/search_gain"
DATA = {"fashion-mnist": 28, "cifar10": 32}  # names here, and the side of their images in pixels
PARTS = {"train": 12_000, "val": 10_000, "test": 10_000}  # images of CIFAR-10
SPACE = "mnas"
EPOCHS = 10  # of a training in full
NEAR = 0.05  # of the MAdds of the pick that others may differ by
KNOWN = ("efficientnet_b0", "mobilenet_v2", "mnasnet_a1")
ARMS = {
    "random": "a random network",
    "best random": "the best of as many random networks",
    "published": "the best published",
}


def source(name: str, folder: Path) -> str:
    """What --data names; CIFAR-10 is written as a folder of images, without the test part."""
    if name == "fashion-mnist":
        return datasets.DEFAULT
    target = folder / "cifar10"
    if not target.exists():
        write_cifar10(target, PARTS, {"train": "train", "val": "val"}, DATA[name])
    return str(target)


def test_images(name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that nothing is chosen by: uint8 [10000, channels, side, side], and their labels."""
    if name == "fashion-mnist":
        return idx(FOLDER / "fashion_mnist", "t10k")
    target = folder / "cifar10-test"
    if not target.exists():
        write_cifar10(target, PARTS, {"test": "val"}, DATA[name])
        write_cifar10(target, {"train": 100}, {"train": "train"}, DATA[name])
    found = datasets.load(str(target))
    return found.val_images, found.val_labels


def picks(name: str, seed: int, folder: Path) -> Iterator[dict[str, object]]:
    """The networks of one search seed, with how the searches went."""
    for arm, sampler in (("ours", "auto"), ("best random", "random")):
        run = Run(folder / "runs" / f"{name}-{seed}-{sampler}")
        words = ["--space", SPACE, "--data", source(name, folder), "--seed", str(seed), "--sampler", sampler]
        began = time.monotonic()
        command = [sys.executable, "-m", "nas.search", *words, "--run", run.path.name]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        keep_trials(name, seed, arm, run)
        space = space_of(run.config)
        assert space is not None
        cost, seconds = space.cost(run.baseline).madds, time.monotonic() - began
        low, high = space.extremes()["madds"][0], run.config["arguments"]["target_madds"]
        bound = cost < low * 1.02 or cost > high * 0.98
        yield {"arm": arm, "architecture": str(run.baseline), "madds": cost, "seconds": seconds, "bound": bound}
        if arm == "ours":
            near = {"madds": (cost * (1 - NEAR), cost * (1 + NEAR))}
            drawn = space.decode(space.draw_codes(1, seed, near)[0])
            yield {"arm": "random", "architecture": str(drawn), "madds": space.cost(drawn).madds}
            for known in KNOWN:
                original = Architecture.load(known)
                tried = [original.fitted(space.resolution, width) for width in np.arange(0.05, 1.0, 0.005)]
                arch = min(tried, key=lambda one: abs(space.cost(one).madds / high - 1))
                yield {"arm": known, "architecture": str(arch), "madds": space.cost(arch).madds}


def keep_trials(name: str, seed: int, arm: str, run: Run) -> None:
    """Add the trainings of a search to trials.csv; repeat 0 is a trial's own."""
    first = run.trials.assign(repeat=0)
    again = run.path / "repeats.csv"
    every = pd.concat([first, pd.read_csv(again)] if again.exists() else [first])
    for row in every[every["state"] == "COMPLETE"].to_dict("records"):
        known = {key: row[key] for key in ("trial", "repeat", "madds", "accuracy", "architecture")}
        append(KEPT / "trials.csv", {"data": name, "seed": seed, "arm": arm, **known})


def real_share(trials: pd.DataFrame) -> tuple[float, float, float]:
    """Of the trials of some searches: the noise of one training, the deviation of single trainings at equal MAdds, and
    the share of its variance that is real.

    The deviation is around a parabola in log MAdds of each search.
    """
    squares, freedom, rest, left = 0.0, 0, 0.0, 0
    for _, some in trials.groupby(["data", "seed", "arm"]):
        groups = some.groupby("trial")["accuracy"]
        squares += ((some["accuracy"] - groups.transform("mean")) ** 2).sum()
        freedom += len(some) - len(groups)
        single = some[some["repeat"] == 0]
        log = np.log(single["madds"])
        rest += ((single["accuracy"] - np.polyval(np.polyfit(log, single["accuracy"], 2), log)) ** 2).sum()
        left += len(single) - 3
    noise, deviation = (squares / max(freedom, 1)) ** 0.5, (rest / left) ** 0.5
    return noise, deviation, max(0.0, 1 - (noise / deviation) ** 2)


def search(names: list[str], seeds: int, folder: Path) -> None:
    """All searches; the rows of one are written when all of its networks are known."""
    for name in names:
        for seed in range(seeds):
            done = kept(KEPT, "picks.csv")
            if len(done) and ((done["data"] == name) & (done["seed"] == seed)).any():
                continue
            for row in list(picks(name, seed, folder)):
                append(KEPT / "picks.csv", {"data": name, "seed": seed, "seconds": None, "bound": None, **row})


def train(part: int, of: int, repeats: int, folder: Path) -> None:
    """Train every network in full from several seeds, all once before any is trained again."""
    table = kept(KEPT, "picks.csv")
    recipe = replace(Recipe.load("default"), epochs=EPOCHS)
    jobs = [(name, text, repeat) for repeat in range(repeats) for name, text in table[["data", "architecture"]].values]
    for number, (name, text, repeat) in enumerate(dict.fromkeys(jobs)):
        done = kept(KEPT, "trained*.csv")
        mine = number % of == part
        if not mine or (len(done) and ((done["architecture"] == text) & (done["repeat"] == repeat)).any()):
            continue
        data = datasets.load(source(name, folder))
        images, labels = test_images(name, folder)
        both = replace(
            data,
            val_images=torch.cat([data.val_images, images]),
            val_labels=torch.cat([data.val_labels, labels]),
        )
        row = accuracies(both, len(labels), Architecture.parse(text), recipe, repeat)
        append(KEPT / f"trained_{part}.csv", {"data": name, "architecture": text, "repeat": repeat, **row})


def accuracies(data: Dataset, held: int, arch: Architecture, recipe: Recipe, seed: int) -> dict[str, float]:
    """The accuracy on the validation images and, apart from them, on the last `held`, after a whole training."""
    began, where = time.monotonic(), torch.device("cpu")
    task = Task.of(data, recipe, seed, where, image_size=arch.resolution)
    torch.manual_seed(seed)
    model = arch.build(data.num_classes, data.channels, recipe.dropout, recipe.drop_path)
    zero_init(model)
    trainer = Trainer(model, task.recipe, Ranks(where))

    def part(rows: slice) -> Images:
        return replace(task.validation, pixels=task.validation.pixels[rows], labels=task.validation.labels[rows])

    run_trainer(trainer, replace(task, validation=part(slice(100))))  # what is between the epochs is not looked at
    parts = {"validation": part(slice(None, -held)), "test": part(slice(-held, None))}
    found = {
        name: evaluate(trainer.evaluated, images, data.num_classes, trainer.ranks).top1
        for name, images in parts.items()
    }
    return {**found, "seconds": time.monotonic() - began}


def gains(table: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of the pick less that of each arm, by data set and search seed."""
    means = trained.groupby(["data", "architecture"])[["validation", "test"]].mean().reset_index()
    full = table.merge(means, on=["data", "architecture"])
    rows = []
    for (name, seed), some in full.groupby(["data", "seed"]):
        published = some[some["arm"].isin(KNOWN)]
        ours = some[some["arm"] == "ours"]
        if ours.empty:
            continue
        others = {arm: some[some["arm"] == arm] for arm in ("random", "best random")}
        others["published"] = published.nlargest(1, "validation")
        for arm, other in others.items():
            if len(other):
                gain = float(ours["test"].iloc[0] - other["test"].iloc[0])
                ratio = float(other["madds"].iloc[0] / ours["madds"].iloc[0])
                rows.append({"data": name, "seed": seed, "arm": arm, "gain": gain, "madds_ratio": ratio})
    return pd.DataFrame(rows)


def interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half a 95 % interval over searches, by Student's t; infinite for one."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else float("inf")
    return float(values.mean()), half


def report() -> None:
    """Write the picture and RESULT.md from what is trained so far."""
    table, trained = kept(KEPT, "picks.csv"), kept(KEPT, "trained*.csv")
    found = gains(table, trained)
    lines = ["| data | against | searches | gain, points | MAdds of the other / of the pick |", "|---|---|---|---|---|"]
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots(1, len(DATA), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, DATA, strict=True):
        ax.set_title(name)
        ax.axhline(0, color="0.6", linewidth=1)
        for i, (arm, words) in enumerate(ARMS.items()):
            some = found[(found["data"] == name) & (found["arm"] == arm)]
            if some.empty:
                continue
            mean, half = interval(100 * some["gain"])
            ratio = some["madds_ratio"].mean()
            lines.append(f"| {name} | {words} | {len(some)} | {mean:+.2f} ± {half:.2f} | {ratio:.2f} |")
            ax.plot([i] * len(some), 100 * some["gain"], "o", color="0.6")
            ax.errorbar([i], [mean], [half if np.isfinite(half) else 0], fmt="o", color="C0", capsize=4)
        ax.set_xticks(range(len(ARMS)), list(ARMS))
    axes[0].set_ylabel("test accuracy of the pick\nless that of the other, points")
    if len(found) and found.groupby(["data", "arm"]).size().min() > 1:  # one search has no interval to draw
        figure.savefig(KEPT / "search_gain.png", dpi=150)
    trials = kept(KEPT, "trials.csv")
    shares = []
    for data, some in trials.groupby("data") if len(trials) else ():
        noise, deviation, share = real_share(some)
        shares.append(
            f"{data}: noise of one training {100 * noise:.2f} points, deviation at equal MAdds {100 * deviation:.2f}, "
            f"share of its variance that is real {share:.2f}."
        )
    ours = table[table["arm"] == "ours"]
    repeats = trained.groupby(["data", "architecture"]).size()
    text = [
        "# Search gain",
        "",
        f"Space {SPACE} fitted to the images, hard reward, defaults of `python -m nas.search`; each network trained in "
        f"full ({EPOCHS} epochs, recipe default) from {repeats.min()} to {repeats.max()} seeds, measured on 10,000 "
        "images that nothing was chosen by. Intervals: 95 %, Student's t over search seeds, so the variance between "
        "searches and between trainings is in them; infinite for one search.",
        "",
        *lines,
        "",
        *(f"In the searches' trainings, {line}\n" for line in shares),
        f"The pick stood at a bound in {int(ours['bound'].sum())} of {len(ours)} searches; a search took "
        f"{ours['seconds'].median() / 60:.1f} minutes (median).",
        "",
        f"{platform.machine()}, {available_cores()} cores, torch {metadata.version('torch')}, optuna "
        f"{metadata.version('optuna')}, {date.today().isoformat()}.",
    ]
    (KEPT / "RESULT.md").write_text("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "train", "report"])
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "search_gain")
    given = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    given.folder.mkdir(exist_ok=True)
    if given.what == "search":
        search(given.data, given.seeds, given.folder)
    elif given.what == "train":
        part, of = map(int, given.part.split("/"))
        torch.set_num_threads(max(1, available_cores() // of))
        train(part, of, given.repeats, given.folder)
    else:
        report()


if __name__ == "__main__":
    main()
