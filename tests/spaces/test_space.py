"""Search spaces: their language, size, codes, sampling under budgets and bulk costs."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Architecture, SearchSpace, UserError
from nas.networks.architecture import bundled_names, published_networks
from tests.helpers.strategies import layers_of, small_spaces, strided_spaces

SMALL = SearchSpace(
    "small",
    (
        "{ds_e1|ir_e1|ir_e3}_r{1|2}_k3_s{1|2}_c{8|16}",  # ds_e1 and ir_e1 are one network
        "ir_r{1|2}_k{3|5}_s1_e{3|6}_c16_{skip|noskip}",  # skipping matters behind 16 channels or with 2 layers only
        "cn_k{1|3}_s2_c{8|24}",
    ),
    stem=16,
    head=32,
    resolution=32,
)
ALL = {(str(a)): a for a in map(SMALL.decode, itertools.product(*(range(len(c.texts)) for c in SMALL.choices)))}
BUNDLED = ("mnas", "efficientnet_v1", "efficientnet_v2")


def spaces() -> st.SearchStrategy[SearchSpace]:
    return st.sampled_from([SMALL, *(SearchSpace.load(name) for name in BUNDLED)])


def test_size_counts_distinct_networks() -> None:
    assert SMALL.size == len(ALL) == (8 * 12 + 8 * 16) * 4  # behind 8 and behind 16 channels
    networks = list(SMALL.enumerate())
    assert len(networks) == len(set(networks)) == SMALL.size
    assert {str(a) for a in networks} == set(ALL)


def test_a_space_of_spellings_of_one_network_holds_one() -> None:
    space = SearchSpace("one", ("ir_r1_k3_s1_e{2.4|2.5}_c16_se{0.25|0.26}",), stem=16)
    assert space.size == 1
    assert [str(arch) for arch in space.enumerate()] == ["224px stem16 ir_r1_k3_s1_e2.5_c16_se0.25 head1280"]


@settings(max_examples=40)
@given(small_spaces(), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_networks_are_told_apart_by_their_layers(space: SearchSpace, seed: int, low: float, high: float) -> None:
    """Size, counts within a budget, enumeration and samples against all spellings, grouped by layers."""
    codes = list(itertools.product(*(range(len(choice.texts)) for choice in space.choices)))
    networks = {str(layers_of(arch)): arch for arch in map(space.decode, codes)}
    assert space.size == len(networks)
    assert {str(layers_of(arch)) for arch in space.enumerate()} == set(networks)
    assert len({arch.hash for arch in networks.values()}) == len(networks)

    least, most = space.extremes()["params"]
    bounds = {"params": (least + min(low, high) * (most - least), least + max(low, high) * (most - least))}
    feasible = {
        layers for layers, arch in networks.items() if bounds["params"][0] <= arch.cost().params <= bounds["params"][1]
    }
    if not feasible:
        with pytest.raises(UserError):
            space.count_within(bounds)
        return
    assert space.count_within(bounds) == (len(feasible), None)
    drawn = space.draw_codes(60 * len(feasible), seed, bounds)
    counts = Counter(str(layers_of(space.decode(code))) for code in drawn)
    assert set(counts) == feasible or len(feasible) > 50
    assert len(feasible) == 1 or chi_square_is_plausible([counts[layers] for layers in feasible])


def test_a_string_without_braces_is_a_fixed_stage() -> None:
    space = SearchSpace("fixed", ("ir_r2_k3_s2_e6_c24",))
    assert space.size == 1
    assert space.sample(3) == Architecture.parse("ir_r2_k3_s2_e6_c24")
    assert space.sample_codes(5).shape == (5, 0)


@given(spaces(), st.integers(0, 10**6))
def test_encode_undoes_decode(space: SearchSpace, seed: int) -> None:
    code = space.sample_codes(1, seed)[0]
    arch = space.decode(code)
    assert space.encode(arch).tolist() == code.tolist()
    assert space.code(space.params(code)).tolist() == code.tolist()
    assert space.decode(space.encode(Architecture.parse(str(arch)))) == arch


@given(spaces(), st.integers(0, 10**6), st.sampled_from([None, 33, 100]), st.sampled_from([1, 3]))
def test_bulk_costs_equal_single_ones(space: SearchSpace, seed: int, px: int | None, channels: int) -> None:
    codes = space.sample_codes(3, seed)
    deployed = space.at(px or space.resolution).deployed(11, channels)
    found = deployed.costs(codes)
    for row, code in enumerate(codes):
        cost = space.decode(code).cost(px, 11, channels)
        assert deployed.cost(deployed.decode(code)) == cost
        assert {name: int(column[row]) for name, column in found.items()} == vars(cost)
    assert all(column.dtype == np.int64 for column in found.values())


def chi_square_is_plausible(counts: list[int]) -> bool:
    """Whether counts of equally likely outcomes are within five standard deviations of the chi-square's mean."""
    expected = sum(counts) / len(counts)
    statistic = sum((c - expected) ** 2 / expected for c in counts)
    freedom = len(counts) - 1
    return abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_madds": 400_000},
        {"min_madds": 2_500_000},
        {"max_madds": 700_000, "min_madds": 600_000},
        {"max_params": 38_000},
        {"max_madds": 600_000, "max_params": 40_000},
        {"max_madds": 1_000_000, "resolution": 45},
    ],
)
def test_samples_are_uniform_over_the_feasible_networks(limits: dict[str, int]) -> None:
    limits = {**limits}
    px = limits.pop("resolution", 32)
    low, high = limits.get("min_madds", 0), limits.get("max_madds", float("inf"))
    feasible = set()
    for text, arch in ALL.items():
        cost = arch.cost(px)
        if low <= cost.madds <= high and cost.params <= limits.get("max_params", float("inf")):
            feasible.add(text)
    assert not limits or 0 < len(feasible) < len(ALL) / 2
    draws = 60 * len(feasible)
    counts: Counter[str] = Counter()
    drawn = SMALL.at(px).sample_codes(draws, 7, **limits)
    for code, times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        counts[str(SMALL.decode(code))] += int(times)
    assert set(counts) == feasible
    assert chi_square_is_plausible(list(counts.values()))


