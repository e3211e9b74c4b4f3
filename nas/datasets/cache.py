"""Where decoded images are kept: in memory while they are few, with a copy on disk; else in a file alone."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import torch

from nas.base.errors import UserError
from nas.base.files import file_lock
from nas.base.machine import available_memory
from nas.base.units import shown
from nas.datasets.value import PARTS, Dataset, Stored, fingerprinted

FORMAT = "1"  # of cached files; raise it when decoding changes
SIZES = range(8, 1025)  # image sizes that make sense, in pixels
SHARE = 10  # images may take one part of so many of the free memory: a command and four workers hold them up to twice

Built = tuple[Dataset, bytes]  # and what the next build needs to know of its images


def are_few(count: int, channels: int, size: int) -> bool:
    """Whether so many decoded images may be in the memory of several processes; else these share a file."""
    return SHARE * count * channels * size**2 <= available_memory()


def check_memory(count: int, channels: int, size: int) -> None:
    """Raises UserError when so many decoded images take more than half of the free memory."""
    need, limit = count * channels * size**2, available_memory() // 2
    if need > limit:
        raise UserError(
            f"{count:,} images of {size} pixels need {need / 1e9:.1f} GB decoded, more than half of the free "
            f"memory ({limit / 1e9:.1f} GB); use {_smaller(limit, count, channels)}"
        )


def _smaller(limit: int, count: int, channels: int) -> str:
    """What would fit into so many bytes."""
    fitting = int((limit / (count * channels)) ** 0.5) // 8 * 8
    return f"an image size of {fitting} pixels or less" if fitting in SIZES else "fewer images"


def cache_directory() -> Path:
    """Where downloads and decoded images are kept: $XDG_CACHE_HOME/compound-nas, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compound-nas"


def place_of(root: Path) -> str:
    """How the names of a folder's files in the cache begin; its own name may be too long for them."""
    name = shown(root.name).replace("\\", "")[:40]
    return f"{name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


def cached(path: Path, key: str, build: Callable[[], Built], recheck: bool = False) -> Dataset:
    """What was saved at `path` under `key`, else what `build` makes, saved there.

    recheck: whether to compare what was saved with its fingerprint.
    """

    def made() -> Dataset:
        data, extra = build()
        with suppress(OSError):  # the cache only saves time; a full disk must not end a run
            save(data, path, key, extra=extra)
            return _kept_at(path, key, data)
        return data

    return _once(path, partial(_kept, path, key, recheck), made)


def stored(place: Stored) -> Dataset:
    """What another process has saved there. Raises ValueError if it is not there any more, and many another error."""
    data = read(place.path, place.key)
    if data.fingerprint != place.fingerprint:
        raise ValueError(f"{place.path}: saved anew")
    return data


def _kept(path: Path, key: str, recheck: bool) -> Dataset:
    data = read(path, key)
    return _undamaged(data) if recheck else data


def read_old(path: Path) -> Built:
    """What was saved at `path`, whatever its key. Raises errors of many classes if it is missing or damaged."""
    data, extra = _read(path, None)
    return _undamaged(data), extra


def _undamaged(data: Dataset) -> Dataset:
    if replace(data).fingerprint != data.fingerprint:  # a copy knows no fingerprint and computes it
        raise ValueError(f"data {data.name}: damaged in the cache")
    return data


def _kept_at(path: Path, key: str, data: Dataset) -> Dataset:
    """The data set, which knows where it is in the cache."""
    known = data.fingerprint
    return fingerprinted(replace(data, stored=Stored(path, key, known)), known)


def _once(path: Path, kept: Callable[[], Dataset], made: Callable[[], Dataset]) -> Dataset:
    """What is kept at `path`, else what is made to be kept there, by one process while others wait."""
    with suppress(Exception):  # absent, stale or damaged: the same to us
        return kept()
    with ExitStack() as stack:
        with suppress(OSError):  # no folder: then each makes its own, as where the file system has no locks
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(path.with_name(f".{path.name}.lock")))
        with suppress(Exception):  # another was first
            return kept()
        return made()


def mapped(
    path: Path,
    key: str,
    count: int,
    size: int,
    build: Callable[[torch.Tensor], Built],
    recheck: bool = False,
) -> Dataset:
    """As `cached`, but the images stay in a file beside `path`, from which they are read as needed.

    build: fills the first of `count` RGB images, uint8 [count, 3, size, size] in that file, training images first, and
    gives what is to be kept. Raises UserError when the disk has no room.
    """
    return _once(path, partial(_kept, path, key, recheck), partial(_mapped, path, key, count, size, build))


