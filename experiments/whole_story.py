"""The whole way: search, confirm, baseline, our α, β, γ, a family, full training beside published networks, export.

    python experiments/whole_story.py find              # nas.search and nas.scale; about a quarter of an hour
    python experiments/whole_story.py train [PART OF]   # hours; "train 0 2" and "train 1 2" together
    python experiments/whole_story.py export            # the trained family as files
    python experiments/whole_story.py report            # table, picture, RESULT.md

Images are CIFAR-10 from ../shared: PARTS of them, of which the search sees train and val only; full trainings use both
and are measured on test. Ours are the members φ = 0, 1, 2; images are as small for each as nas.scale has them, the
largest member's as they are. Each is set beside published networks of equal MAdds at the same image size, counted as
trained: EfficientNet-B0, its depth and width by its paper's rule, MobileNetV2 and MnasNet-A1, whose width was their
authors' way to other sizes. (By the paper's rule whole, B0 would come to images of 8 to 13 pixels: no fair peer.) All
are trained by one recipe, nas.train's default. Every network comes with the first seed before the second; `train`
repeats no row that is there.

The smallest member is trained on smaller images than the search trains on. Whether a search on images of that size
picks better for them is asked by OTHER: its baseline, trained beside the smallest member.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from itertools import product
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import rows
from matplotlib.figure import Figure
from shared_images import write_cifar10

from nas import Architecture
from nas.base.errors import UserError
from nas.base.files import read_toml
from nas.base.machine import available_cores
from nas.base.units import format_count
from nas.datasets import cache_directory
from nas.networks import scaling
from nas.networks.scaling import EQUAL, Coefficients
from nas.scale.config import SMALLEST
from nas.scale.halving import gap, margin, noise

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/whole_story"
RUNS = KEPT / "runs"  # not committed
PARTS = {"train": 12_000, "val": 3_000, "test": 5_000}
NATIVE, CLASSES = 32, 10
BUDGET = ("--min-madds", "150M", "--max-madds", "300M")
PHIS = (0, 1, 2)
EPOCHS, SEEDS = 10, 3
OURS = "ours"
OTHER = "searched at its size"
FORMATS = "safetensors,pt2,onnx,int8,timm"
WIDTH = scaling.rule_coefficients("width")
PEERS = {  # and what makes them smaller or larger
    "EfficientNet-B0": ("efficientnet_b0", replace(scaling.paper(), gamma=1)),
    "MobileNetV2": ("mobilenet_v2", WIDTH),
    "MnasNet-A1": ("mnasnet_a1", WIDTH),
}


def images(whole: bool, side: int = NATIVE) -> Path:
    """CIFAR-10 as folders of PNG files: of the search, or (`whole`) of full trainings, whose val/ is the test part."""
    folder = cache_directory() / "whole_story" / f"cifar10{'-whole' if whole else ''}-{side}px"
    if folder.exists():
        return folder
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    write_cifar10(
        made,
        PARTS,
        {"train": "train", "val": "train", "test": "val"} if whole else {"train": "train", "val": "val"},
        side,
    )
    try:
        made.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(made)  # another part was first
    return folder


def command(*words: str, threads: int | None = None) -> None:
    """Run `python -m nas.…` in KEPT; its runs are in RUNS."""
    own = {"PYTHONPATH": str(ROOT), **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    subprocess.run([sys.executable, "-m", *words], cwd=KEPT, env={**os.environ, **own}, check=True)


def find() -> None:
    """Search, confirm, pick the baseline, find α, β, γ, scale; keep what is to be shown."""
    KEPT.mkdir(exist_ok=True)
    search("story", NATIVE)
    command("nas.scale", "--baseline", "story", "--phi", f"{PHIS[0]}..{PHIS[-1]}")
    for name in ("pareto.csv", "pareto.png", "baseline.toml", "scale/grid.csv", "scale/grid.png", "scale/family.csv"):
        shutil.copy(RUNS / "story" / name, KEPT)
    search("small", sides()[0])
    shutil.copy(RUNS / "small/baseline.toml", KEPT / "baseline_small.toml")


def search(run: str, side: int) -> None:
    """Search on images of so many pixels."""
    command("nas.search", "--space", "mnas", "--data", str(images(False, side)), *BUDGET, "--run", run)


@dataclass(frozen=True)
class Entry:
    """A network to train in full: whose, at which φ of ours it stands, itself, its images' side in pixels."""

    whose: str
    phi: int
    architecture: Architecture
    pixels: int

    @property
    def madds(self) -> int:
        """As it is trained: at its image size and with the data's classes."""
        return self.architecture.cost(self.pixels, CLASSES).madds

    @property
    def name(self) -> str:
        """Of its run, but for the seed."""
        return f"{re.sub('[^a-z0-9]+', '-', self.whose.lower())}-{self.phi}"


