"""Folders of images, one subfolder a class: found, decoded, and refused where they cannot be what was meant."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from nas.datasets.cache import FORMAT, SIZES, are_few, cache_directory, cached, check_memory, mapped
from nas.datasets.value import Dataset, split
from nas.errors import UserError
from nas.machine import available_cores

FOLDER_SIZE = 64  # of folders whose images are not smaller, unless told otherwise
FOLDER_SHARE = 1 / 6  # of a folder's images set aside when it has no val/
VAL_FOLDERS = ("val", "valid", "validation")
AHEAD = 2**28  # bytes of decoded images that may wait to be stored

Sample = tuple[Path, int]  # an image file and its label


def folder(root: Path, image_size: int | None, largest: int = FOLDER_SIZE) -> Dataset:
    """The images below a directory in RGB, from the cache when no byte of them has changed.

    Raises UserError when the layout is not one of those that `load` names, or too many images are broken.
    """
    top = root / "train" if (root / "train").is_dir() else root
    val_top = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if val_top and top == root:
        raise UserError(f"data {root}: has {val_top.name}/ but no train/ beside it")
    classes, train, others = _scan(top)
    if val_top:
        val_classes, val, more = _scan(val_top)
        if odd := set(classes) ^ set(val_classes):
            raise UserError(f"data {root}: class {min(odd)} is not in both train/ and {val_top.name}/")
        others += more
        note = f"validation: the {len(val):,} images of {val_top.name}/"
    else:
        names = [path.relative_to(top).as_posix() for path, _ in train]
        kept, aside = split(names, [label for _, label in train], FOLDER_SHARE)
        note = f"validation: {len(aside):,} of the {len(train):,} images, set aside class by class, by file name"
        train, val = [train[i] for i in kept], [train[i] for i in aside]
    size = image_size or _usual_size(train, largest)
    note += f"; resized by the shorter side and cropped to {size} pixels"
    if others:
        note += f"; {len(others)} files of other kinds ignored, the first {others[0].relative_to(root)}"
    count, place = len(train) + len(val), hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    path = cache_directory() / f"{root.name}-{place}-{size}.npz"  # one cache file per folder and size, no more
    if are_few(count, 3, size):
        key = _content_key(root, train + val, f"{FORMAT} {note}")
        return cached(
            path,
            key,
            lambda: _decoded(root, train, val, classes, torch.empty(count, 3, size, size, dtype=torch.uint8), note),
        )
    note += "; many, so read from a file while training"
    key = _content_key(root, train + val, f"{FORMAT} {note}")
    build = partial(_decoded, root, train, val, classes, note=note)
    return mapped(path.with_name(f"{path.stem}-mapped.npz"), key, count, size, build)


def test_folder(root: Path, data: Dataset) -> Dataset:
    """The images in test/ as the validation images of a Dataset without others, as `data`, of the same root, is.

    Raises UserError when there are none, or their classes are others.
    """
    top = root / "test"
    if not top.is_dir():
        raise UserError(f"data {root}: has no test images; they would be in test/CLASS/*")
    classes, samples, _ = _scan(top)
    if odd := set(classes) ^ set(data.classes):
        raise UserError(f"data {top}: class {min(odd)} is not in both train/ and test/")
    check_memory(len(samples), 3, data.image_size)
    good = list(_pixels(samples, data.image_size))
    if len(samples) - len(good) > len(samples) / 100:
        raise UserError(f"data {top}: {len(samples) - len(good)} of {len(samples)} images cannot be decoded")
    labels = torch.tensor([samples[i][1] for i, _ in good])
    images = torch.stack([pixels for _, pixels in good])
    note = f"the {len(good):,} images of test/"
    return Dataset(root.name, images[:0], labels[:0], images, labels, classes, data.flip, note)


def _scan(top: Path) -> tuple[tuple[str, ...], list[Sample], list[Path]]:
    """The classes in `top`, the images below them, the other files; all in order of name.

    Raises UserError when there are fewer than two classes, or one without images.
    """

    def visible(path: str | Path) -> bool:  # passes over .ipynb_checkpoints, ._cat.jpg, __MACOSX
        return not any(part.startswith((".", "__MACOSX")) for part in Path(path).relative_to(top).parts)

    try:
        classes = tuple(sorted(entry.name for entry in top.iterdir() if entry.is_dir() and visible(entry)))
    except OSError as error:
        raise UserError(f"data {top}: cannot be read ({error.strerror})") from error
    if len(classes) < 2:
        found = f"only {classes[0]}/" if classes else "none"
        raise UserError(f"data {top}: want two or more folders of images, one per class; found {found}")
    labels = {name: label for label, name in enumerate(classes)}
    files = make_dataset(str(top), labels, is_valid_file=visible, allow_empty=True)
    images = [(Path(file), label) for file, label in files if has_file_allowed_extension(file, IMG_EXTENSIONS)]
    others = [Path(file) for file, _ in files if not has_file_allowed_extension(file, IMG_EXTENSIONS)]
    if empty := set(labels.values()) - {label for _, label in images}:
        raise UserError(f"data {top / classes[min(empty)]}: want images in it ({' '.join(IMG_EXTENSIONS)})")
    return classes, images, others


def _usual_size(samples: Sequence[Sample], largest: int) -> int:
    """The largest, or the median shorter side of some 500 of the images, in steps of 4 pixels, if that is smaller."""
    sides = [largest]
    for path, _ in samples[:: max(1, len(samples) // 500)]:
        with suppress(Exception), Image.open(path) as image:  # a broken one is counted when decoded
            sides.append(min(image.size))
    return max(SIZES[0], min(largest, int(median(sides[1:] or sides)) // 4 * 4))


def _decoded(
    root: Path, train: list[Sample], val: list[Sample], classes: tuple[str, ...], images: torch.Tensor, note: str
) -> Dataset:
    """The Dataset of these files, its images written to the front of `images`, uint8 [count, 3, size, size].

    Raises UserError when over 1 % are broken, or all of a class in a part.
    """
    samples = train + val
    good: list[int] = []
    for i, pixels in _pixels(samples, images.shape[-1]):
        images[len(good)] = pixels
        good.append(i)
    if broken := sorted(set(range(len(samples))) - set(good)):
        first = samples[broken[0]][0].relative_to(root)
        if len(broken) > len(samples) / 100:
            raise UserError(
                f"data {root}: {len(broken)} of {len(samples)} images cannot be decoded, the first is "
                f"{first}; want 1 % at most: repair or remove them"
            )
        note += f"; {len(broken)} broken images skipped, the first {first}"
    labels = torch.tensor([samples[i][1] for i in good])
    border, end = sum(i < len(train) for i in good), len(good)
    for part, present in (("training", labels[:border]), ("validation", labels[border:])):
        if missing := set(range(len(classes))) - set(present.tolist()):
            raise UserError(f"data {root}: class {classes[min(missing)]} has too few images, none for {part}")
    parts = images[:border], labels[:border], images[border:end], labels[border:]
    return Dataset(root.name, *parts, classes, True, note)


def _pixels(samples: list[Sample], size: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Number and pixels of each image that is not broken, in order.

    Threads decode, for PIL works outside of Python's lock; they are never so far ahead that much waits in memory.
    """
    ahead = max(16, AHEAD // (3 * size**2))
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        for start in range(0, len(samples), ahead):
            part = samples[start : start + ahead]
            for i, pixels in enumerate(pool.map(lambda sample: _decode(sample[0], size), part), start):
                if pixels is not None:
                    yield i, pixels


def _decode(path: Path, size: int) -> torch.Tensor | None:
    """The upright image's centre square, scaled with antialiasing: uint8 [3, size, size]; None if broken."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))  # a large JPEG is decoded no larger than needed
            square = ImageOps.fit(_rgb(ImageOps.exif_transpose(image)), (size, size))
            pixels: torch.Tensor = pil_to_tensor(square)
            return pixels
    except Exception:  # PIL's decoders meet broken bytes with errors of every class
        return None


def _rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, on white where transparent. Raises ValueError where the range is unknown."""
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # 16 bits; convert() would clip all but the darkest to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _content_key(root: Path, samples: Sequence[Sample], heading: str) -> str:
    """A sha256 over names and bytes: times and sizes can lie (cp -p, checkouts), bytes cannot."""

    def content(sample: Sample) -> bytes:
        with suppress(OSError), open(sample[0], "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
        return bytes(32)  # unreadable: decoding will count it as broken

    digest = hashlib.sha256(os.fsencode(heading))
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        for (path, _), value in zip(samples, pool.map(content, samples), strict=True):
            digest.update(os.fsencode(path.relative_to(root)) + b"\0" + value)
    return digest.hexdigest()