@given(spaces(), st.integers(0, 10**6), st.floats(0.001, 1), st.floats(0, 1))
def test_samples_keep_their_budget(space: SearchSpace, seed: int, share: float, gap: float) -> None:
    least, most = space.extremes()["madds"]
    high = least + share * (most - least)
    low = least + gap * 0.9 * (high - least)
    try:
        codes = space.sample_codes(5, seed, max_madds=high, min_madds=low)
    except UserError:
        assert space is SMALL
        assert not any(low <= a.cost().madds <= high for a in ALL.values())
        return
    madds = space.costs(codes)["madds"]
    assert ((low <= madds) & (madds <= high)).all()


@pytest.mark.parametrize(
    "limits",
    [
        {"madds": (0, 400_000)},
        {"madds": (600_000, 700_000)},
        {"params": (0, 38_000)},
        {"madds": (0, 600_000), "params": (0, 40_000)},
        {},
    ],
)
def test_networks_within_a_budget_are_counted_exactly(limits: dict[str, tuple[float, float]]) -> None:
    within = [all(low <= vars(a.cost())[name] <= high for name, (low, high) in limits.items()) for a in ALL.values()]
    assert SMALL.count_within(limits) == (sum(within), None)


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_estimates_agree_with_exact_counts(name: str, share: float) -> None:
    space = SearchSpace.load(name)
    least, most = space.extremes()["madds"]
    high = least + share * (most - least)
    exact, none = space.count_within({"madds": (0, high)})
    assert none is None
    # A second budget that excludes almost nothing leaves only the estimate.
    number, error = space.count_within({"madds": (0, high), "params": (space.extremes()["params"][0] + 1, 1e12)})
    assert error is not None
    assert 0 < error < 0.02 * exact
    assert abs(number - exact) < 5 * error
    drawn = space.costs(space.sample_codes(20_000, 1))["madds"] <= high
    assert abs(drawn.mean() - exact / space.size) < 5 * (drawn.mean() / 20_000) ** 0.5


