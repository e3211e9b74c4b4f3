"""The mathematics of scaling against brute force, and against the published EfficientNets."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product

import pytest
import torchvision
from hypothesis import assume, given
from hypothesis import strategies as st

from nas import Architecture, UserError
from nas.base.files import read_toml
from nas.networks import scaling
from nas.networks.architecture import FAMILIES, bundled_path, family_names
from nas.networks.cost import Deployment
from nas.networks.scaling import Coefficients
from tests.helpers.strategies import architectures

B0 = Architecture.load("efficientnet_b0")


def brute(target: str, step: str, tolerance: str) -> dict[tuple[float, ...], Fraction]:
    """All triples of a grid that is wide enough, in rational numbers, and how far each misses the target."""
    aim, unit, slack = map(Fraction, (target, step, tolerance))
    whole = math.lcm(aim.denominator, unit.denominator, slack.denominator)  # of such parts all are whole numbers
    goal, most = int(aim * whole**5), int(slack * whole**5)
    values = [whole + i * int(unit * whole) for i in range(int((aim + slack) / unit) + 1)]
    misses = {(a, b, g): abs(a * b**2 * g**2 - goal) for a, b, g in product(values, repeat=3)}
    return {
        (a / whole, b / whole, g / whole): Fraction(miss, whole**5)
        for (a, b, g), miss in misses.items()
        if miss <= most and (a, b, g) != (whole, whole, whole)
    }


@given(
    st.sampled_from(["1.5", "1.96", "2", "2.1", "3"]),
    st.sampled_from(["0.1", "0.15", "0.2", "0.25", "0.5"]),
    st.sampled_from(["0", "0.04", "0.08", "0.1", "0.5"]),
)
def test_the_grid_is_that_of_rational_numbers(target: str, step: str, tolerance: str) -> None:
    expected = brute(target, step, tolerance)
    if expected:
        found = scaling.grid(float(target), float(step), float(tolerance))
        assert [(c.alpha, c.beta, c.gamma) for c in found] == sorted(expected)
    else:
        with pytest.raises(UserError, match="the nearest is"):
            scaling.grid(float(target), float(step), float(tolerance))


def test_a_product_on_the_very_edge_is_in() -> None:
    """In floating point 1.1 · 1.1² · 1.3² - 2 is not 0.24939."""
    assert Coefficients(1.1, 1.1, 1.3) in scaling.grid(2, 0.1, 0.24939)
    assert Coefficients(1.1, 1.1, 1.3) not in scaling.grid(2, 0.1, 0.24938)
    assert Coefficients(1, 1, 1.4) in scaling.grid(1.96, 0.1, 0)
    assert Coefficients(1.2, 1.1, 1.15) in scaling.grid(2, 0.05, 0.07973)  # 1.92027


def test_what_scales_nothing_is_no_triple() -> None:
    assert Coefficients(1, 1, 1) not in scaling.grid(1.05, 0.1, 0.1)
    assert Coefficients(1, 1, 1) not in [one.coefficients for one in scaling.counted_grid(B0, 1.1, 0.5, 1.1)]


def test_the_nearest_triple_is_named() -> None:
    misses = {triple: abs(triple[0] * triple[1] ** 2 * triple[2] ** 2 - 2) for triple in brute("2", "0.3", "1")}
    a, b, g = min(misses, key=lambda triple: (misses[triple], triple))
    with pytest.raises(UserError, match=f"the nearest is α {a:g} β {b:g} γ {g:g} with"):
        scaling.grid(2, 0.3, 0)
    with pytest.raises(UserError, match=r"counted ratio within 0 of 2, .* the nearest is α .* with (1\.9|2\.0)"):
        scaling.counted_grid(B0, 2, 0.25, 0)


def moves(arch: Architecture) -> range:
    """Pixels by which a resolution may be moved: 8 for 224, as many for each as for that, and one at least."""
    most = max(1, round(arch.resolution * 8 / 224))
    return range(-most, most + 1)


@given(architectures(), st.floats(0.5, 2.0), st.integers(1, 8))
def test_matching_moves_to_the_nearest_count(arch: Architecture, factor: float, most: int) -> None:
    assume(arch.resolution > 20)
    goal = factor * arch.cost().madds
    found = scaling.match_madds(arch, goal, most)
    moved = found.resolution - arch.resolution
    assert replace(found, resolution=arch.resolution) == arch
    misses = {m: abs(arch.cost(arch.resolution + m).madds - goal) for m in range(-most, most + 1)}
    assert misses[moved] == min(misses.values())
    assert abs(moved) == min(abs(m) for m, miss in misses.items() if miss == misses[moved])


def test_the_counted_grid_has_all_that_can_be_matched() -> None:
    found = scaling.counted_grid(B0, 2, 0.1, 0.05)
    base = B0.cost().madds
    triples = {one.coefficients: one for one in found}
    values = [1 + i / 10 for i in range(11)]
    for a, b, g in product(values, repeat=3):
        triple = Coefficients(round(a, 1), round(b, 1), round(g, 1))
        if not 1 <= triple.product <= 4:
            continue
        scaled = B0.scale(triple.alpha, triple.beta, triple.gamma)
        ratios = [scaled.cost(scaled.resolution + m).madds / base for m in moves(scaled)]
        assert (min(abs(ratio - 2) for ratio in ratios) <= 0.05) == (triple in triples)
    assert any(one.moved for one in found)
    assert all(one.architecture.cost().madds / base == one.counted_ratio for one in found)


@given(st.floats(1.1, 8), *[st.integers(0, 9)] * 3)
def test_weights_share_the_growth(target: float, d: int, w: int, r: int) -> None:
    assume(d + w + r)
    found = scaling.rule_coefficients(f"d{d}_w{w}_r{r}", target)
    assert found.alpha * found.beta**2 * found.gamma**2 == pytest.approx(target)
    shares = [math.log(found.alpha), 2 * math.log(found.beta), 2 * math.log(found.gamma)]
    assert shares == pytest.approx([math.log(target) * e / (d + w + r) for e in (d, w, r)], abs=1e-9)


def test_the_named_rules_are_weights() -> None:
    assert scaling.rule_coefficients("fast") == scaling.rule_coefficients("d1_w8_r1")
    assert scaling.rule_coefficients("depth") == Coefficients(2, 1, 1)
    assert scaling.rule_coefficients("width").beta == pytest.approx(2**0.5)
    assert scaling.rule_coefficients("resolution", 4) == Coefficients(1, 1, 2)


def test_fast_scaling_keeps_activations_low() -> None:
    """More MAdds than compound scaling, yet fewer activations (arXiv 2103.06877)."""
    fast, compound = (
        B0.scale(*rule.factors(3)).cost() for rule in (scaling.rule_coefficients("fast"), scaling.paper())
    )
    assert fast.madds > compound.madds
    assert fast.activations < 0.75 * compound.activations


@given(st.sampled_from(["compound", "depth", "width", "resolution", "fast"]), st.floats(0.3, 20), st.booleans())
def test_solving_finds_the_largest_within_the_budget(rule: str, factor: float, of_params: bool) -> None:
    assume(not (rule == "resolution" and of_params))
    base = Architecture.load("mnasnet_a1")
    triple = scaling.paper() if rule == "compound" else scaling.rule_coefficients(rule)
    name = "params" if of_params else "madds"

    def at(phi: float) -> Architecture:
        return scaling.member(base, triple, phi).architecture

    def cost(arch: Architecture) -> float:
        return float(getattr(arch.cost(), name))

    limit = factor * cost(base)
    try:
        phi = scaling.solve(at, cost, limit, "--madds")
    except UserError:  # each stage keeps a layer: depth alone shrinks no further
        assert rule == "depth"
        assert cost(at(-15)) > limit
        return
    assert cost(at(phi)) <= limit < cost(at(phi + 1 / scaling.FINEST))


TINY = Architecture.parse("32px stem4 ds_r1_k3_s1_e1_c4 ir_r2_k3_s2_e3_c6_se0.25 er_r3_k3_s2_e1.5_c12 head12")
RULES = ["compound", *scaling.WEIGHTS, "d3_w1_r2"]


@pytest.mark.parametrize("rule", RULES)
@given(
    baseline=st.sampled_from([TINY, *map(Architecture.load, family_names())]),
    phis=st.lists(st.floats(-3, 3), max_size=6),
)
def test_costs_rise_with_phi(rule: str, baseline: Architecture, phis: list[float]) -> None:
    triple = scaling.paper() if rule == "compound" else scaling.rule_coefficients(rule)
    members = scaling.family(baseline, triple, sorted([*phis, -1e-6, 0, 1e-6]))
    for before, after in pairwise(members):
        for name, cost in vars(after.cost).items():
            assert vars(before.cost)[name] <= cost
    for one in members:
        assert one.phi >= 0 or one.cost.madds <= baseline.cost().madds
        assert one.phi <= 0 or one.cost.madds >= baseline.cost().madds


def test_a_narrow_network_becomes_narrower() -> None:
    """By multiples of 8 alone, half of the width would be 1.54 times the MAdds."""
    half = scaling.member(TINY, scaling.rule_coefficients("width"), -2)
    assert half.architecture.widths == (2, 2, 3, 6, 6)
    assert half.cost.madds < 0.5 * TINY.cost().madds


@given(architectures(), st.floats(-3, -0.01), st.sampled_from(RULES))
def test_matching_a_smaller_network_adds_no_pixels(arch: Architecture, phi: float, rule: str) -> None:
    triple = scaling.paper() if rule == "compound" else scaling.rule_coefficients(rule)
    assume(round(arch.resolution * triple.gamma**phi) >= 1)
    found = scaling.member(arch, triple, phi, 2.0)
    assert found.architecture.resolution <= arch.resolution or triple.gamma == 1


@given(architectures(), st.floats(-3, 3), st.sampled_from(RULES), st.integers(2, 48), st.none() | st.just(2.0))
def test_a_step_is_kept_to_however_a_count_is_matched(
    arch: Architecture, phi: float, rule: str, step: int, target: float | None
) -> None:
    """Of the multiples within the move that is allowed, the one of the nearest count."""
    triple = scaling.paper() if rule == "compound" else scaling.rule_coefficients(rule)
    assume(arch.resolution * triple.gamma**phi > step)
    deployment = Deployment(10, 1, step)
    found = scaling.member(arch, triple, phi, target, deployment)
    assert found.architecture.resolution % step == 0
    plain = arch.scale(*triple.factors(phi), step=step)
    most = scaling.move_limit(plain) if target and phi else 0
    goal = (target or 1) ** phi * deployment.cost(arch).madds
    misses = {px: abs(deployment.cost(plain, px).madds - goal) for px in range(step, 400, step)}
    near = {px: miss for px, miss in misses.items() if abs(px - plain.resolution) <= most}
    if triple.gamma**phi >= 1:
        assert misses[found.architecture.resolution] == min(near.values())


def test_equal_costs_in_steps() -> None:
    deployment = Deployment(resolution_step=32)
    found = scaling.equal_cost(B0, scaling.paper(), 2 * B0.cost().madds, deployment)
    assert found.architecture.resolution % 32 == 0
    assert found.cost.madds == pytest.approx(2 * B0.cost().madds, rel=0.05)
    triples = scaling.counted_grid(B0, 2, 0.2, 0.1, deployment)
    assert all(one.architecture.resolution % 32 == 0 and abs(one.counted_ratio - 2) <= 0.1 for one in triples)


def test_what_is_kept_is_said_where_counts_are_off() -> None:
    lite = Architecture.load("efficientnet_lite0").fitted(28)
    width = scaling.rule_coefficients("width")
    kept = Deployment(keep=("stem", "head"))
    members = scaling.family(lite, width, [0, 3], None, kept)
    assert members[1].architecture.widths[:: len(lite.widths) - 1] == (lite.stem, lite.head)
    assert scaling.notes(lite, members, width)[-1].endswith("by rounding and because stem, head stay as they are")
    large = Architecture.parse("32px stem8 ds_r1_k3_s1_c32 ir_r1_k3_s1_e2_c64 head12")
    for keep, fine in ((("stem", "head"), False), ((), True)):
        said = scaling.notes(large, scaling.family(large, width, [1], None, Deployment(keep=keep)), width)
        assert any("channels below 16" in one for one in said) == fine


def test_what_rounding_does_is_said() -> None:
    width = scaling.rule_coefficients("width")
    said = scaling.notes(TINY, scaling.family(TINY, width, [-2, 0]), width)
    assert said[0] == "channels below 16 are rounded to multiples of 4, 2 or 1, all others to multiples of 8"
    assert [one for one in said[1:] if not one.startswith("φ -2: counted MAdds are 1.")] == []
    resolution = scaling.rule_coefficients("resolution")
    assert scaling.notes(B0, scaling.family(B0, resolution, [0, 1, 2]), resolution) == []


@pytest.mark.parametrize("triple", [(0.5, 1.1, 1.1), (1.2, 0.99, 1.1), (1.2, 1.1, 0), (math.nan, 1, 1)])
def test_coefficients_are_at_least_1(triple: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        Coefficients(*triple)


def test_what_cannot_be_solved() -> None:
    rule = scaling.rule_coefficients("resolution")

    def at(phi: float) -> Architecture:
        return scaling.member(B0, rule, phi).architecture

    with pytest.raises(UserError, match="--params 20M"):
        scaling.solve(at, lambda arch: arch.cost().params, 20e6, "--params 20M")
    with pytest.raises(UserError, match="--params 2M"):
        scaling.solve(at, lambda arch: arch.cost().params, 2e6, "--params 2M")
    with pytest.raises(UserError, match="--madds 100: the smallest network"):
        scaling.solve(at, lambda arch: arch.cost().madds, 100, "--madds 100")


@pytest.mark.parametrize("rule", ["compound", "depth", "width", "resolution", "fast"])
@pytest.mark.parametrize("factor", [2, 4])
def test_equal_costs_are_equal(rule: str, factor: float) -> None:
    triple = scaling.paper() if rule == "compound" else scaling.rule_coefficients(rule)
    goal = factor * B0.cost().madds
    found = scaling.equal_cost(B0, triple, goal)
    assert found.cost.madds == pytest.approx(goal, rel=scaling.EQUAL)
    assert found.architecture.resolution == B0.scale(1, 1, found.resolution).resolution + found.moved


@pytest.mark.parametrize(
    ("text", "phis"),
    [
        ("3", [0, 1, 2, 3]),
        ("0", [0]),
        ("2.5", [0, 1, 2, 2.5]),
        ("-2", [-2, -1, 0]),
        ("-1.5", [-1.5, -1, 0]),
        ("0..7", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("-2..1", [-2, -1, 0, 1]),
        ("0.5..2", [0.5, 1.5, 2]),
        ("3..3", [3]),
    ],
)
def test_values_of_phi(text: str, phis: list[float]) -> None:
    assert scaling.parse_phis(text) == phis


@pytest.mark.parametrize("text", ["", "x", "1..2..3", "7..0", "21", "0..21", "1e3", "nan", "0,1"])
def test_no_values_of_phi(text: str) -> None:
    with pytest.raises(UserError, match="--phi"):
        scaling.parse_phis(text)


def test_a_matched_family_keeps_near_its_target() -> None:
    """Nominal growth is 1.92 for each φ here; moving pixels brings the first members nearer to 2."""
    plain, close = (scaling.family(B0, scaling.paper(), [0, 1, 2], target) for target in (None, 2))
    for phi in (1, 2):
        goal = 2**phi * B0.cost().madds
        assert abs(close[phi].cost.madds - goal) < abs(plain[phi].cost.madds - goal)
        assert close[phi].moved
        assert close[phi].moved in moves(plain[phi].architecture)
    assert close[0] == plain[0]


@pytest.mark.parametrize("i", range(8))
def test_released_coefficients_give_the_published_networks(i: int) -> None:
    """B0 scaled by the released width, depth and resolution is torchvision's network, to the last parameter."""
    about = read_toml(bundled_path(f"efficientnet_b{i}", FAMILIES, "architecture"))["about"]
    published = Architecture.load(f"efficientnet_b{i}")
    scaled = B0.scale(about["depth"], about["width"]).at(published.resolution)
    assert (scaled.stages, scaled.stem, scaled.head) == (published.stages, published.stem, published.head)
    weights = torchvision.models.get_model_weights(f"efficientnet_b{i}").IMAGENET1K_V1
    assert scaled.cost().params == weights.meta["num_params"]
    assert round(scaled.cost(weights.transforms().crop_size[0]).madds / 1e9, 3) == weights.meta["_ops"]


def test_the_paper_raises_dropout_linearly() -> None:
    assert [scaling.dropout(phi) for phi in (0, 6)] == [0.2, 0.5]
    assert scaling.dropout(3) == pytest.approx(0.35)
    assert [scaling.dropout(phi) for phi in (-20, 20)] == [0, 0.5]
