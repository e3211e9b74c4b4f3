"""The cache of decoded images: in memory with a copy on disk, or memory-mapped from a file if they are many."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from nas.base.errors import UserError
from nas.base.files import file_lock, replacing
from nas.base.machine import available_memory
from nas.base.units import shown
from nas.datasets.value import PARTS, Dataset, Stored, fingerprinted

FORMAT = "2"  # version of cached named sets; raise it when decoding or splitting changes
SIZES = range(8, 1025)  # supported image sizes in pixels
SHARE = 10  # images may take 1 / SHARE of the free memory: a command and four workers hold up to two copies each

Built = tuple[Dataset, bytes]  # and bytes that the next build reads (`read_old`)


def fit_in_memory(count: int, channels: int, size: int) -> bool:
    """Whether decoded images fit into the memory of several processes; otherwise these share a file."""
    return SHARE * count * channels * size**2 <= available_memory()


def check_memory(count: int, channels: int, size: int) -> None:
    """Raise UserError if decoded images take more than half of the free memory."""
    need, limit = count * channels * size**2, available_memory() // 2
    if need > limit:
        raise UserError(
            f"{count:,} images of {size} pixels need {need / 1e9:.1f} GB decoded, more than half of the free "
            f"memory ({limit / 1e9:.1f} GB); use {_smaller(limit, count, channels)}"
        )


def _smaller(limit: int, count: int, channels: int) -> str:
    """What would fit into this many bytes, as advice."""
    fitting = int((limit / (count * channels)) ** 0.5) // 8 * 8
    return f"an image size of {fitting} pixels or less" if fitting in SIZES else "fewer images"


def cache_directory() -> Path:
    """Where downloads and decoded images are kept: $XDG_CACHE_HOME/compound-nas, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compound-nas"


def cache_name(root: Path) -> str:
    """The prefix of a folder's files in the cache; the folder's own name may be too long for it."""
    name = shown(root.name).replace("\\", "")[:40]
    return f"{name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


def cached(path: Path, key: str, make: Callable[[], Dataset], recheck: bool = False) -> Dataset:
    """The data set saved at `path` under `key`; else what `make` saves there, in one process while others wait.

    recheck: whether to verify the fingerprint of saved data.
    """

    def cached_data() -> Dataset:
        data = read(path, key)
        return _undamaged(data) if recheck else data

    with suppress(Exception):  # absent, stale or damaged: made anew
        return cached_data()
    with ExitStack() as stack:
        with suppress(OSError):  # without directory or locks, each process makes its own
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(path.with_name(f".{path.name}.lock")))
        with suppress(Exception):  # another process was first
            return cached_data()
        return make()


def _undamaged(data: Dataset) -> Dataset:
    if replace(data).fingerprint != data.fingerprint:  # a copy has no known fingerprint and computes it
        raise ValueError(f"data {data.name}: damaged in the cache")
    return data


def save_if_possible(data: Dataset, path: Path, key: str, extra: bytes = b"") -> Dataset:
    """The data set, saved by `save` if the disk allows it."""
    with suppress(OSError):  # the cache only saves time; a full disk must not end a run
        save(data, path, key, extra=extra)
        return _with_location(data, path, key, data.fingerprint)
    return data


