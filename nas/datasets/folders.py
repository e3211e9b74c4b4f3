"""Folders of images, one subfolder a class: decoded, and refused where too many are broken."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2.functional import pil_to_tensor

from nas.datasets.cache import FORMAT, SIZES, are_few, cache_directory, cached, check_memory, mapped
from nas.datasets.layout import MANY, Sample, class_name, readable_formats, shown
from nas.datasets.parts import Parts, find, find_test
from nas.datasets.value import Dataset
from nas.errors import UserError
from nas.machine import available_cores

FOLDER_SIZE = 64  # of folders whose images are not smaller, unless told otherwise
AHEAD = 2**28  # bytes of decoded images that may wait to be stored


def folder(root: Path, image_size: int | None, largest: int, skip_broken: bool) -> Dataset:
    """The images below a directory in RGB, from the cache when no byte of them has changed.

    Raises UserError when the layout is not one of those that `load` names, or over 1 % of the images are broken, unless
    these are to be skipped.
    """
    parts = find(root)
    samples = parts.train + parts.val
    size = image_size or _usual_size(parts.train, largest)
    count, place = len(samples), hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    few = are_few(count, 3, size)
    note = f"; resized by the shorter side and cropped to {size} pixels"
    note += "" if few else "; many, so read from a file while training"
    name = class_name(root.name).replace("\\", "")[:40]
    path = cache_directory() / f"{name}-{place}-{size}.npz"  # one cache file per folder and size, no more
    key = _content_key(root, samples, parts.digests, f"{FORMAT} {skip_broken} {parts.note}{note}")
    build = partial(_decoded, root, parts, skip_broken, note)
    if few:
        return cached(path, key, lambda: build(torch.empty(count, 3, size, size, dtype=torch.uint8)))
    return mapped(path.with_name(f"{path.stem}-mapped.npz"), key, count, size, build)


def test_folder(root: Path, data: Dataset, skip_broken: bool) -> Dataset:
    """The images in test/ as the validation images of a Dataset without others, as `data`, of the same root, is.

    Raises UserError when there are none, their classes are others, or over 1 % are broken, unless these are skipped.
    """
    samples, note = find_test(root, data.classes)
    check_memory(len(samples), 3, data.image_size)
    good, broken = [], {}
    for i, pixels in _pixels(samples, data.image_size):
        if isinstance(pixels, str):
            broken[samples[i][0]] = pixels
        else:
            good.append((pixels, samples[i][1]))
    skipped = _skipped(root, broken, len(samples), skip_broken)
    if not good:
        raise UserError(f"data {shown(root)}: none of its test images can be read")
    labels, images = torch.tensor([label for _, label in good]), torch.stack([pixels for pixels, _ in good])
    return Dataset(data.name, images[:0], labels[:0], images, labels, data.classes, data.flip, note + skipped)


def _usual_size(samples: Sequence[Sample], largest: int) -> int:
    """The largest, or the median shorter side of some 500 of the images, in steps of 4 pixels, if that is smaller."""
    sides = [largest]
    for path, _ in samples[:: max(1, len(samples) // 500)]:
        with (
            suppress(Exception),
            Image.open(path, formats=readable_formats()) as image,
        ):  # a broken one is counted when decoded
            sides.append(min(image.size))
    return max(SIZES[0], min(largest, int(median(sides[1:] or sides)) // 4 * 4))


def _decoded(root: Path, parts: Parts, skip_broken: bool, note: str, images: torch.Tensor) -> Dataset:
    """The Dataset of these files, its images written to the front of `images`, uint8 [count, 3, size, size].

    Raises UserError when over 1 % are broken and not to be skipped, or all of a class in a part.
    """
    samples = parts.train + parts.val
    good: list[int] = []
    broken: dict[Path, str] = {}
    for i, pixels in _pixels(samples, images.shape[-1]):
        if isinstance(pixels, str):
            broken[samples[i][0]] = pixels
        else:
            images[len(good)] = pixels
            good.append(i)
    note += _skipped(root, broken, len(samples), skip_broken)
    labels = torch.tensor([samples[i][1] for i in good], dtype=torch.int64)
    border, end = sum(i < len(parts.train) for i in good), len(good)
    for part, present in (("training", labels[:border]), ("validation", labels[border:])):
        if missing := set(range(len(parts.classes))) - set(present.tolist()):
            if broken and parts.split_here:  # among the images that are left there may be some for it
                return _decoded(root, find(root, broken), skip_broken, note, images)
            name = shown(parts.classes[min(missing)])
            raise UserError(
                f"data {shown(root)}: class {name} has too few images, none for {part} (equal ones count as one, "
                f"broken ones as none)"
            )
    tensors = images[:border], labels[:border], images[border:end], labels[border:]
    return Dataset(class_name(root.name), *tensors, parts.classes, True, parts.note + note)


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


def _pixels(samples: list[Sample], size: int) -> Iterator[tuple[int, torch.Tensor | str]]:
    """Number and pixels of each image, or why it is broken, in order.

    Threads decode, for PIL works outside of Python's lock; they are never so far ahead that much waits in memory.
    """
    ahead = max(16, AHEAD // (3 * size**2))
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        for start in range(0, len(samples), ahead):
            part = samples[start : start + ahead]
            yield from enumerate(pool.map(lambda sample: _decode(sample[0], size), part), start)


def _decode(path: Path, size: int) -> torch.Tensor | str:
    """The upright image's centre square, scaled with antialiasing: uint8 [3, size, size]; the cause if broken."""
    try:
        with Image.open(path, formats=readable_formats()) as image:
            image.draft("RGB", (2 * size, 2 * size))  # a large JPEG is decoded no larger than needed
            square = ImageOps.fit(_rgb(ImageOps.exif_transpose(image)), (size, size))
            pixels: torch.Tensor = pil_to_tensor(square)
            return pixels
    except Exception as error:  # PIL's decoders meet broken bytes with errors of every class
        return _cause(path, error)


def _rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, on white where transparent. Raises ValueError where the range is unknown."""
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # 16 bits; convert() would clip all but the darkest to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _cause(path: Path, error: Exception) -> str:
    """Why an image is broken, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "empty" if path.stat().st_size == 0 else "not an image that Pillow reads"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(reason.strip().split("\n")[0][:100] or type(error).__name__)


def _content_key(root: Path, samples: Sequence[Sample], digests: Sequence[bytes | None], heading: str) -> str:
    """A sha256 over names and bytes: times and sizes can lie (cp -p, checkouts), bytes cannot."""
    digest = hashlib.sha256(os.fsencode(heading))
    for (path, _), content in zip(samples, digests, strict=True):
        digest.update(os.fsencode(path.relative_to(root)) + b"\0" + (content or bytes(32)))
    return digest.hexdigest()
