"""Folders of images, one subfolder a class: found, decoded, and refused where they cannot be what was meant."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset

from nas.datasets.cache import SIZES, are_few, cache_directory, cached, check_memory, mapped
from nas.datasets.decode import DECODING, Decoding, Traits, decode, find_range, summary
from nas.datasets.manifest import digests
from nas.datasets.value import Dataset, ValueRange, split
from nas.errors import UserError

FOLDER_SIZE = 64  # of folders whose images are not smaller, unless told otherwise
FOLDER_SHARE = 1 / 6  # of a folder's images set aside when it has no val/
VAL_FOLDERS = ("val", "valid", "validation")
AHEAD = 2**28  # bytes of decoded images that may wait to be stored

Sample = tuple[Path, int]  # an image file and its label


def folder(
    root: Path,
    image_size: int | None,
    largest: int = FOLDER_SIZE,
    resize: str = "crop",
    skip_broken: bool = False,
    recheck: bool = False,
    value_range: ValueRange | None = None,
) -> Dataset:
    """The images below a directory in RGB, from the cache when none of them has changed.

    value_range: None for that of the training images. The other arguments are those of `load`.
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
    how = Decoding(image_size or _usual_size(train, largest, resize), resize, value_range)
    note += f"; {how}"
    if others:
        note += f"; {len(others)} files of other kinds ignored, the first {others[0].relative_to(root)}"
    count, files = len(train) + len(val), [path for path, _ in train + val]
    few = are_few(count, 3, how.size)
    if not few:
        note += "; many, so read from a file while training"
    path = _cache_file(root, how)
    contents = digests(root, files, _manifest(root), recheck)
    key = _key(f"{DECODING} {how} {value_range} {skip_broken} {note}", root, files, contents)
    build = partial(_decoded, root, train, val, classes, how=how, note=note, skip_broken=skip_broken)
    if few:
        room = partial(torch.empty, count, 3, how.size, how.size, dtype=torch.uint8)
        return cached(path, key, lambda: build(images=room()), recheck)
    return mapped(
        path.with_name(f"{path.stem}-mapped.npz"), key, count, how.size, lambda room: build(images=room), recheck
    )


def _place(root: Path) -> str:
    """How the names of a folder's files in the cache begin; its own name may be too long, or no text."""
    name = os.fsencode(root.name)[:100].decode(errors="ignore")
    return f"{name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


def _cache_file(root: Path, how: Decoding) -> Path:
    """One file for each way to decode a folder, no more."""
    words = [_place(root), str(how.size)]
    words += [how.resize] if how.resize != "crop" else []
    words += ["{:g}-{:g}".format(*how.value_range)] if how.value_range else []
    return cache_directory() / f"{'-'.join(words)}.npz"


def _manifest(root: Path) -> Path:
    return cache_directory() / f".{_place(root)}.manifest"


def _key(heading: str, root: Path, files: Sequence[Path], contents: Sequence[bytes]) -> str:
    """A sha256 over a heading and the names and contents of files."""
    digest = hashlib.sha256(os.fsencode(heading))
    for path, content in zip(files, contents, strict=True):
        digest.update(os.fsencode(str(path).removeprefix(str(root))) + b"\0" + content)
    return digest.hexdigest()


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
    good = list(_pixels(samples, Decoding(data.image_size, data.resize, data.value_range)))
    if len(samples) - len(good) > len(samples) / 100:
        raise UserError(f"data {top}: {len(samples) - len(good)} of {len(samples)} images cannot be decoded")
    labels = torch.tensor([samples[i][1] for i, _, _ in good])
    images = torch.stack([pixels for _, pixels, _ in good])
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


def _usual_size(samples: Sequence[Sample], largest: int, resize: str) -> int:
    """The largest, or the median side of some 500 of the images, in steps of 4 pixels, if that is smaller.

    It is their shorter side, but for images that are padded, which keep their longer side.
    """
    sides = [largest]
    for path, _ in samples[:: max(1, len(samples) // 500)]:
        with suppress(Exception), Image.open(path) as image:  # a broken one is counted when decoded
            sides.append(max(image.size) if resize == "pad" else min(image.size))
    return max(SIZES[0], min(largest, int(median(sides[1:] or sides)) // 4 * 4))


def _decoded(
    root: Path,
    train: list[Sample],
    val: list[Sample],
    classes: tuple[str, ...],
    *,
    images: torch.Tensor,
    how: Decoding,
    note: str,
    skip_broken: bool,
) -> Dataset:
    """The Dataset of these files, its images written to the front of `images`, uint8 [count, 3, size, size].

    Raises UserError when over 1 % are broken, unless they are to be skipped, or all of a class in a part.
    """
    samples = train + val
    if how.value_range is None:
        how = replace(how, value_range=find_range(root, [path for path, _ in train]))
    good: list[int] = []
    traits: list[Traits] = []
    for i, pixels, about in _pixels(samples, how):
        images[len(good)] = pixels
        good.append(i)
        traits.append(about)
    if broken := sorted(set(range(len(samples))) - set(good)):
        first = samples[broken[0]][0].relative_to(root)
        if len(broken) > len(samples) / 100 and not skip_broken:
            raise UserError(
                f"data {root}: {len(broken)} of {len(samples)} images cannot be decoded, the first is "
                f"{first}; want 1 % at most: repair or remove them"
            )
        note += f"; {len(broken)} broken images skipped, the first {first}"
    note = "; ".join([note, *summary(how, traits)])
    labels = torch.tensor([samples[i][1] for i in good])
    border, end = sum(i < len(train) for i in good), len(good)
    for part, present in (("training", labels[:border]), ("validation", labels[border:])):
        if missing := set(range(len(classes))) - set(present.tolist()):
            raise UserError(f"data {root}: class {classes[min(missing)]} has too few images, none for {part}")
    parts = images[:border], labels[:border], images[border:end], labels[border:]
    return Dataset(root.name, *parts, classes, True, note, resize=how.resize, value_range=how.value_range)


def _pixels(samples: list[Sample], how: Decoding) -> Iterator[tuple[int, torch.Tensor, Traits]]:
    """Number, pixels and traits of each image that is not broken, in order.

    Threads decode, for PIL works outside of Python's lock; they are never so far ahead that much waits in memory.
    """
    ahead = max(16, AHEAD // (3 * how.size**2))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), ahead):
            part = samples[start : start + ahead]
            for i, found in enumerate(pool.map(lambda sample: _decode(sample[0], how), part), start):
                if found is not None:
                    yield i, *found


def _decode(path: Path, how: Decoding) -> tuple[torch.Tensor, Traits] | None:
    """The image's pixels and traits, None if it is broken."""
    try:
        return decode(path, how)
    except Exception:
        return None
