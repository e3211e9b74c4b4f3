"""Data sets: the embedded default, named ones, folders of images; decoded once, split for training and validation.

Search sees training and validation images only: validation images always come from a set's training part; test images
are opened by `load_test` alone.
"""

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torchvision

from nas.base.errors import UserError
from nas.datasets.batches import resized
from nas.datasets.cache import FORMAT, SIZES, cache_directory, cached, check_memory, read, save, save_if_possible
from nas.datasets.folders import folder, test_folder
from nas.datasets.validation import hold_out, split
from nas.datasets.value import RESIZES, Dataset, Source, Stored

__all__ = [
    "DEFAULT",
    "EMBEDDED",
    "FORMAT",
    "RESIZES",
    "Dataset",
    "Source",
    "Stored",
    "cache_directory",
    "hold_out",
    "load",
    "load_data",
    "load_test",
    "read",
    "save",
    "split",
]

DEFAULT = "fashion-mnist-20k"
FORMER = "fashion-mnist-12k"  # the default of older versions, with 2,000 validation images
EMBEDDED = Path(__file__).parent / "fashion_mnist" / "fashion_mnist_20k.npz"


def load(source: Source | str = DEFAULT, **reading: Any) -> Dataset:
    """The data set of that name, or the images of that folder.

    source: a key of `LOADERS`, or a directory with `train/CLASS/*` and perhaps `val/CLASS/*` and `test/CLASS/*`, or
    with `CLASS/*`. Splits may be called training, valid, validation, dev, testing and eval, too, in any case. A named
    set is downloaded once. A folder too large for memory is decoded into a file, from which training reads. reading:
    other fields of `Source`, such as image_size and resize. Raises UserError for wrong arguments, for data that cannot
    be used or does not fit into memory, and if the images that another process stored are gone and those found differ
    from them.
    """
    request = Source(name=source, **reading) if isinstance(source, str) else replace(source, **reading)
    if request.stored:
        with suppress(Exception):  # another machine, or the cache was emptied or replaced meanwhile
            kept = read(request.stored.path, request.stored.key)
            if kept.stored == request.stored:
                return kept
    found = _load(request)
    if request.stored and found.fingerprint != request.stored.fingerprint:
        raise UserError(
            f"data {request.name} differs from that of the machine that started the command; make them equal"
        )
    return found


def _load(source: Source) -> Dataset:
    """The images of a source, whether or not another process has stored them."""
    name, size = source.name, source.image_size
    if size is not None and size not in SIZES:
        raise UserError(f"image size {size}: want {SIZES[0]} to {SIZES[-1]} pixels")
    if source.resize not in RESIZES:
        raise UserError(f"resize {str(source.resize)[:40]!r}: want one of {', '.join(RESIZES)}")
    if name in LOADERS:
        return _resized(LOADERS[name](), size)
    path = Path(os.path.expanduser(name))
    if name and path.is_dir():
        root = Path(os.path.abspath(path))
        found = folder(root, replace(source, value_range=None))
        if source.value_range and found.value_range not in (None, source.value_range):
            found = folder(root, replace(source, recheck=False))
        return found
    if name and path.exists():
        raise UserError(f"data {name}: is a file; want a folder with one subfolder of images per class")
    near = difflib.get_close_matches(name.lower(), LOADERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"data {name!r}: no such folder and no known name ({', '.join(LOADERS)}){hint}")


@lru_cache(maxsize=2)
def load_data(source: Source) -> Dataset:
    """`load`, once in each process; raises UserError."""
    return load(source)


def load_test(source: Source, data: Dataset) -> Dataset:
    """The test images of the data set that was loaded from this source, of its size, as `val_images`.

    They are for the final evaluation of one trained network: neither a search nor an unfinished training may use them.
    Named sets have their own, a folder has them in test/. Raises UserError where there are none.
    """
    name = source.name
    if name in KINDS:
        return _resized(_torchvision(name, train=False), data.image_size)
    path = Path(os.path.expanduser(name))
    if name in LOADERS or not path.is_dir():
        raise UserError(f"data {name}: has no test images; {', '.join(KINDS)} have, and folders with test/CLASS/*")
    return test_folder(Path(os.path.abspath(path)), data, source.skip_broken)


def _torchvision(name: str, train: bool = True) -> Dataset:
    """The training or else the test images of a set in `torchvision.datasets`, downloaded once.

    Raises UserError if that fails.
    """
    path = cache_directory() / f"{name}{'' if train else '-test'}.npz"

    def download() -> Dataset:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A temporary folder: what an interrupted download leaves behind is never taken for the data.
            with TemporaryDirectory(dir=path.parent) as folder:
                raw = getattr(torchvision.datasets, KINDS[name])(folder, train=train, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            remedy = f"copy {path} from a machine that has it, or use {DEFAULT}, which needs no download"
            raise UserError(f"data {name}: cannot be downloaded ({reason}); {remedy}") from error
        pixels = torch.as_tensor(raw.data)
        images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        labels = torch.as_tensor(raw.targets)
        data = (
            hold_out(name, images, labels, raw.classes, flip=True)
            if train
            else Dataset(name, images[:0], labels[:0], images, labels, tuple(raw.classes), True, "its test images")
        )
        return save_if_possible(data, path, FORMAT)

    return cached(path, FORMAT, download)


def _fashion_mnist_12k() -> Dataset:
    """The default of older versions: the same training images, and a fifth of the validation images."""
    data = read(EMBEDDED)
    _, fifth = split([str(i) for i in range(len(data.val_labels))], data.val_labels.tolist(), 1 / 5)
    note = "validation: 2,000 of the 60,000 training images of Fashion-MNIST, 10,000 others to train on"
    return replace(data, name=FORMER, val_images=data.val_images[fifth], val_labels=data.val_labels[fifth], note=note)


def _digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey. Raises UserError when scikit-learn is absent."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("data digits: needs scikit-learn; pip install 'compound-nas[digits]'") from None
    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8))[:, None]
    classes = [str(digit) for digit in raw.target_names]
    return hold_out("digits", images, torch.from_numpy(raw.target).long(), classes, flip=False)


KINDS = {  # from a name to its class in torchvision.datasets
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}

LOADERS: dict[str, Callable[[], Dataset]] = {
    DEFAULT: lambda: read(EMBEDDED),
    **{name: partial(_torchvision, name) for name in KINDS},
    "digits": _digits,
    FORMER: _fashion_mnist_12k,
}


def _resized(data: Dataset, size: int | None) -> Dataset:
    """The same data set at `size` pixels, antialiased. Raises UserError when it would not fit in memory."""
    if size is None or size == data.image_size:
        return data
    check_memory(len(data.train_labels) + len(data.val_labels), data.channels, size)
    note = f"{data.note}; resized from {data.image_size} to {size} pixels"
    train, val = resized(data.train_images, size), resized(data.val_images, size)
    return replace(data, train_images=train, val_images=val, note=note, stored=None)
