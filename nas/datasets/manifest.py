"""What image files held when they were last read, so that only those that have changed are read again.

A file is taken as unchanged while its size and its times (of its content and of its inode) are the same. Its time tells
nothing of a second change within the same tick of the clock, so a file that was changed only just before it was read is
not remembered, but read again the next time.
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
    """What a file holds.

    digest: the sha256 of its bytes; None of one that is empty or cannot be read, which is no copy of another.
    extremes: those of its values, where it is an image with more than 8 bits.
    """

    digest: bytes | None
    extremes: Extremes | None


Stamp = tuple[int, int, int]  # size in bytes; times of the last change of content and of inode, in nanoseconds
Known = Mapping[str, tuple[Stamp, Content]]  # by the file's name below the root


def contents_of(root: Path, files: Sequence[Path], manifest: Path, recheck: bool = False) -> list[Content]:
    """What each file holds, in the order of `files`.

    files: some below `root`. manifest: where contents are kept from one call to the next; one that is missing, damaged
    or cannot be written costs only time. recheck: read all files, whatever the manifest says.
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
    """Its stamp as it was before it was read, and what it holds; the image is opened unless equal bytes were seen."""
    stamp = _stamp(file)
    with suppress(OSError, MemoryError), open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").digest()
        if digest == EMPTY:
            return stamp, Content(None, None)
        return stamp, seen.get(digest) or Content(digest, extremes(file))
    return None, Content(None, None)


def _read(manifest: Path) -> Known:
    """What a manifest says; nothing if it is not there, or not as it was written."""
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
    """Replace a manifest, at once or not at all."""
    rows = {name: (stamp, (found.digest or b"").hex(), found.extremes) for name, (stamp, found) in known.items()}
    body = json.dumps([DECODING, rows]).encode()
    with suppress(OSError):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        with replacing(manifest) as temporary:
            temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
