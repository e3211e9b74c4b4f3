"""Budgets on several costs at once: counted, drawn from uniformly, and refused, against a list of all networks."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Architecture, SearchSpace, UserError
from nas.networks.parts import nanoseconds, part_names
from nas.spaces.budgets import nearest
from nas.spaces.counting import build
from tests.helpers.strategies import small_spaces
from tests.spaces.test_space import chi_square_is_plausible

Networks = dict[Architecture, dict[str, float]]  # with their costs
COSTS = ("madds", "params", "flops", "activations", "peak", "latency")


def seconds_of(part: str) -> float:
    """A latency that differs between parts."""
    return 1e-4 + int(hashlib.sha256(part.encode()).hexdigest()[:4], 16) / 1e7


SPACE = SearchSpace(
    "small",
    ("{ds_e1|ir_e3}_r{1|2}_k3_s{1|2}_c{8|16}", "ir_r{1|2}_k{3|5}_s1_e{3|6}_c16_{skip|noskip}", "cn_k{1|3}_s2_c{8|24}"),
    stem=4,
    head=32,
    resolution=32,
).timed(seconds_of)


def listed(space: SearchSpace) -> Networks:
    """All networks with their costs."""
    return {
        arch: vars(space.cost(arch)) | {"latency": sum(nanoseconds(seconds_of(p)) for p in part_names(arch)) / 1e9}
        for arch in space.enumerate()
    }


ALL = listed(SPACE)


def feasible(
    networks: dict[Architecture, dict[str, float]], bounds: dict[str, tuple[float, float]]
) -> set[Architecture]:
    return {a for a, cost in networks.items() if all(low <= cost[n] <= high for n, (low, high) in bounds.items())}


def quantiles(networks: Networks, name: str, *shares: float) -> tuple[float, ...]:
    ordered = sorted(cost[name] for cost in networks.values())
    return tuple(ordered[int(share * (len(ordered) - 1))] for share in shares)


def test_a_timed_space_counts_latencies() -> None:
    codes = SPACE.sample_codes(50, 0)
    for code, seconds in zip(codes, SPACE.costs(codes)["latency"], strict=True):
        assert seconds == ALL[SPACE.decode(code)]["latency"]
    for name, ends in SPACE.extremes().items():
        assert ends == quantiles(ALL, name, 0, 1)


@pytest.mark.parametrize(
    "shares",
    [
        {"madds": (0, 0.5), "peak": (0, 0.6)},
        {"peak": (0.5, 1)},
        {"params": (0.2, 0.7), "latency": (0, 0.6)},
        {"madds": (0, 0.6), "params": (0, 0.6), "peak": (0, 0.7)},
        {"latency": (0, 0.6), "params": (0.1, 1), "peak": (0.2, 0.8)},
        {"madds": (0, 0.8), "params": (0, 0.8), "latency": (0, 0.7), "activations": (0.1, 0.9), "peak": (0.1, 0.9)},
    ],
)
@pytest.mark.parametrize("enumerable", [True, False])
def test_draws_are_uniform(
    shares: dict[str, tuple[float, float]], enumerable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the few networks of this space are listed or, as those of large spaces, drawn."""
    if not enumerable:
        monkeypatch.setattr("nas.spaces.budgets._ENUMERABLE", 0)
    bounds = {name: quantiles(ALL, name, *ends) for name, ends in shares.items()}
    expected = feasible(ALL, bounds)
    assert 10 < len(expected) < len(ALL)
    drawn = SPACE.draw_codes(60 * len(expected), 3, bounds)
    counts: Counter[Architecture] = Counter()
    for code, times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        counts[SPACE.decode(code)] += int(times)
    assert set(counts) == expected
    assert chi_square_is_plausible(list(counts.values()))
    number, error = SPACE.count_within(bounds)
    assert abs(number - len(expected)) <= 5 * (error or 0)


@settings(max_examples=30, deadline=None)
@given(small_spaces(), st.dictionaries(st.sampled_from(COSTS), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_budgets_against_a_list_of_all_networks(space: SearchSpace, shares: dict[str, tuple[float, float]]) -> None:
    space = space.timed(seconds_of)
    networks = listed(space)
    bounds = {name: quantiles(networks, name, *sorted(ends)) for name, ends in shares.items()}
    expected = feasible(networks, bounds)
    if expected:
        assert space.count_within(bounds) == (len(expected), None)
        drawn = set(map(space.decode, space.draw_codes(30 * len(expected), 0, bounds)))
        assert drawn <= expected
        assert drawn == expected or len(expected) > 30
        return
    with pytest.raises(UserError, match="no network has"):
        space.draw_codes(1, 0, bounds)
    for name, (low, high) in bounds.items():
        others = feasible(networks, {n: ends for n, ends in bounds.items() if n != name})
        off = [max(low - networks[arch][name], networks[arch][name] - high) for arch in others]
        found = nearest(build(space), bounds, name)
        assert (found is None) == (not others)
        assert found is None or max(low - found, found - high) == pytest.approx(min(off), abs=1e-9)


def test_rare_networks_are_drawn_under_three_budgets() -> None:
    """One in about 10^5 of 7 * 10^12 networks."""
    space = SearchSpace.load("mnas").timed(seconds_of)
    costs = space.costs(space.sample_codes(20_000, 0))
    bounds = {name: (0.0, float(np.quantile(costs[name], 0.03))) for name in ("madds", "params")}
    bounds["latency"] = (0.0, float(np.quantile(costs["latency"], 0.002)))
    number, error = space.count_within(bounds)
    assert error is not None
    assert error < 0.05 * number < 1e-4 * space.size
    drawn = space.costs(space.draw_codes(500, 1, bounds))
    for name, (_, high) in bounds.items():
        assert drawn[name].max() <= high


def test_an_impossible_budget_names_the_nearest_for_each() -> None:
    space = SearchSpace.load("mnas")
    with pytest.raises(UserError) as caught:
        space.sample(max_madds=100e6, min_params=4e6, max_memory=700 * 1024)
    assert "no network has at most 100M madds and at least 4M params and at most 700 KB memory" in str(caught.value)
    assert "with the others as they are, the nearest possible is " in str(caught.value)
    with pytest.raises(
        UserError, match=r"no network has at most 100 KB memory; the space reaches from 539 KB to 2\.68 MB"
    ):
        space.sample(max_memory=100 * 1024)
