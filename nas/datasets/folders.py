"""Folders of images, one subfolder a class: decoded, kept in the cache, and refused where too many are broken."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
from nas.datasets.cache import SIZES, Built, are_few, cache_directory, cached, check_memory, mapped, place_of, read_old
from nas.datasets.decode import DECODING, Decoding, Traits, decode, find_range, summary
from nas.datasets.layout import MANY, Sample, class_name, readable_formats, shown
from nas.datasets.manifest import Content
from nas.datasets.parts import Parts, find, find_test
from nas.datasets.value import Dataset, ValueRange

FOLDER_SIZE = 64  # of folders whose images are not smaller, unless told otherwise
AHEAD = 2**28  # bytes of decoded images that may wait to be stored

Decoded = tuple[torch.Tensor, Traits]


def folder(
    root: Path,
    image_size: int | None,
    largest: int = FOLDER_SIZE,
    resize: str = "crop",
    skip_broken: bool = False,
    recheck: bool = False,
    value_range: ValueRange | None = None,
) -> Dataset:
    """The images below a directory in RGB, those that have not changed from the cache.

    value_range: None for that of the training images. The other arguments are those of `load`.
    Raises UserError when the layout is not one of those that `load` names, or over 1 % of the images are broken, unless
    these are to be skipped.
    """
    parts = find(root, recheck=recheck)
    how = Decoding(image_size or _usual_size(parts.train, largest, resize), resize, value_range)
    count = len(parts.train) + len(parts.val)
    few = are_few(count, 3, how.size)
    note = f"; {how}" if few else f"; {how}; many, so read from a file while training"
    path = _cache_file(root, how, "" if few else "-mapped")
    key = _key(f"{DECODING} {how} {value_range} {skip_broken} {parts.note}{note}", root, parts)
    build = partial(_decoded, root, parts, skip_broken, how, note, path)
    if few:
        room = partial(torch.empty, count, 3, how.size, how.size, dtype=torch.uint8)
        return cached(path, key, lambda: build(room()), recheck)
    return mapped(path, key, count, how.size, build, recheck)


def _cache_file(root: Path, how: Decoding, ending: str) -> Path:
    """One file for each way to decode a folder, no more."""
    words = [place_of(root), str(how.size)]
    words += [how.resize] if how.resize != "crop" else []
    words += ["{:g}-{:g}".format(*how.value_range)] if how.value_range else []
    return cache_directory() / f"{'-'.join(words)}{ending}.npz"


def _key(heading: str, root: Path, parts: Parts) -> str:
    """A sha256 over a heading and the names and contents of files."""
    digest = hashlib.sha256(os.fsencode(heading))
    for (path, _), content in zip(parts.train + parts.val, parts.contents, strict=True):
        digest.update(os.fsencode(str(path).removeprefix(str(root))) + b"\0" + (content.digest or bytes(32)))
    return digest.hexdigest()


def test_folder(root: Path, data: Dataset, skip_broken: bool) -> Dataset:
    """The images in test/ as the validation images of a Dataset without others, as `data`, of the same root, is.

    Raises UserError when there are none, their classes are others, or over 1 % are broken, unless these are skipped.
    """
    samples, note = find_test(root, data.classes)
    check_memory(len(samples), 3, data.image_size)
    how = Decoding(data.image_size, data.resize, data.value_range)
    good, broken = [], {}
    for i, found in _pixels(samples, how, [None] * len(samples)):
        if isinstance(found, str):
            broken[samples[i][0]] = found
        else:
            good.append((*found, samples[i][1]))
    note += _skipped(root, broken, len(samples), skip_broken)
    if not good:
        raise UserError(f"data {shown(root)}: none of its test images can be read")
    pixels, traits, labels = zip(*good, strict=True)
    images, known = torch.stack(pixels), torch.tensor(labels)
    note = "; ".join([note, *summary(how, traits)])
    return Dataset(data.name, images[:0], known[:0], images, known, data.classes, data.flip, note)


def _usual_size(samples: Sequence[Sample], largest: int, resize: str) -> int:
    """The largest, or the median side of some 500 of the images, in steps of 4 pixels, if that is smaller.

    It is their shorter side, but for images that are padded, which keep their longer side.
    """
    sides, formats = [largest], readable_formats()
    for path, _ in samples[:: max(1, len(samples) // 500)]:
        with suppress(Exception), Image.open(path, formats=formats) as image:  # a broken one is counted when decoded
            sides.append(max(image.size) if resize == "pad" else min(image.size))
    return max(SIZES[0], min(largest, int(median(sides[1:] or sides)) // 4 * 4))


def _decoded(
    root: Path, parts: Parts, skip_broken: bool, how: Decoding, note: str, path: Path, images: torch.Tensor
) -> Built:
    """The Dataset of these files, its images written to the front of `images`, uint8 [count, 3, size, size].

    Those that are in the cache at `path` are not decoded again. With it comes what `_already_decoded` will need.
    Raises UserError when over 1 % are broken and not to be skipped, or all of a class in a part.
    """
    samples = parts.train + parts.val
    ranged = how
    if how.value_range is None:
        values = zip(parts.train, parts.contents, strict=False)  # the contents of validation images come last
        ranged = replace(how, value_range=find_range(root, [(file, held.extremes) for (file, _), held in values]))
    good: list[int] = []
    traits: list[Traits] = []
    broken: dict[Path, str] = {}
    for i, found in _pixels(samples, ranged, _already_decoded(path, ranged, parts.contents)):
        if isinstance(found, str):
            broken[samples[i][0]] = found
        else:
            images[len(good)] = found[0]
            good.append(i)
            traits.append(found[1])
    skipped = _skipped(root, broken, len(samples), skip_broken)
    labels = torch.tensor([samples[i][1] for i in good], dtype=torch.int64)
    border, end = sum(i < len(parts.train) for i in good), len(good)
    for part, present in (("training", labels[:border]), ("validation", labels[border:])):
        if missing := set(range(len(parts.classes))) - set(present.tolist()):
            if broken and parts.split_here:  # among the images that are left there may be some for it
                return _decoded(root, find(root, broken), skip_broken, how, note + skipped, path, images)
            name = shown(parts.classes[min(missing)])
            raise UserError(
                f"data {shown(root)}: class {name} has too few images, none for {part} (equal ones count as one, "
                f"broken ones as none)"
            )
    said = "; ".join([parts.note + note + skipped, *summary(ranged, traits)])
    tensors = images[:border], labels[:border], images[border:end], labels[border:]
    kept = {"resize": ranged.resize, "value_range": ranged.value_range}
    rows = [((parts.contents[i].digest or b"").hex(), *astuple(each)) for i, each in zip(good, traits, strict=True)]
    data = Dataset(class_name(root.name), *tensors, parts.classes, True, said, **kept)  # type: ignore[arg-type]
    return data, json.dumps([DECODING, rows]).encode()


def _already_decoded(path: Path, how: Decoding, contents: Sequence[Content]) -> list[Decoded | None]:
    """Pixels and traits of files with these contents, where the cache at `path` has them; None where it has not."""
    known: dict[bytes | None, Decoded] = {}
    with suppress(Exception):  # it is missing, damaged or from before it had these
        data, extra = read_old(path)
        decoding, rows = json.loads(extra)
        if (decoding, Decoding(data.image_size, data.resize, data.value_range)) == (DECODING, how):
            images = chain(data.train_images, data.val_images)
            known = {bytes.fromhex(row[0]): (image, Traits(*row[1:])) for image, row in zip(images, rows, strict=True)}
    return [known.get(content.digest) for content in contents]


def _skipped(root: Path, broken: Mapping[Path, str], count: int, skip_broken: bool) -> str:
    """What a note says of broken images. Raises UserError when they are over 1 % and not to be skipped."""
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


def _pixels(
    samples: Sequence[Sample], how: Decoding, known: Sequence[Decoded | None]
) -> Iterator[tuple[int, Decoded | str]]:
    """Number, pixels and traits of each image, or why it is broken, in order; those not known yet are decoded.

    Threads decode, for PIL works outside of Python's lock; they are never so far ahead that much waits in memory.
    """
    ahead = max(16, AHEAD // (3 * how.size**2))
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        for start in range(0, len(samples), ahead):
            part = range(len(samples))[start : start + ahead]
            new = pool.map(lambda i: _decode(samples[i][0], how), [i for i in part if not known[i]])
            yield from ((i, known[i] or next(new)) for i in part)


def _decode(path: Path, how: Decoding) -> Decoded | str:
    """The image's pixels and traits, or why it is broken."""
    try:
        return decode(path, how)
    except Exception as error:  # PIL's decoders meet broken bytes with errors of every class
        return _cause(path, error)


def _cause(path: Path, error: Exception) -> str:
    """Why an image is broken, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "empty" if path.stat().st_size == 0 else "not an image that Pillow reads"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(reason.strip().split("\n")[0][:100] or type(error).__name__)
