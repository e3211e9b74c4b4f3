"""Make the embedded default: a fifth of the training part of `fashion-mnist` and its 10,000 validation images.

    python experiments/embedded_data.py FOLDER [FILE]

FOLDER holds the original train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz of Fashion-MNIST (on
Debian: apt-get install dataset-fashion-mnist). The same images give the same FILE, byte for byte. The full set
has the same validation images, so a network searched on this one and trained on that one never meets them in
training.
"""

import sys
from dataclasses import replace
from pathlib import Path

from shared_images import idx
from torchvision.datasets import FashionMNIST

from nas import datasets


def subset(folder: Path) -> datasets.Dataset:
    """The embedded data set, made from the original files."""
    full = datasets.hold_out("fashion-mnist", *idx(folder), FashionMNIST.classes, flip=True)
    labels = full.train_labels
    _, fifth = datasets.split([str(i) for i in range(len(labels))], labels.tolist(), 1 / 5)
    note = "validation: 10,000 of the 60,000 training images of Fashion-MNIST, 10,000 others to train on"
    return replace(
        full, name=datasets.DEFAULT, train_images=full.train_images[fifth], train_labels=labels[fifth], note=note
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    target = Path(sys.argv[2]) if len(sys.argv) == 3 else datasets.EMBEDDED
    datasets.save(subset(Path(sys.argv[1])), target, compress=True)
    print(f"{target.name}: {target.stat().st_size:,} bytes")
