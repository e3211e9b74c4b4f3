"""Limits on what a network costs, such as max_madds 400M, min_memory 64KB or max_latency 5ms: read, and in words."""

from __future__ import annotations

from collections.abc import Mapping

from nas.base.errors import UserError
from nas.base.units import format_bytes, format_count, nearest, parse_bytes, parse_count, parse_duration

LIMITED = ("madds", "params", "flops", "activations", "memory", "latency")
OPTIONS = tuple(f"{end}_{name}" for name in LIMITED for end in ("max", "min"))
COLUMNS = {"memory": "peak"}  # where a cost's column has another name: its elements are bytes in int8
SPOKEN = {column: name for name, column in COLUMNS.items()}

Limit = str | float | None
Bounds = Mapping[str, tuple[float, float]]  # column of a cost -> (least, most), both inclusive; a latency in seconds


def read_limits(given: Mapping[str, Limit]) -> dict[str, float]:
    """The limits that are given, by option such as max_madds: texts or numbers, of latency in seconds.

    Raises UserError for what is no limit, and for a minimum above its maximum.
    """
    for option in given:
        if option not in OPTIONS:
            raise UserError(f"unknown option {option[:40]!r}; {nearest(option[:40], OPTIONS)}")
    found = {option: _read(option, given[option]) for option in OPTIONS if given.get(option) is not None}
    for name in LIMITED:
        low, high = f"min_{name}", f"max_{name}"
        if found.get(low, 0) > found.get(high, float("inf")):
            raise UserError(
                f"{typed(low)} {given[low]} is above {typed(high)} {given[high]}; lower one or raise the other"
            )
    return found


def bounds_of(limits: Mapping[str, float]) -> Bounds:
    """Limits by option as bounds on the columns of a cost."""
    return {
        COLUMNS.get(name, name): (limits.get(f"min_{name}", 0), limits.get(f"max_{name}", float("inf")))
        for name in LIMITED
        if {f"min_{name}", f"max_{name}"} & set(limits)
    }


def typed(option: str) -> str:
    """An option as it is typed."""
    return "--" + option.replace("_", "-")


def figure(column: str, value: float) -> str:
    """A cost with its unit: 400M, 320 KB, 5 ms."""
    if column == "latency":
        return f"{1000 * value:.4g} ms"
    return format_bytes(value) if column == "peak" else format_count(value)


def amount(column: str, value: float) -> str:
    """A cost in words: 400M madds, 320 KB memory, 5 ms latency."""
    return f"{figure(column, value)} {SPOKEN.get(column, column)}"


def at_most(column: str, value: float) -> str:
    """The option for the most of a cost: --max-madds 400M."""
    return f"{typed(f'max_{SPOKEN.get(column, column)}')} {figure(column, value)}"


def words(bounds: Bounds) -> str:
    """Bounds in words: at most 400M madds and at most 320 KB memory."""
    parts = []
    for column, (low, high) in bounds.items():
        parts += [f"at least {amount(column, low)}"] if low > 0 else []
        parts += [f"at most {amount(column, high)}"] if high < float("inf") else []
    return " and ".join(parts)


def _read(option: str, value: Limit) -> float:
    name = option.removeprefix("max_").removeprefix("min_")
    if isinstance(value, str):
        read = {"memory": parse_bytes, "latency": parse_duration}.get(name, parse_count)
        value = read(value, typed(option))
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UserError(f"{typed(option)}: {str(value)[:40]} is not a positive number")
    return round(value, 9) if name == "latency" else value  # latencies are added up in nanoseconds
