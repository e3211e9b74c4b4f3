"""Files that are never half-written, TOML in both directions, and tables."""

from __future__ import annotations

import errno
import os
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import tomli_w

from nas.base.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # start of a text that a spreadsheet would run as a formula, or of a quoted one
_SURROGATE = re.compile(
    r"[\ud800-\udfff]|\\(?=u(?:d[89a-f][0-9a-f]{2}|005c))"
)  # and backslashes like those of an escape
_ESCAPE = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # errors of file systems without locks


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on a file; yields False, without a lock, if the file system has no locks.

    A file whose mere existence is the lock is no substitute: it would remain after its process was killed. Raises
    filelock.Timeout if another process holds the lock and `wait` is False, and OSError if the lock file cannot be made.
    """
    from filelock import FileLock  # imported here, since counting costs does not need it

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it replaces `path` atomically, or is removed after an error."""
    temporary = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: readers see the old or the new content, even if the process is killed meanwhile.

    Text is UTF-8; lone surrogates, undecodable bytes of file names, are written as \\udce9.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.chmod(temporary, 0o644)


def to_csv(table: pd.DataFrame, index: bool = False) -> str:
    """A table as CSV. A text that a spreadsheet would run as a formula gets a leading ', which `read_csv` removes.

    Such a text begins with =, +, -, @, a tab or a carriage return (CWE-1236); numbers are not changed.
    """
    safe = _mapped(table, _quoted)
    return (safe.rename(index=_quoted) if index else safe).to_csv(index=index)


def _quoted(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _mapped(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """A table with `change` applied to all its texts, column names included."""
    cells = {
        str(name): column.map(lambda cell: change(cell) if isinstance(cell, str) else cell)
        for name, column in table.items()
        if column.dtype.kind not in "biuf"
    }
    return table.assign(**cells).rename(columns=lambda name: change(str(name)))


def read_csv(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a table that has at least these columns; raises ValueError if one is missing or the table is broken.

    A table with rows of more fields than columns counts as broken: pandas would take the first fields as an index and
    shift the others. Texts are returned as they were given to `to_csv`.
    """
    import pandas as pd  # imported here, since counting costs does not need it

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(path, index_col=False)
        except pd.errors.ParserWarning:
            raise ValueError("a row has more fields than there are columns") from None
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"column {missing[0]!r} is missing")
    return _mapped(table, _unquoted)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte-order mark or without; raises OSError and UnicodeDecodeError."""
    return path.read_text(encoding="utf-8-sig")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; a UserError names the file and, for bad syntax, line and column."""
    try:
        return from_toml(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid TOML: {type(error).__name__}") from None


def from_toml(text: str) -> dict[str, Any]:
    """Parse what `to_toml` wrote, or any other TOML; raises tomllib.TOMLDecodeError."""
    found: dict[str, Any] = _restored(tomllib.loads(text))
    return found


def to_toml(table: Mapping[str, Any]) -> str:
    """Write a table of strings, paths, numbers (numpy's too), lists and sub-tables; entries that are None are left out.

    `from_toml` returns equal values, except that tuples become lists and paths become strings. Bytes of file names that
    are not UTF-8, lone surrogates in Python, are written as \\udce9.
    """
    return tomli_w.dumps(_plain(table))


def _plain(value: Any) -> Any:
    """A value in the types that TOML has."""
    if isinstance(value, Mapping):
        return {_escaped(str(key)): _plain(entry) for key, entry in value.items() if entry is not None}
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, bool | int | float) else _escaped(str(value))


def _escaped(text: str) -> str:
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _restored(value: Any) -> Any:
    """A value read from TOML with the escapes of `_escaped` undone."""
    if isinstance(value, dict):
        return {_restored(key): _restored(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value) if isinstance(value, str) else value
