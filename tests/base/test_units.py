"""Numbers as people write them, and as they are shown to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.base.errors import UserError
from nas.base.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_bytes,
    parse_count,
    parse_duration,
    shortest_decimal,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5ms", 0.005),
        ("10m", 600),
        ("1.5h", 5400),
        ("2d", 172_800),
        (" 1H ", 3600),
        ("5e-1 s", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1m", "1w", "1 h 2", "nan", "m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match=r"--time-budget: .* is not a positive duration"):
        parse_duration(text, "--time-budget")


@pytest.mark.parametrize(
    ("text", "count"), [("400M", 400e6), ("5.5m", 5.5e6), ("1.2G", 1.2e9), ("20K", 2e4), ("7", 7), ("2e6", 2e6)]
)
def test_counts(text: str, count: float) -> None:
    assert parse_count(text, "--max-madds") == count


@pytest.mark.parametrize(
    ("text", "size"), [("512KB", 2**19), ("320 KiB", 327_680), ("1.5mb", 1.5 * 2**20), ("2e6", 2e6), ("9 B", 9)]
)
def test_bytes(text: str, size: float) -> None:
    assert parse_bytes(text, "--max-memory") == size
    assert parse_bytes(format_bytes(size), "--max-memory") == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize("text", ["", "0KB", "-5KB", "nan", "5 ms", "1e999", "320KBB"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(UserError, match=r"--max-memory: .* is not a positive number of bytes"):
        parse_bytes(text, "--max-memory")


@given(st.integers(0, 10**6))
def test_a_duration_that_is_shown_is_near_what_it_is(seconds: int) -> None:
    said = format_duration(seconds)
    units = {"h": 3600, "m": 60, "s": 1}
    read, digits = 0, ""
    for character in said:
        if character.isdecimal():
            digits += character
        else:
            read, digits = read + int(digits) * units[character], ""
    assert abs(read - seconds) <= 60


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *[(-5, "0s"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.4, "59m59s"), (3599.7, "1h00m")],
        *[(7169, "1h59m"), (7199, "2h00m"), (86_399, "24h00m")],
    ],
)
def test_durations_as_shown(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "digits", "said"),
    [
        *[(385_814_752, 4, "385.8M"), (999_949, 4, "999.9K"), (999_999, 4, "1M"), (-999_999, 4, "-1M")],
        *[(999.96, 4, "1K"), (999.4, 4, "999.4"), (999_999_999, 3, "1G"), (999_500, 3, "1M"), (0, 4, "0")],
        *[(123_456, 2, "120K"), (123_456, 1, "100K"), (987, 2, "990"), (0.25, 4, "0.25"), (2.5e15, 4, "2500T")],
    ],
)
def test_counts_as_shown(value: float, digits: int, said: str) -> None:
    assert format_count(value, digits) == said


@given(st.floats(-1e17, 1e17), st.integers(1, 6))
def test_a_count_that_is_shown_is_near_what_it_is(value: float, digits: int) -> None:
    said = format_count(value, digits)
    number = float(said.rstrip("KMGT"))
    assert abs(number) < 1000 or said.endswith("T")
    assert number * 1000 ** ["", "K", "M", "G", "T"].index(said.lstrip("-0123456789.e+")) == pytest.approx(
        value, rel=0.51 * 10 ** (1 - digits)
    )


@given(st.sampled_from([1, 8, 16, 24]), st.floats(0.01, 9))
def test_the_shortest_decimal_is_that_of_a_search_through_all(parts: int, number: float) -> None:
    def same(x: float) -> bool:
        return x > 0 and round(parts * x) == round(parts * number)

    found = shortest_decimal(number, number, same)
    assert same(found)
    digits = next(d for d in range(30) if round(found, d) == found)
    shorter = [i / 10**d for d in range(digits) for i in range(11 * 10**d)]
    assert not any(same(x) for x in shorter)