def sides() -> list[int]:
    """The pixels of each member's images: the largest member's are as they are, the others' in proportion."""
    found = [Architecture.parse(text).resolution for text in pd.read_csv(KEPT / "family.csv")["architecture"]]
    return [max(SMALLEST, round(NATIVE * side / max(found))) for side in found]


def entries() -> Iterator[Entry]:
    """Ours and the published networks of equal MAdds, size by size."""
    family, pixels = pd.read_csv(KEPT / "family.csv"), sides()
    for phi, text, side in zip(family["phi"], family["architecture"], pixels, strict=True):
        own = Entry(OURS, int(phi), Architecture.parse(text), side)
        yield own
        for whose, (name, coefficients) in PEERS.items():
            yield equal(own, whose, Architecture.load(name).at(side), coefficients)
    yield Entry(OTHER, PHIS[0], Architecture.load(KEPT / "baseline_small.toml"), pixels[0])


def equal(own: Entry, whose: str, published: Architecture, coefficients: Coefficients) -> Entry:
    """A published network, scaled to the MAdds of ours within EQUAL; for that, its images may be a pixel off."""
    found = []
    for hundredths, move in product(range(-500, 501), (0, -1, 1)):
        with suppress(UserError):  # no network is so small
            arch = published.scale(*coefficients.factors(hundredths / 100))
            one = Entry(whose, own.phi, arch, arch.resolution + move)
            found.append((max(EQUAL, abs(one.madds / own.madds - 1)), abs(move), one))
    return min(found, key=itemgetter(0, 1))[2]


def train_part(part: int, of: int) -> None:
    """Train every `of`-th network from `part` on: what no file holds yet."""
    known = rows.kept(KEPT, "trainings_*.csv")
    done = set(zip(known["whose"], known["phi"], known["seed"], strict=True)) if len(known) else set()
    tasks = [(seed, entry) for seed in range(SEEDS) for entry in entries()]
    for i, (seed, entry) in enumerate(tasks):
        if i % of != part or (entry.whose, entry.phi, seed) in done:
            continue
        run = f"{entry.name}-{seed}"
        options = ["--data", str(images(True)), "--image-size", str(entry.pixels), "--epochs", str(EPOCHS)]
        command("nas.train", str(entry.architecture), *options, "--seed", str(seed), "--run", run, threads=1)
        result = read_toml(RUNS / run / "result.toml")
        found, cost = result["validation"], entry.architecture.cost(entry.pixels, CLASSES)
        row = {
            **{"whose": entry.whose, "phi": entry.phi, "seed": seed, "accuracy": found["top1"], "loss": found["loss"]},
            **{"madds": cost.madds, "params": cost.params, "pixels": entry.pixels, "seconds": result["seconds"]},
            "architecture": str(entry.architecture),
        }
        rows.append(KEPT / f"trainings_{part}.csv", row)
        if entry.whose != OURS or seed:
            shutil.rmtree(RUNS / run)


def export() -> None:
    """Write the members of our family that were trained here as files, and keep what the check of these said."""
    tables = []
    for phi in PHIS:
        command("nas.export", f"runs/{OURS}-{phi}-0", "--to", FORMATS, "--out", f"runs/export-{phi}")
        tables.append(pd.read_csv(RUNS / f"export-{phi}" / "export.csv").assign(phi=phi))
    pd.concat(tables).to_csv(KEPT / "export.csv", index=False)