def _pixels_file(path: Path, key: str) -> Path:
    """The file beside `path` that has the images saved under `key`."""
    return path.with_name(f"{path.stem}.{key[:16]}.pixels")


def _mapped(path: Path, key: str, count: int, size: int, build: Callable[[torch.Tensor], Built]) -> Dataset:
    pixels = _pixels_file(path, key)
    temporary = pixels.with_name(f"{pixels.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w+b") as file:
            data, extra = build(in_file(file, count, size))
            os.fsync(file.fileno())
        known = data.fingerprint
        index = replace(
            data, train_images=data.train_images[:0].clone(), val_images=data.val_images[:0].clone(), mapped=True
        )
        del data  # Windows renames no file that is mapped
        for stale in path.parent.glob(f"{glob.escape(path.stem)}.*.pixels"):
            stale.unlink()
        os.replace(temporary, pixels)
        save(fingerprinted(index, known), path, key, extra=extra)
        return read(path, key)
    except OSError as error:
        need, free = count * 3 * size**2, shutil.disk_usage(_existing(path)).free
        raise UserError(
            f"{count:,} images of {size} pixels need {need / 1e9:.1f} GB decoded: too many to hold in memory, and "
            f"they cannot be kept in {path.parent} either ({error.strerror or error}; {free / 1e9:.1f} GB free); "
            f"use {_smaller(free, count, 3)}, or set XDG_CACHE_HOME to a folder on a larger disk"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def in_file(file: BinaryIO, count: int, size: int) -> torch.Tensor:
    """Room for RGB images in an open file: uint8 [count, 3, size, size], channels last. Raises OSError."""
    if hasattr(os, "posix_fallocate"):  # a hole in the file that cannot be filled would kill the process
        os.posix_fallocate(file.fileno(), 0, count * 3 * size**2)
    return _images(np.memmap(file, np.uint8, "r+", shape=(count, size, size, 3)))


def _images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _attached(index: Dataset, pixels: Path) -> Dataset:
    """A Dataset without images, with those in the file. Raises ValueError if these are too few."""
    border, size = len(index.train_labels), index.image_size
    count = border + len(index.val_labels)
    images = _images(np.memmap(pixels, np.uint8, "c", shape=(count, size, size, 3)))  # nothing is ever written back
    return replace(index, train_images=images[:border], val_images=images[border:])


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def save(data: Dataset, path: Path, key: str = "", compress: bool = False, extra: bytes = b"") -> None:
    """Write an .npz without pickle, at once or not at all; equal data gives equal bytes. Raises OSError.

    With a key it is a cache: it then holds the fingerprint too. extra: kept with it, for `read_old`.
    """
    arrays = {part: getattr(data, part).numpy() for part in PARTS}
    heading: list[Any] = [key, data.name, data.classes, data.flip, data.note]
    if key:
        more = {"resize": data.resize, "value_range": data.value_range, "mapped": data.mapped}
        heading.append({**more, "fingerprint": data.fingerprint})
        arrays["extra"] = np.frombuffer(extra, np.uint8)
    about = np.array(json.dumps(heading))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            (np.savez_compressed if compress else np.savez)(file, about=about, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, key: str = "") -> Dataset:
    """The inverse of `save`. Raises ValueError for another key, and many an error for a damaged file."""
    return _read(path, key)[0]


def _read(path: Path, key: str | None) -> Built:
    """What was saved; without `extra` under a key, with it where the key does not matter (None)."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        saved_key, name, classes, flip, note, *more = json.loads(str(file["about"]))
        extra = file["extra"].tobytes() if key is None else b""
        if key not in (saved_key, None):
            raise ValueError(f"{path}: saved under another key")
        images, labels, val_images, val_labels = (torch.from_numpy(file[part]) for part in PARTS)
    data = Dataset(name, images, labels, val_images, val_labels, tuple(classes), flip, note)
    if not more:  # the embedded set, and caches from before there was more to say
        return data, extra
    known = more[0]
    values = known["value_range"]
    data = replace(
        data, resize=known["resize"], mapped=known["mapped"], value_range=None if values is None else tuple(values)
    )
    if data.mapped:
        data = _attached(data, _pixels_file(path, saved_key))
    return _kept_at(path, saved_key, fingerprinted(data, known["fingerprint"])), extra
