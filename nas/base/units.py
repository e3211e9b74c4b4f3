"""Quantities as people write them (400M multiply-adds, 1.2G, 10m for ten minutes), and texts for display."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_FLOOR, Decimal
from itertools import count, takewhile

from nas.base.errors import UserError

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: controls, format characters, surrogates, line ends
_JOINERS = {"\u200c", "\u200d"}  # format characters that words of some languages need
_BYTES = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_SECONDS = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_count(text: str | float, what: str) -> int:
    """Read a positive count such as 400M, 1.2G, 2e6 or 5300000; `what` names its place in an error."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = f"{text:f}"
    value = _quantity(str(text).upper(), _COUNTS)
    if round(value) < 1:
        raise UserError(f"{what}: {str(text)[:40]!r} is not a positive count; write it like 400M, 1.2G or 5300000")
    return round(value)


def parse_bytes(text: str, what: str) -> int:
    """Read a positive number of bytes from 512KB, 320 KiB, 1.5MB or 65536: as of memory, a KB is 1024 bytes."""
    value = _quantity(text.upper().replace("IB", "B"), _BYTES)
    if round(value) < 1:
        raise UserError(f"{what}: {text[:40]!r} is not a positive number of bytes; write it like 320KB or 1.5MB")
    return round(value)


def parse_duration(text: str, what: str) -> float:
    """Read a positive duration in seconds from 90, 90s, 5ms, 10m, 1.5h or 1d."""
    value = _quantity(text.lower(), _SECONDS)
    if value <= 0:
        raise UserError(f"{what}: {text[:40]!r} is not a positive duration; write it like 90s, 10m or 1.5h")
    return value


def _quantity(text: str, units: Mapping[str, float]) -> float:
    """A number with a unit, 0 if it cannot be read."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,2})?)\s*([a-zA-Z]*)", text.strip())
    return float(match[1]) * units[match[2]] if match and match[2] in units else 0.0


def check_range(what: str, value: float, low: float, high: float) -> None:
    """Raise UserError for a number that is not from low to high; `what` names its place."""
    if not low <= value <= high:
        raise UserError(f"{what} must be from {low:g} to {high:g}, got {value:g}")


def format_count(value: float, digits: int = 4) -> str:
    """Write a count with a unit, rounded to `digits` digits: 385814752 -> 385.8M, 999999 -> 1M."""
    rounded = float(f"{value:.{digits}g}")
    unit = next((unit for unit in ("T", "G", "M", "K") if abs(rounded) >= _COUNTS[unit]), "")
    return f"{rounded / _COUNTS[unit]:.{max(digits, 3)}g}{unit}"


def format_bytes(value: float) -> str:
    """Write bytes with a unit: 327680 -> 320 KB."""
    unit = next((unit for unit in ("GB", "MB", "KB") if value >= _BYTES[unit]), "B")
    return f"{value / _BYTES[unit]:.4g} {unit}"


def format_duration(seconds: float) -> str:
    """Write a duration for people, to the second below an hour and to the minute above: 75 -> 1m15s."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"


def shortest_decimal(number: float, near: float, same: Callable[[float], bool]) -> float:
    """The number with the fewest decimals for which `same` holds; of several the nearest to `near`.

    same: a condition that holds exactly on one interval, which contains `number`.
    """
    if number == near and number == int(number):
        return number
    given = Decimal(repr(number))
    for digits in count():
        unit = Decimal(1).scaleb(-digits)
        start = given.quantize(unit, ROUND_FLOOR)
        below = takewhile(same, (float(start - i * unit) for i in count()))
        above = takewhile(same, (float(start + i * unit) for i in count(1)))
        if found := [*below, *above]:
            return min(found, key=lambda x: (abs(x - near), x))
    raise AssertionError("the number itself is found at last")


def shown(text: object, most: int | None = None) -> str:
    r"""A user's text, such as a file name, as one printable line, cut in the middle to at most `most` characters.

    Invisible characters are escaped, as \n, \x1b or \xe9 (a byte that is not UTF-8), so that no terminal acts on them.
    """
    seen = "".join(map(_visible, str(text)))
    if most is None or len(seen) <= most:
        return seen
    return f"{seen[: most // 2]}…{seen[len(seen) - (most - 1) // 2 :]}"


def _visible(letter: str) -> str:
    if unicodedata.category(letter) not in _UNSEEN or letter in _JOINERS:
        return letter
    if "\udc80" <= letter <= "\udcff":  # how Python holds a byte of a file's name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def plural(number: int, noun: str, several: str = "") -> str:
    """A number with its noun: 1 epoch, 2 epochs; several: the plural of a noun that takes more than an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or f'{noun}s'}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown word: the nearest known word, or all of them if none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"nearest is {close[0]!r}" if close else f"known are {', '.join(known)}"