def save_memory_mapped(path: Path, key: str, count: int, size: int, build: Callable[[torch.Tensor], Built]) -> Dataset:
    """A data set saved at `path`, its images memory-mapped from a file beside it.

    build: writes images, training images first, to the front of a uint8 [count, 3, size, size] in that file, and
    returns the data set and bytes for the next build. Raises UserError if the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(_pixels_file(path, key)) as temporary:
            with open(temporary, "x+b") as file:
                data, extra = build(memory_mapped(file, count, size))
                os.fsync(file.fileno())
            known = data.fingerprint
            none = (part[:0].clone() for part in (data.train_images, data.val_images))
            index = replace(data, train_images=next(none), val_images=next(none), mapped=True)
            del data  # Windows renames no file that is mapped
            for stale in path.parent.glob(f"{glob.escape(path.stem)}.*.pixels"):
                stale.unlink()
        save(fingerprinted(index, known), path, key, extra=extra)
        return read(path, key)
    except OSError as error:
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        need, free = count * 3 * size**2, shutil.disk_usage(folder).free
        raise UserError(
            f"{count:,} images of {size} pixels need {need / 1e9:.1f} GB decoded: too many to hold in memory, and "
            f"they cannot be kept in {path.parent} either ({error.strerror or error}; {free / 1e9:.1f} GB free); "
            f"use {_smaller(free, count, 3)}, or set XDG_CACHE_HOME to a folder on a larger disk"
        ) from None


def _pixels_file(path: Path, key: str) -> Path:
    """The file beside `path` that has the images saved under `key`."""
    return path.with_name(f"{path.stem}.{key[:16]}.pixels")


def memory_mapped(file: BinaryIO, count: int, size: int) -> torch.Tensor:
    """Memory-mapped RGB images in an open file: uint8 [count, 3, size, size], channels last. Raises OSError."""
    if hasattr(os, "posix_fallocate"):  # a hole in the file that cannot be filled would kill the process
        os.posix_fallocate(file.fileno(), 0, count * 3 * size**2)
    return _images(np.memmap(file, np.uint8, "r+", shape=(count, size, size, 3)))


def _images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def save(data: Dataset, path: Path, key: str = "", compress: bool = False, extra: bytes = b"") -> None:
    """Write an .npz without pickle, atomically; equal data gives equal bytes. Raises OSError.

    With a key, the file belongs to the cache and holds the fingerprint too. extra: bytes that `read_old` returns.
    """
    arrays = {part: getattr(data, part).numpy() for part in PARTS}
    heading: list[Any] = [key, data.name, data.classes, data.flip, data.note]
    if key:
        more = {"resize": data.resize, "value_range": data.value_range, "mapped": data.mapped}
        heading.append({**more, "fingerprint": data.fingerprint})
        arrays["extra"] = np.frombuffer(extra, np.uint8)
    about = np.array(json.dumps(heading))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "xb") as file:
        (np.savez_compressed if compress else np.savez)(file, about=about, **arrays)


def read(path: Path, key: str = "") -> Dataset:
    """The inverse of `save`. Raises ValueError for another key, and errors of many classes for a damaged file."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return _read(file, path, key)


def read_old(path: Path) -> Built:
    """The data set and bytes saved at `path` under any key. Raises errors of many classes if missing or damaged."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return _undamaged(_read(file, path, None)), file["extra"].tobytes()


def _read(file: Mapping[str, np.ndarray], path: Path, wanted: str | None) -> Dataset:
    key, name, classes, flip, note, *more = json.loads(str(file["about"]))
    if wanted not in (key, None):
        raise ValueError(f"{path}: saved under another key")
    images, labels, val_images, val_labels = (torch.from_numpy(file[part]) for part in PARTS)
    data = Dataset(name, images, labels, val_images, val_labels, tuple(classes), flip, note)
    if not more:  # the embedded set, and caches of older versions
        return data
    known = more[0]
    values = known["value_range"]
    data = replace(data, resize=known["resize"], value_range=None if values is None else tuple(values))
    if known["mapped"]:  # then the images are in a file of their own
        border, shape = len(labels), (len(labels) + len(val_labels), *[data.image_size] * 2, 3)
        images = _images(np.memmap(_pixels_file(path, key), np.uint8, "c", shape=shape))  # nothing is written back
        data = replace(data, train_images=images[:border], val_images=images[border:], mapped=True)
    return _with_location(data, path, key, known["fingerprint"])


def _with_location(data: Dataset, path: Path, key: str, fingerprint: str) -> Dataset:
    """The data set with its place in the cache and its fingerprint."""
    return fingerprinted(replace(data, stored=Stored(path, key, fingerprint)), fingerprint)
