"""Make the embedded default: one fifth of both parts of `fashion-mnist`, 10,000 + 2,000 images.

    python experiments/embedded_data.py FOLDER [FILE]

FOLDER holds the original train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz of Fashion-MNIST (on
Debian: apt-get install dataset-fashion-mnist). The same images give the same FILE, byte for byte. Both parts
lie within the same parts of the full set, so a network searched on this one and trained on that one never
meets its validation images in training.
"""

import gzip
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.datasets import FashionMNIST

from nas import datasets


def training_images(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The 60,000 training images, uint8 [n, 1, 28, 28], and labels, int64 [n], from the idx files."""
    pixels = bytearray(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()))
    labels = bytearray(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()))
    images = torch.frombuffer(pixels, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    return images, torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()


def one_fifth(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed fifth of every class."""
    _, chosen = datasets.split([str(i) for i in range(len(labels))], labels.tolist(), 1 / 5)
    return images[chosen], labels[chosen]


def subset(folder: Path) -> datasets.Dataset:
    """The embedded data set, made from the original files."""
    full = datasets.hold_out("fashion-mnist", *training_images(folder), FashionMNIST.classes, share=1 / 6, flip=True)
    train_images, train_labels = one_fifth(full.train_images, full.train_labels)
    val_images, val_labels = one_fifth(full.val_images, full.val_labels)
    return replace(
        full,
        name=datasets.DEFAULT,
        train_images=train_images,
        train_labels=train_labels,
        val_images=val_images,
        val_labels=val_labels,
        note="validation: 2,000 of the 60,000 training images of Fashion-MNIST, 10,000 others to train on",
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    target = Path(sys.argv[2]) if len(sys.argv) == 3 else datasets.EMBEDDED
    datasets.save(subset(Path(sys.argv[1])), target, compress=True)
    print(f"{target.name}: {target.stat().st_size:,} bytes")
