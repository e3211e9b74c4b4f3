"""Limits on costs, read from options."""

import math

import pytest

from nas.base.errors import UserError
from nas.base.limits import bounds_of, read_limits, words


def test_limits_become_bounds() -> None:
    limits = read_limits({"max_madds": "400M", "min_params": 10, "max_memory": "320KB", "max_latency": "5 ms"})
    assert bounds_of(limits) == {
        "madds": (0, 400_000_000),
        "params": (10, math.inf),
        "peak": (0, 327_680),
        "latency": (0, 0.005),
    }
    assert words(bounds_of(limits)) == (
        "at most 400M madds and at least 10 params and at most 320 KB memory and at most 5 ms latency"
    )
    assert bounds_of(read_limits({"max_madds": None})) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_madds": "nan"}, "--max-madds: 'nan' is not a positive count"),
        ({"max_madds": math.nan}, "--max-madds: nan is not a positive number"),
        ({"max_params": -1}, "--max-params: -1 is not a positive number"),
        ({"min_latency": "-5ms"}, "--min-latency: '-5ms' is not a positive duration"),
        ({"max_memory": "5ms"}, "--max-memory: '5ms' is not a positive number of bytes"),
        ({"min_memory": "1MB", "max_memory": "512 KiB"}, "--min-memory 1MB is above --max-memory 512 KiB"),
        ({"max_lattency": "5ms"}, "unknown option 'max_lattency'; nearest is 'max_latency'"),
    ],
)
def test_what_is_no_limit(given: dict[str, str | float], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_limits(given)
    assert said in str(caught.value)