def report() -> None:
    """Write table.csv, whole_story.png and RESULT.md of what is there."""
    trained = rows.kept(KEPT, "trainings_*.csv").sort_values(["phi", "seed"], kind="stable")
    cells = trained.groupby(["phi", "whose"], sort=False)
    scores = rows.scores(trained, "phi", "whose")
    table = cells[["madds", "params", "pixels", "architecture"]].first()
    table = table.assign(
        accuracy=cells["accuracy"].mean(),
        trainings=cells.size(),
        seconds=cells["seconds"].median(),
        margin=[margin(scores, key) for key in scores],
    )
    table.to_csv(KEPT / "table.csv", float_format="%.6g")
    picture(table.reset_index())
    (KEPT / "RESULT.md").write_text(result(table.reset_index(), scores))


def picture(table: pd.DataFrame) -> None:
    """Accuracy against MAdds, a line for ours and for each of the published networks."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    colours = ("#1f6fb4", "#d1495b", "#2a9d5c", "#8a63b5", "#7fb2dd")
    for (whose, line), colour in zip(table.groupby("whose", sort=False), colours, strict=True):
        bars = 100 * line["margin"] if np.isfinite(line["margin"]).all() else None
        width = 2.4 if whose == OURS else 1.2
        label = "found here" if whose == OURS else str(whose)
        axes.errorbar(
            line["madds"], 100 * line["accuracy"], bars, fmt="o-", color=colour, lw=width, capsize=3, label=label
        )
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds per image, as trained")
    axes.set_ylabel(f"accuracy on {PARTS['test']:,} test images (%)")
    axes.set_title("A family found here beside published networks, one recipe for all", fontsize=11)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(KEPT / "whole_story.png", dpi=144)


def result(table: pd.DataFrame, scores: rows.Scores) -> str:
    """The text of RESULT.md."""
    deviation, freedom = noise(scores)
    lines = [
        f"| {row['phi']} | {row['whose']} | {format_count(row['madds'], 3)} | {format_count(row['params'], 3)} | "
        f"{row['pixels']} | {100 * row['accuracy']:.2f} ± {100 * row['margin']:.2f} | {row['trainings']} | "
        f"{row['seconds']:.0f} |"
        for row in table.to_dict("records")
    ]
    said = []
    for phi in PHIS:
        peers = [(phi, name) for name in PEERS]
        best = max(peers, key=lambda key: sum(scores[key]) / len(scores[key]))
        found = gap(scores, (phi, OURS), best)
        said.append(f"φ = {phi}: {100 * found.difference:+.2f} ± {100 * found.margin:.2f} points to {best[1]}")
    other = gap(scores, (PHIS[0], OTHER), (PHIS[0], OURS))
    images, small = f"{PARTS['train'] + PARTS['val']:,} images", sides()[0]
    return f"""# The whole way, from a space to trained networks

CIFAR-10 (JPEG). `nas.search --space mnas {" ".join(BUDGET)}`, else by its defaults, on {PARTS["train"]:,} images, then
`nas.scale`; then each network was trained on {images} for {EPOCHS} epochs by the recipe `default` of nas.train and
measured on {PARTS["test"]:,} others, which neither the search nor the scaling saw. MAdds are counted as trained.

![The front](pareto.png)

![Accuracy against multiply-adds](whole_story.png)

| φ | network | MAdds | params | px | accuracy, % | trainings | seconds |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

Ours to the best of the published: {"; ".join(said)}.

The smallest member has images of {small} pixels, the search {NATIVE}. The baseline of the same search on images of
{small} pixels, trained there: {100 * other.difference:+.2f} ± {100 * other.margin:.2f} points to ours.

Intervals: 95 %, from a deviation between seeds of {100 * deviation:.2f} points, pooled over all networks
({freedom} degrees of freedom); all on the same test images.

The trained family as files, and by how much their answers differ from its own: [export.csv](export.csv).

{available_cores()} CPU cores ({platform.machine()}), one thread a training, shared; Python {platform.python_version()},
{", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "optuna"))}; {date.today()}.
"""


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["find"]:
            find()
        case ["train", *words]:
            train_part(*(int(word) for word in words or ("0", "1")))
        case ["export"]:
            export()
        case ["report"]:
            report()
        case _:
            sys.exit(__doc__)