def test_rare_networks_are_found() -> None:
    space = SearchSpace.load("mnas")
    least, _ = space.extremes()["madds"]
    madds = space.costs(space.sample_codes(200, 0, max_madds=least * 1.001))["madds"]
    assert madds.max() <= least * 1.001
    assert space.costs(space.sample_codes(1, 0, max_madds=least))["madds"][0] == least


def test_a_sample_is_a_function_of_its_seed() -> None:
    space = SearchSpace.load("mnas")
    assert space.sample(5, max_madds=3e8) == space.sample(5, max_madds=3e8) != space.sample(6, max_madds=3e8)
    small = space.sample(5, max_madds=3e8, resolution=128)
    assert small.resolution == 128
    assert small.cost().madds <= 3e8


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_madds": 90e6}, "at most 90M madds; the space reaches from 94.23M to 1.245G"),
        ({"min_madds": 2e9}, "at least 2G madds; the space reaches from 94.23M to 1.245G"),
        ({"max_madds": 2e8, "min_madds": 3e8}, "--min-madds 300000000.0 is above --max-madds 200000000.0"),
        ({"max_params": 1e6}, "at most 1M params; the space reaches from 2.214M"),
        ({"max_params": 1e6}, "counted at 224 px with 1000 classes: the classifier alone has 1.281M params"),
        ({"min_madds": 1.2e9, "max_params": 2.3e6}, "counted at 224 px with 1000 classes"),
        ({"min_madds": 1.2e9, "max_params": 2.3e6}, "no network has at least 1.2G madds and at most 2.3M params"),
    ],
)
def test_an_impossible_budget_names_what_the_space_can_do(limits: dict[str, float], said: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSpace.load("mnas").sample(0, **limits)
    assert said in str(caught.value)


def test_b0_is_in_its_spaces_and_others_are_not() -> None:
    b0 = Architecture.load("efficientnet_b0")
    for name in ("mnas", "efficientnet_v1"):
        space = SearchSpace.load(name)
        assert space.decode(space.encode(b0)) == b0
    with pytest.raises(UserError, match="not in the space efficientnet_v2"):
        SearchSpace.load("efficientnet_v2").encode(b0)
    with pytest.raises(UserError, match="stage 2 has no choice"):
        SearchSpace.load("mnas").encode(Architecture.parse(str(b0).replace("ir_r2_k3", "ir_r2_k7")))


@pytest.mark.parametrize(
    ("stage", "column", "said"),
    [
        ("ir_r{1|2}_k{3|4}_s2_e6_c24", 11, "kernel must be odd"),
        ("ir_r{1|0}_k3_s2_e6_c24", 4, "repeats must be from 1"),
        ("ir_r1_k3_s2_e6_c24_se{0|2}", 20, "se must be between 0 and 1"),
        ("{ir|ri}_r1_k3_s2_e6_c24", 2, "unknown op 'ri'"),
        ("ir_r1_k{}_s2_e6_c24", 8, "empty choice"),
        ("ir_r1_k{3|}_s2_e6_c24", 8, "empty choice"),
        ("ir_r1_k{3|5|3}_s2_e6_c24", 8, "duplicate choice '3'"),
        ("ir_r1_k3_s2_e{6|6.0}_c24", 14, "duplicate choice '6.0'"),
        ("ir_r1_k{3|5_s2_e6_c24", 8, "unbalanced {"),
        ("ir_r1_k3|5}_s2_e6_c24", 11, "unbalanced }"),
        ("ir_r1_k{3|{5|7}}_s2_e6_c24", 8, "unbalanced {"),
        ("ir_r1_k3_s{2|3}_e6_c24", 10, "stride must be from 1 to 2"),
        ("{ds|ir}_k3_s1_e{1|6}_c24", 2, "has no expansion"),
        ("ir_k3_s1_e6_c{" + "|".join(map(str, range(1, 10002))) + "}", 14, "more than 10000 combinations"),
        ("ir_k3_s1_e6", 1, "channels is missing"),
    ],
)
def test_errors_in_spaces_name_file_stage_and_column(tmp_path: Path, stage: str, column: int, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'stages = ["ds_k3_s1_c16", "{stage}"]')
    with pytest.raises(UserError) as caught:
        SearchSpace.load(path)
    message = str(caught.value)
    assert f"mine.toml: stage 2, column {column}: " in message
    assert said in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages = 3", "stages must be a list"),
        ("[stages]", "stages must be a list"),
        ("resolution = 224", "key 'stages' is missing"),
        ('stages = ["ds_k3_s1_c16"]\ntarget = 3', "unknown key 'target'"),
        ('stages = ["ds_k3_s1_c16"]\ntarget_madds = "many"', "not a positive count"),
        ('stages = ["ds_k3_s1_c16"]\nresolution = 10000', "resolution must be"),
        ('stages = ["ds_k3_s1_c16"]\nname = "../x"', "name must be a word"),
        ('stages = ["ds_k3_s1_c16"]\nactivation = 3', "unknown activation"),
        ("stages = ]", "line 1, column 10"),
    ],
)
def test_errors_in_files_name_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.toml") as caught:
        SearchSpace.load(path)
    assert said in str(caught.value)


