"""Numbers as people write them, and as they are shown to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UserError
from nas.units import format_duration, parse_count, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5ms", 0.005), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), (" 1H ", 3600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1m", "1w", "1 h 2", "1e3", "m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match=r"--time-budget: .* is not a positive duration"):
        parse_duration(text, "--time-budget")


@pytest.mark.parametrize(("text", "count"), [("400M", 400e6), ("5.5m", 5.5e6), ("1.2G", 1.2e9), ("20K", 2e4), ("7", 7)])
def test_counts(text: str, count: float) -> None:
    assert parse_count(text, "--max-madds") == count


@given(st.integers(0, 10**6))
def test_a_duration_that_is_shown_is_near_what_it_is(seconds: int) -> None:
    said = format_duration(seconds)
    units = {"h": 3600, "m": 60, "s": 1}
    told, digits = 0, ""
    for character in said:
        if character.isdecimal():
            digits += character
        else:
            told, digits = told + int(digits) * units[character], ""
    assert abs(told - seconds) <= 60
