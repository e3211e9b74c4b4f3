"""Folders of images, one subfolder a class: decoded, kept in the cache, and refused where too many are broken."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

import torch
from PIL import Image, UnidentifiedImageError

from nas.base.errors import UserError
from nas.base.machine import available_cores
from nas.datasets import cache
from nas.datasets.cache import SIZES, Built, fit_in_memory
from nas.datasets.decode import DECODING, Decoding, Traits, decode, find_range, summary
from nas.datasets.layout import MANY, class_name, readable_formats, shown
from nas.datasets.parts import File, Parts, find, find_test
from nas.datasets.value import Dataset, Source

AHEAD = 2**28  # bytes of decoded images that may wait to be stored

Decoded = tuple[torch.Tensor, Traits]


def folder(root: Path, source: Source) -> Dataset:
    """The images below a folder in RGB, read as the source says; unchanged files come from the cache.

    Raises UserError if the layout is none that `load` describes, or over 1 % of the images are broken and not to be
    skipped.
    """
    parts = find(root, recheck=source.recheck)
    how = Decoding(source.image_size or _usual_size(parts.train, source), source.resize, source.value_range)
    count = len(parts.train) + len(parts.val)
    few = fit_in_memory(count, 3, how.size)
    note = f"; {how}" if few else f"; {how}; many, so read from a file while training"
    path = _cache_file(root, how, "" if few else "-mapped")
    key = _key(f"{DECODING} {how} {how.value_range} {source.skip_broken} {parts.note}{note}", parts)
    build = partial(_decoded, parts, source.skip_broken, how, note, path)

    def make() -> Dataset:
        if not few:
            return cache.save_memory_mapped(path, key, count, how.size, build)
        data, extra = build(torch.empty(count, 3, how.size, how.size, dtype=torch.uint8))
        return cache.save_if_possible(data, path, key, extra)

    return cache.cached(path, key, make, source.recheck)


def _cache_file(root: Path, how: Decoding, ending: str) -> Path:
    """The cache file of a folder: one for each way to decode it."""
    words = [cache.cache_name(root), str(how.size)]
    words += [how.resize] if how.resize != "crop" else []
    words += ["{:g}-{:g}".format(*how.value_range)] if how.value_range else []
    return cache.cache_directory() / f"{'-'.join(words)}{ending}.npz"


def _key(heading: str, parts: Parts) -> str:
    """A sha256 over a heading and the names and contents of files."""
    digest = hashlib.sha256(os.fsencode(heading))
    for file in parts.train + parts.val:
        name = str(file.path).removeprefix(str(parts.root))
        digest.update(os.fsencode(name) + b"\0" + (file.content.digest or bytes(32)))
    return digest.hexdigest()


def _usual_size(files: Sequence[File], source: Source) -> int:
    """`source.largest`, or the median side of about 500 images in steps of 4 pixels, if that is smaller.

    The side is the shorter one, or the longer one if images are padded.
    """
    largest, side, formats = min(source.largest, SIZES[-1]), max if source.resize == "pad" else min, readable_formats()
    sides: list[int] = []
    for file in files[:: max(1, len(files) // 500)]:
        with suppress(Exception), Image.open(file.path, formats=formats) as image:  # a broken one is counted later
            sides.append(side(image.size))
    return max(SIZES[0], min(largest, int(median(sides or [largest])) // 4 * 4))


def test_folder(root: Path, data: Dataset, skip_broken: bool) -> Dataset:
    """The images in test/ as validation images of a Dataset without training images, decoded as `data` was.

    Raises UserError if there are none, their classes differ, or over 1 % are broken and not to be skipped.
    """
    files, note = find_test(root, data.classes)
    cache.check_memory(len(files), 3, data.image_size)
    how = Decoding(data.image_size, data.resize, data.value_range)
    images = torch.empty(len(files), 3, how.size, how.size, dtype=torch.uint8)
    good, traits, broken = _read(files, how, {}, images)
    note += _skipped(root, broken, len(files), skip_broken)
    if not good:
        raise UserError(f"data {shown(root)}: none of its test images can be read")
    note = "; ".join([note, *summary(how, traits)])
    labels = torch.tensor([file.label for file in good])
    return Dataset(data.name, images[:0], labels[:0], images[: len(good)], labels, data.classes, data.flip, note)


def _decoded(parts: Parts, skip_broken: bool, how: Decoding, note: str, path: Path, images: torch.Tensor) -> Built:
    """The Dataset of these files, its images written to the front of `images`, uint8 [count, 3, size, size].

    Those that are in the cache at `path` are not decoded again. With it come the bytes that `_already_decoded` reads.
    Raises UserError if over 1 % are broken and not to be skipped, or if no image of a class is left in a part.
    """
    root, files, ranged = parts.root, parts.train + parts.val, how
    if how.value_range is None:
        values = find_range(root, [(file.path, file.content.extremes) for file in parts.train])
        ranged = replace(how, value_range=values)
    good, traits, broken = _read(files, ranged, _already_decoded(path, ranged), images)
    skipped = _skipped(root, broken, len(files), skip_broken)
    labels = torch.tensor([file.label for file in good], dtype=torch.int64)
    border, end = sum(file.path not in broken for file in parts.train), len(good)
    for part, present in (("training", labels[:border]), ("validation", labels[border:])):
        if missing := set(range(len(parts.classes))) - set(present.tolist()):
            if broken and parts.split_here:  # among the images that are left there may be some for it
                return _decoded(find(root, broken), skip_broken, how, note + skipped, path, images)
            name = shown(parts.classes[min(missing)])
            raise UserError(
                f"data {shown(root)}: class {name} has too few images, none for {part} (equal ones count as one, "
                f"broken ones as none)"
            )
    full_note = "; ".join([parts.note + note + skipped, *summary(ranged, traits)])
    data = Dataset(
        class_name(root.name),
        *(images[:border], labels[:border], images[border:end], labels[border:]),
        classes=parts.classes,
        flip=True,
        note=full_note,
        resize=ranged.resize,
        value_range=ranged.value_range,
    )
    rows = [((file.content.digest or b"").hex(), *astuple(each)) for file, each in zip(good, traits, strict=True)]
    return data, json.dumps([DECODING, rows]).encode()


def _already_decoded(path: Path, how: Decoding) -> dict[bytes | None, Decoded]:
    """Pixels and traits of the images in the cache at `path`, by the digest of their file."""
    with suppress(Exception):  # missing, damaged or of an older version
        data, extra = cache.read_old(path)
        decoding, rows = json.loads(extra)
        if (decoding, Decoding(data.image_size, data.resize, data.value_range)) == (DECODING, how):
            images = chain(data.train_images, data.val_images)
            return {bytes.fromhex(row[0]): (image, Traits(*row[1:])) for image, row in zip(images, rows, strict=True)}
    return {}


def _skipped(root: Path, broken: Mapping[Path, str], count: int, skip_broken: bool) -> str:
    """The note on broken images. Raises UserError if they are over 1 % and not to be skipped."""
    if not broken:
        return ""
    causes = [f"{shown(path.relative_to(root))} ({cause})" for path, cause in sorted(broken.items())[:MANY]]
    causes += [f"{len(broken) - MANY} more"] if len(broken) > MANY else []
    if len(broken) > count / 100 and not skip_broken:
        raise UserError(
            f"data {shown(root)}: {len(broken)} of {count} images are broken; want 1 % at most: repair or remove them, "
            f"or go on without them with --skip-broken: {', '.join(causes)}"
        )
    return f"; {len(broken)} broken images skipped: {', '.join(causes)}"


def _read(
    files: Sequence[File], how: Decoding, known: Mapping[bytes | None, Decoded], images: torch.Tensor
) -> tuple[list[File], list[Traits], dict[Path, str]]:
    """The files that are not broken, in order, with their traits, and why the others are broken.

    Pixels are written to the front of `images`; files whose digest is known are not decoded again. Threads decode,
    since PIL releases Python's lock; about AHEAD bytes at most wait in memory.
    """
    good: list[File] = []
    traits: list[Traits] = []
    broken: dict[Path, str] = {}
    ahead = max(16, AHEAD // (3 * how.size**2))
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        for start in range(0, len(files), ahead):
            part = files[start : start + ahead]
            new = pool.map(lambda file: _decode(file.path, how), [f for f in part if f.content.digest not in known])
            for file in part:
                found = known.get(file.content.digest) or next(new)
                if isinstance(found, str):
                    broken[file.path] = found
                else:
                    images[len(good)] = found[0]
                    good.append(file)
                    traits.append(found[1])
    return good, traits, broken


def _decode(path: Path, how: Decoding) -> Decoded | str:
    """The image's pixels and traits, or why it is broken, in a few words."""
    try:
        return decode(path, how)
    except UnidentifiedImageError:
        return "empty" if path.stat().st_size == 0 else "not an image that Pillow reads"
    except Exception as error:  # PIL's decoders meet broken bytes with errors of every class
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return shown(reason.strip().split("\n")[0][:100] or type(error).__name__)
