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
from pathlib import Path
from uuid import uuid4

from nas.base.machine import available_cores

SETTLED = 2 * 10**9  # nanoseconds since a file's last change; the coarsest clocks of file systems tick every 2 s
UNREADABLE = bytes(32)  # decoding will count such a file as broken
EMPTY = hashlib.sha256().digest()

Stamp = tuple[int, int, int]  # size in bytes; times of the last change of content and of inode, in nanoseconds
Known = Mapping[str, tuple[Stamp, bytes]]  # stamp and sha256 of each file, by its name below the root


def digests(root: Path, files: Sequence[Path], manifest: Path, recheck: bool = False) -> list[bytes]:
    """The sha256 of each file's content, 32 bytes, in the order of `files`; UNREADABLE where it cannot be read.

    files: some below `root`. manifest: where digests are kept from one call to the next; one that is missing, damaged
    or cannot be written costs only time. recheck: read all files, whatever the manifest says.
    """
    names = [str(file).removeprefix(f"{root}{os.sep}") for file in files]
    kept = _read(manifest)
    old = {} if recheck else kept
    asked = set(names)
    new = {name: found for name, found in kept.items() if name not in asked and (root / name).exists()}
    changed = []
    for name, file in zip(names, files, strict=True):
        found = old.get(name)
        if found and found[0] == _stamp(file):
            new[name] = found
        else:
            changed.append((name, file))
    contents: dict[str, bytes] = {}
    with ThreadPoolExecutor(available_cores() + 4) as pool:
        started = time.time_ns()
        for (name, _), (stamp, digest) in zip(changed, pool.map(_content, [file for _, file in changed]), strict=True):
            contents[name] = digest
            if stamp and max(stamp[1:]) + SETTLED < started:
                new[name] = stamp, digest
    if new != kept:
        _write(manifest, new)
    return [contents[name] if name in contents else new[name][1] for name in names]


def _stamp(file: Path) -> Stamp | None:
    with suppress(OSError):
        found = os.stat(file)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return None


def _content(file: Path) -> tuple[Stamp | None, bytes]:
    """Its stamp as it was before it was read, and its sha256."""
    stamp = _stamp(file)
    with suppress(OSError), open(file, "rb") as opened:
        return stamp, hashlib.file_digest(opened, "sha256").digest()
    return None, UNREADABLE


def _read(manifest: Path) -> Known:
    """What a manifest says; nothing if it is not there, or not as it was written."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        checksum, _, body = manifest.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() == checksum:
            return {name: ((a, b, c), bytes.fromhex(digest)) for name, (a, b, c, digest) in json.loads(body).items()}
    return {}


def _write(manifest: Path, known: Known) -> None:
    """Replace a manifest, at once or not at all."""
    body = json.dumps({name: [*stamp, digest.hex()] for name, (stamp, digest) in known.items()}).encode()
    temporary = manifest.with_name(f"{manifest.name}.{uuid4().hex}")
    with suppress(OSError):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.replace(temporary, manifest)
        finally:
            temporary.unlink(missing_ok=True)