def test_wrong_codes_are_refused() -> None:
    with pytest.raises(UserError, match=r"codes must be whole numbers of shape \[n, 10\]"):
        SMALL.costs([[0, 1]])
    with pytest.raises(UserError, match="alternatives 0 to 2"):
        SMALL.decode([3, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(UserError, match="not of the space small"):
        SMALL.code({"stage1.kernel": 3})


def test_bundled_spaces_load() -> None:
    assert set(BUNDLED) <= set(bundled_names("nas.search_spaces"))
    assert SearchSpace.load("mnas").size == 6687075336192
    with pytest.raises(UserError, match="nearest is 'mnas'"):
        SearchSpace.load("mnass")


@settings(max_examples=60, deadline=None)
@given(strided_spaces(), st.integers(1, 256), st.sampled_from([None, 0.5]))
def test_a_fitted_space_holds_the_fitted_networks(space: SearchSpace, px: int, width: float | None) -> None:
    fitted = space.fitted(px, width)
    if px >= space.resolution:
        assert fitted == space
        return
    assert fitted.fitted(px, width) == fitted
    codes = list(itertools.product(*(range(len(choice.texts)) for choice in space.choices)))[:200]
    same = [len(choice.texts) for choice in fitted.choices] == [len(choice.texts) for choice in space.choices]
    networks = set()
    for code in codes:
        arch = space.decode(code).fitted(px, width)
        assert arch in fitted
        assert fitted.decode(fitted.encode(arch)) == arch
        assert not same or fitted.decode(code) == arch
        networks.add(arch)
    assert len(codes) == 200 or set(fitted.enumerate()) == networks


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("px", [28, 32, 64, 150])
def test_bundled_spaces_are_fitted(name: str, px: int) -> None:
    space = SearchSpace.load(name)
    fitted = space.fitted(px).deployed(10, 1)
    assert fitted.resolution == px
    assert [choice.name for choice in fitted.choices] == [choice.name for choice in space.choices]
    assert fitted.size <= space.size
    assert fitted.fingerprint != space.fingerprint == space.deployed(10, 1).fingerprint
    for seed in range(5):
        arch = space.sample(seed).fitted(px)
        assert fitted.decode(fitted.encode(arch)) == arch
        assert arch.walk()[-1].output.size >= 4
    least, most = fitted.extremes()["madds"]
    assert least < fitted.target_madds < most


def test_alternatives_that_become_equal_are_one() -> None:
    space = SearchSpace("mine", ("ir_r1_k{3|5}_s2_e6_c{40 | 48|96}", "{ds_c8|ds_c9|ir_e3_c9}_r1_k3_s{1|2}"))
    assert space.fitted(28).templates == (
        "ir_r1_k{3|5}_s2_e6_c{12|24}",
        "{ds_c2|ir_e3_c2}_r1_k3_s{1|2}",
    )
    assert space.fitted(8).templates[0] == "ir_r1_k{3|5}_s1_e6_c{4|6|12}"
    assert space.fitted(4).templates[1] == "{ds_c1|ir_e3_c1}_r1_k3_s{1}"


@pytest.mark.parametrize("template", ["ir_r1_k3_s1_e6_c2{4|8}", "ir_r1_k3_s1_e6_c{2|3}2", "ir_r1_k3_e6_{c|c1}24_s1"])
def test_a_channel_number_that_is_partly_a_choice_is_not_fitted(template: str) -> None:
    with pytest.raises(UserError, match="cannot be fitted; write channels and stride like c24_s2"):
        SearchSpace("mine", (template,)).fitted(28)


def test_the_target_follows_the_networks_in_the_space() -> None:
    b0 = Architecture.load("efficientnet_b0")
    for name in ("mnas", "efficientnet_v1"):
        space = SearchSpace.load(name)
        for px in (28, 64, 160):
            before, after = b0.cost(num_classes=1).madds, b0.fitted(px).cost(num_classes=1).madds
            assert space.fitted(px).target_madds == round(4e8 * after / before)
    mine = SearchSpace("mine", ("ir_r{1|2}_k3_s2_e6_c{16|24}",), 16, 64, 64, target_madds=10**6)
    assert 0.05e6 < mine.fitted(32).target_madds < 10**6
    assert SearchSpace("mine", mine.templates, 16, 64, 64).fitted(32).target_madds is None


@pytest.mark.parametrize(
    "limits",
    [
        {"madds": (0, 300_000)},
        {"madds": (400_000, 500_000)},
        {"params": (0, 12_000)},
        {"madds": (0, 600_000), "params": (0, 20_000), "activations": (0, 60_000)},
    ],
)
def test_budgets_count_as_deployed(limits: dict[str, tuple[float, float]]) -> None:
    space = SMALL.fitted(20).deployed(7, 1)
    networks = {arch: space.cost(arch) for arch in space.enumerate()}
    assert all(cost == arch.cost(20, 7, 1) for arch, cost in networks.items())
    feasible = {
        arch
        for arch, cost in networks.items()
        if all(low <= vars(cost)[name] <= high for name, (low, high) in limits.items())
    }
    assert 0 < len(feasible) < len(networks)
    assert space.count_within(limits) == (len(feasible), None)
    counts = Counter(map(space.decode, space.draw_codes(60 * len(feasible), 3, limits)))
    assert set(counts) == feasible
    assert chi_square_is_plausible(list(counts.values()))
    least, most = space.extremes()["params"]
    assert (least, most) == (min(c.params for c in networks.values()), max(c.params for c in networks.values()))


def test_published_networks_are_fitted_too() -> None:
    efficient = {"efficientnet_b0", "efficientnet_lite0", "efficientnet_v2_b0"}
    assert set(published_networks(224)) == {*efficient, "mnasnet_a1", "mobilenet_v2"}
    networks = published_networks(28)
    assert networks["mobilenet_v2"] == Architecture.load("mobilenet_v2").fitted(28)
    held = {
        space: {name for name, arch in networks.items() if arch in SearchSpace.load(space).fitted(28)}
        for space in BUNDLED
    }
    b0, v2 = {"efficientnet_b0"}, {"efficientnet_v2_b0"}
    assert held == {"mnas": b0, "efficientnet_v1": b0, "efficientnet_v2": v2}


@pytest.mark.parametrize("wrong", [{"num_classes": 0, "in_channels": 3}, {"num_classes": 10, "in_channels": 10**6}])
def test_impossible_deployments_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be a whole number from 1"):
        SMALL.deployed(**wrong)
