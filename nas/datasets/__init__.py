"""Data sets: the embedded default, named ones, folders of images - all decoded once and split in two.

Below the proxy trainer, above nothing but `errors`. Search sees training and validation images only:
validation images always come from a set's training part; test images are opened by `load_test` alone.
"""

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torchvision
from torchvision.transforms.v2.functional import resize

from nas.base.errors import UserError
from nas.datasets.cache import FORMAT, SIZES, cache_directory, cached, check_memory, in_file, read, save, stored
from nas.datasets.folders import FOLDER_SIZE, folder, test_folder
from nas.datasets.value import RESIZES, Dataset, Source, Stored, ValueRange, hold_out, split

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
    "in_file",
    "load",
    "load_source",
    "load_test",
    "read",
    "save",
    "split",
]

DEFAULT = "fashion-mnist-12k"
EMBEDDED = Path(__file__).parent / "fashion_mnist" / "fashion_mnist_12k.npz"


def load(
    source: str | None = None,
    *,
    image_size: int | None = None,
    largest: int = FOLDER_SIZE,
    resize: str = "crop",
    skip_broken: bool = False,
    recheck: bool = False,
    value_range: ValueRange | None = None,
) -> Dataset:
    """The data set of that name, or the images of that folder.

    `source`: a key of `LOADERS` (None: the embedded default), or a directory with `train/CLASS/*` and perhaps
    `val/CLASS/*` and `test/CLASS/*`, or with `CLASS/*`. Splits may be called training, valid, validation, dev, testing
    and eval, too, in any case. `image_size`: 8 to 1024 pixels; None keeps a named set as it is and gives a folder
    `largest`, or less if its images are smaller. A named set is downloaded once. A folder too large for memory is
    decoded into a file, from which training reads.
    `resize`: how an image becomes square: its centre is cropped, it is padded with black, or stretched.
    `skip_broken`: leave out images that cannot be decoded, instead of refusing more than 1 % of them. `recheck`: read
    every file again, even if its size and times are those of the last time. `value_range`: the pixel values that
    become 0 and 255 in images with more than 8 bits; None for the lowest and highest of the training images.
    Raises UserError for every mistake in these, and for data that cannot be used or finds no room.
    """
    source = DEFAULT if source is None else source
    if image_size is not None and image_size not in SIZES:
        raise UserError(f"image size {image_size}: want {SIZES[0]} to {SIZES[-1]} pixels")
    if resize not in RESIZES:
        raise UserError(f"resize {str(resize)[:40]!r}: want one of {', '.join(RESIZES)}")
    if source in LOADERS:
        return _resized(LOADERS[source](), image_size)
    path = Path(os.path.expanduser(source))
    if source and path.is_dir():
        root, size = Path(os.path.abspath(path)), min(largest, SIZES[-1])
        found = folder(root, image_size, size, resize, skip_broken, recheck)
        if value_range and found.value_range not in (None, value_range):
            found = folder(root, image_size, size, resize, skip_broken, value_range=value_range)
        return found
    if source and path.exists():
        raise UserError(f"data {source}: is a file; want a folder with one subfolder of images per class")
    near = difflib.get_close_matches(source.lower(), LOADERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"data {source!r}: no such folder and no known name ({', '.join(LOADERS)}){hint}")


def load_source(
    source: Source,
    image_size: int | None = None,
    largest: int = FOLDER_SIZE,
    value_range: ValueRange | None = None,
) -> Dataset:
    """The images of a source: those that another process has stored, if they are here, else as `load` finds them.

    Raises UserError as `load` does, and where they are not those of the other process.
    """
    if source.stored:
        with suppress(Exception):  # another machine, or the cache was emptied or replaced meanwhile
            return stored(source.stored)
    found = load(
        source.name,
        image_size=image_size,
        largest=largest,
        resize=source.resize,
        skip_broken=source.skip_broken,
        recheck=source.recheck,
        value_range=value_range,
    )
    if source.stored and found.fingerprint != source.stored.fingerprint:
        raise UserError(f"data {source.name} is not what it is where the command was started; make them the same")
    return found


def load_test(source: str, data: Dataset, *, skip_broken: bool = False) -> Dataset:
    """The test images of the data set that was loaded from this source, of its size, as `val_images`.

    They are for the last word on one network that is trained: a search, or a training before its end, must not see
    them. Named sets have their own, a folder has them in test/. Raises UserError where there are none.
    """
    if source in KINDS:
        return _resized(_torchvision(source, train=False), data.image_size)
    path = Path(os.path.expanduser(source))
    if source in LOADERS or not path.is_dir():
        raise UserError(f"data {source}: has no test images; {', '.join(KINDS)} have, and folders with test/CLASS/*")
    return test_folder(Path(os.path.abspath(path)), data, skip_broken)


def _torchvision(name: str, train: bool = True) -> Dataset:
    """The training or else the test images of a set in `torchvision.datasets`, downloaded once.

    Raises UserError if that fails.
    """
    path = cache_directory() / f"{name}{'' if train else '-test'}.npz"
    kind, share = KINDS[name]

    def build() -> Dataset:
        remedy = f"copy {path} from a machine that has it, or use {DEFAULT}, which needs no download"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A temporary folder: what an interrupted download leaves behind is never taken for the data.
            with TemporaryDirectory(dir=path.parent) as folder:
                raw = getattr(torchvision.datasets, kind)(folder, train=train, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"data {name}: cannot be downloaded ({reason}); {remedy}") from error
        pixels = torch.as_tensor(raw.data)
        images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        labels = torch.as_tensor(raw.targets)
        if train:
            return hold_out(name, images, labels, raw.classes, share, flip=True)
        return Dataset(name, images[:0], labels[:0], images, labels, tuple(raw.classes), True, "its test images")

    return cached(path, FORMAT, lambda: (build(), b""))


def _digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey. Raises UserError when scikit-learn is absent."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("data digits: needs scikit-learn; pip install 'compound-nas[digits]'") from None
    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8))[:, None]
    classes = [str(digit) for digit in raw.target_names]
    return hold_out("digits", images, torch.from_numpy(raw.target).long(), classes, 1 / 6, flip=False)


# From a name to its class in torchvision.datasets, and the share of its training images to validate with.
KINDS = {
    "fashion-mnist": ("FashionMNIST", 1 / 6),
    "cifar10": ("CIFAR10", 1 / 10),
    "cifar100": ("CIFAR100", 1 / 10),
}

LOADERS: dict[str, Callable[[], Dataset]] = {
    DEFAULT: lambda: read(EMBEDDED),
    **{name: partial(_torchvision, name) for name in KINDS},
    "digits": _digits,
}


def _resized(data: Dataset, size: int | None) -> Dataset:
    """The same data set at `size` pixels, antialiased. Raises UserError when it would not fit in memory."""
    if size is None or size == data.image_size:
        return data
    check_memory(len(data.train_labels) + len(data.val_labels), data.channels, size)

    def scaled(images: torch.Tensor) -> torch.Tensor:  # in pieces: some paths go through float32
        return torch.cat([resize(piece, [size, size], antialias=True) for piece in torch.split(images, 1024)])

    note = f"{data.note}; resized from {data.image_size} to {size} pixels"
    train, val = scaled(data.train_images), scaled(data.val_images)
    return replace(data, train_images=train, val_images=val, note=note, stored=None)
