"""The contents of image files when they were last read, so that only changed files are read again.

A file counts as unchanged while its size and its times (of content and inode) are the same. A second change within one
tick of the clock would go unnoticed, so a file that changed just before it was read is not remembered.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nas.base.files import replacing
from nas.base.machine import available_cores
from nas.datasets.decode import DECODING, Extremes, extremes

SETTLED = 2 * 10**9  # nanoseconds since a file's last change; the coarsest clocks of file systems tick every 2 s
EMPTY = hashlib.sha256().digest()


@dataclass(frozen=True)
class Content:
    """The content of a file.

    digest: the sha256 of its bytes; None if it is empty or unreadable, so that it is no copy of another. extremes: its
    lowest and highest value, if it is an image with more than 8 bits.
    """

    digest: bytes | None
    extremes: Extremes | None


Stamp = tuple[int, int, int]  # size in bytes; times of the last change of content and of inode, in nanoseconds
Known = Mapping[str, tuple[Stamp, Content]]  # by the file's name below the root


def contents_of(root: Path, files: Sequence[Path], manifest: Path, recheck: bool = False) -> list[Content]:
    """The content of each of the `files` below `root`, in their order.

    manifest: the file that keeps contents between calls; if it is missing, damaged or not writable, that only costs
    time. recheck: read all files, ignoring the manifest.
    """
    names = [str(file).removeprefix(f"{root}{os.sep}") for file in files]
    asked = dict(zip(names, files, strict=True))
    kept = _read(manifest)
    others = {name: found for name, found in kept.items() if name not in asked and (root / name).exists()}
    same = {} if recheck else {name: kept[name] for name in kept.keys() & asked if kept[name][0] == _stamp(asked[name])}
    changed = [name for name in asked if name not in same]
    seen = {content.digest: content for _, content in kept.values()}
    started = time.time_ns()
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        read = dict(zip(changed, pool.map(lambda name: _content(asked[name], seen), changed), strict=True))
    settled = {name: (at, content) for name, (at, content) in read.items() if at and max(at[1:]) + SETTLED < started}
    new = {**others, **same, **settled}
    if new != kept:
        _write(manifest, new)
    return [read[name][1] if name in read else same[name][1] for name in names]


def _stamp(file: Path) -> Stamp | None:
    with suppress(OSError):
        found = os.stat(file)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return None


def _content(file: Path, seen: Mapping[bytes | None, Content]) -> tuple[Stamp | None, Content]:
    """The file's stamp from before it was read, and its content; an image with a digest in `seen` is not opened."""
    stamp = _stamp(file)
    with suppress(OSError, MemoryError), open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").digest()
        if digest == EMPTY:
            return stamp, Content(None, None)
        return stamp, seen.get(digest) or Content(digest, extremes(file))
    return None, Content(None, None)


def _read(manifest: Path) -> Known:
    """The entries of a manifest; empty if it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        checksum, _, body = manifest.read_bytes().partition(b"\n")
        decoding, known = json.loads(body)
        if (hashlib.sha256(body).hexdigest().encode(), decoding) == (checksum, DECODING):
            return {
                name: (tuple(stamp), Content(bytes.fromhex(digest) or None, values and tuple(values)))
                for name, (stamp, digest, values) in known.items()
            }
    return {}


def _write(manifest: Path, known: Known) -> None:
    """Replace a manifest atomically."""
    rows = {name: (stamp, (found.digest or b"").hex(), found.extremes) for name, (stamp, found) in known.items()}
    body = json.dumps([DECODING, rows]).encode()
    with suppress(OSError):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        with replacing(manifest) as temporary:
            temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
