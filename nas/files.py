"""Files that are never half-written, TOML in both directions, and tables."""

from __future__ import annotations

import errno
import os
import tempfile
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # of a file system, as some networks' are


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file that no other process holds; gives False, without a lock, where the file system has none.

    A file whose mere existence is the lock would not do there: it stays when its process is killed. Raises
    filelock.Timeout where another process holds it and we do not wait, and OSError where it cannot be made.
    """
    from filelock import FileLock  # here, for who only counts need not wait for it

    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
    try:
        yield lock.is_locked
    finally:
        lock.release()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file at once: a reader, or a process killed meanwhile, sees the old one or the new one."""
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_csv(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a table that has these columns and may have others; raises ValueError for one without, or a broken one.

    Broken is one whose rows have more fields than there are columns, too: pandas would take the first ones for an
    index, and move all others to other columns.
    """
    import pandas as pd  # here, for who only counts need not wait for it

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(path, index_col=False)
        except pd.errors.ParserWarning:
            raise ValueError("a row has more fields than there are columns") from None
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"column {missing[0]!r} is missing")
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; a UserError names the file and, for bad syntax, line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid TOML: {type(error).__name__}") from None


def to_toml(table: Mapping[str, Any]) -> str:
    """Write a table of strings, numbers, lists and sub-tables; entries that are None are left out."""
    plain = [f"{k} = {_value(v)}" for k, v in table.items() if v is not None and not isinstance(v, Mapping)]
    nested = [f"\n[{k}]\n{to_toml(v)}".rstrip() for k, v in table.items() if isinstance(v, Mapping)]
    return "\n".join([*plain, *nested]) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        short = ", ".join(map(_value, value))
        return f"[{short}]" if len(short) < 80 else "[\n" + "".join(f"    {_value(v)},\n" for v in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
