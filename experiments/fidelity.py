"""How well a brief training, or none, ranks networks as a long one does - against what it costs.

    python experiments/fidelity.py train [PART OF]     # hours; e.g. "train 0 2" and "train 1 2" side by side
    python experiments/fidelity.py report              # zero-cost scores, Kendall's tau, picture, RESULT.md

40 networks of mnas drawn uniformly with at most 400M MAdds (counted at 224 px, 1000 classes), on CIFAR-10 from
../shared at its own 32 px. `long` is the yardstick; every fifth network has it with three seeds. Training writes a row
per training to experiments/fidelity/curves_PART.csv and repeats none that is there, so it can be stopped at any time.
Each part runs on one thread; compute is its processor time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from nas import Architecture, SearchSpace
from nas.datasets import Dataset, split
from nas.proxy import Recipe, train

KEPT = Path(__file__).resolve().parent / "fidelity"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
NETWORKS, BUDGET, SEEDS, EVERY = 40, 400e6, 3, 5
TRAIN, VAL = 12_000, 3_000


@dataclass(frozen=True)
class Way:
    """A training: epochs, share of the training images, image size in pixels, width factor, largest shift."""

    epochs: int = 1
    share: float = 1.0
    pixels: int = 32
    width: float = 1.0
    shift: float = 0.0


LONG = "long"
WAYS = {
    "1 epoch": Way(),
    "1 epoch, half of the images": Way(share=0.5),
    "1 epoch, quarter of the images": Way(share=0.25),
    "1 epoch, 16 px": Way(pixels=16),
    "1 epoch, quarter of the images, 16 px": Way(share=0.25, pixels=16),
    "1 epoch, half the width": Way(width=0.5),
    "2 epochs": Way(epochs=2),
    "4 epochs, quarter of the images": Way(epochs=4, share=0.25),
    LONG: Way(epochs=6, shift=0.125),
}


def networks() -> list[Architecture]:
    """The networks, drawn uniformly under the budget."""
    space = SearchSpace.load("mnas")
    return [space.sample(seed=seed, max_madds=BUDGET) for seed in range(NETWORKS)]


def cifar(share: float) -> Dataset:
    """A share of TRAIN images, and VAL others, of CIFAR-10's training part; the classes are equally frequent."""
    with np.load(SHARED / "train_jpeg.npz") as file:
        blob, offsets, labels = (file[name] for name in ("blob", "offsets", "labels"))
    rest, val = split([str(i) for i in range(len(labels))], labels.tolist(), VAL / len(labels))
    train_part = rest[: round(TRAIN * share)]  # classes take turns in the file

    def decoded(chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        images = [np.asarray(Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]].tobytes()))) for i in chosen]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return pixels, torch.from_numpy(labels[chosen].astype(np.int64))

    classes = tuple((SHARED / "classes.txt").read_text().split())
    return Dataset("cifar10", *decoded(train_part), *decoded(val), classes, True, "JPEG")


def tasks() -> Iterator[tuple[int, str, int]]:
    """Network, way, seed: all ways for one network after the other, then the long training with further seeds."""
    yield from ((i, name, 0) for i in range(NETWORKS) for name in WAYS)
    yield from ((i, LONG, seed) for i in range(0, NETWORKS, EVERY) for seed in range(1, SEEDS))
    yield from ((i, "1 epoch", 1) for i in range(NETWORKS))


def train_part(part: int, of: int) -> None:
    """Train every `of`-th network from `part` on: what no file holds yet."""
    torch.set_num_threads(1)
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"curves_{part}.csv"
    known = kept()
    done = set(zip(known["network"], known["way"], known["seed"], strict=True)) if len(known) else set()
    data = {share: cifar(share) for share in {way.share for way in WAYS.values()}}
    drawn = networks()
    for i, name, seed in tasks():
        if i % of != part or (i, name, seed) in done:
            continue
        way = WAYS[name]
        arch = drawn[i] if way.width == 1 else drawn[i].scale(1, way.width, 1)
        recipe = Recipe(epochs=way.epochs, image_size=way.pixels, shift=way.shift)
        began = time.process_time()
        outcome = train(arch, data[way.share], recipe, seed, "cpu")
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
        pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False)
        print(i, name, seed, f"{outcome.accuracy:.4f}", row["compute"], flush=True)


def kept() -> pd.DataFrame:
    """All rows that trainings have written."""
    files = sorted(KEPT.glob("curves_*.csv"))
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train_part(*(int(word) for word in sys.argv[2:] or ("0", "1")))
