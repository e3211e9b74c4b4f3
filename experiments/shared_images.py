"""The images in ../shared, beside the project: JPEG files and their labels. Only experiments read them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def jpegs(name: str, part: str) -> tuple[list[bytes], list[int]]:
    """All files of a part of a data set, and their labels."""
    with np.load(FOLDER / name / f"{part}_jpeg.npz") as file:
        blob, offsets, labels = (file[key] for key in ("blob", "offsets", "labels"))
    return [blob[a:b].tobytes() for a, b in pairwise(offsets)], labels.tolist()


def pixels(files: Sequence[bytes]) -> torch.Tensor:
    """The images decoded in RGB: uint8 [n, 3, h, w]."""
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def write_cifar10(folder: Path, parts: Mapping[str, int], places: Mapping[str, str], side: int = 32) -> None:
    """Write so many images of each part as PNG files, PLACE/CLASS/*; those of a part without a place are left out.

    Parts take their images one after the other, so the same ones wherever these go, of `side` pixels.
    """
    names = (FOLDER / "cifar10/classes.txt").read_text().split()
    files, labels = jpegs("cifar10", "train")
    order = iter(np.random.default_rng(0).permutation(len(labels)).tolist())
    for part, count in parts.items():
        for i in [next(order) for _ in range(count)]:
            if part in places:
                file = folder / places[part] / names[labels[i]] / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image = Image.open(io.BytesIO(files[i]))
                image.resize((side, side), Image.Resampling.BILINEAR).save(file)


def idx(folder: Path, part: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """The images of a part of Fashion-MNIST, uint8 [n, 1, 28, 28], and labels, int64 [n], from its idx files."""
    pixels = bytearray(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()))
    labels = bytearray(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()))
    images = torch.frombuffer(pixels, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    return images, torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()
