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

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a text begins that a spreadsheet takes for a formula, or one so quoted
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\(?=u(?:d[89a-f][0-9a-f]{2}|005c))")  # and a backslash that looks like one
_ESCAPE = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file of another name beside `path`, to be written; it takes that one's place at once, or is removed."""
    temporary = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file at once: a reader, or a process killed meanwhile, sees the old one or the new one.

    Text is UTF-8; what UTF-8 cannot hold, such as a byte of a file's name that is not text, is written as \\udce9.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.chmod(temporary, 0o644)


def to_csv(table: pd.DataFrame, index: bool = False) -> str:
    """Write a table. A text that a spreadsheet would run as a formula gets a ' in front, which `read_csv` takes off.

    Such a text begins with =, +, -, @, a tab or a carriage return (CWE-1236); numbers stay as they are.
    """
    safe = _mapped(table, _quoted)
    return (safe.rename(index=_quoted) if index else safe).to_csv(index=index)


def _quoted(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _mapped(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """A table with a change made to all texts, the names of its columns among them."""
    cells = {
        str(name): column.map(lambda cell: change(cell) if isinstance(cell, str) else cell)
        for name, column in table.items()
        if column.dtype.kind not in "biuf"
    }
    return table.assign(**cells).rename(columns=lambda name: change(str(name)))


def read_csv(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a table that has these columns and may have others; raises ValueError for one without, or a broken one.

    Broken is one whose rows have more fields than there are columns, too: pandas would take the first ones for an
    index, and move all others to other columns. Texts are as they were given to `to_csv`.
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

    What `from_toml` reads is equal, but for tuples, which are lists, and paths, which are strings. Bytes of file names
    that are not UTF-8, which Python holds as lone surrogates and TOML cannot hold, are written as \\udce9.
    """
    return tomli_w.dumps(_plain(table))


def _plain(value: Any) -> Any:
    """A value as TOML has it."""
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
    """A value of TOML with what `_escaped` wrote as it was."""
    if isinstance(value, dict):
        return {_restored(key): _restored(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value) if isinstance(value, str) else value
