"""Block strings, the architecture as a value, its TOML, and scaling."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.architecture import Architecture, BlockError, family_names, parse_stage
from nas.errors import UserError
from tests.strategies import architectures, stages

B0 = (
    "ds_r1_k3_s1_e1_c16_se0.25 ir_r2_k3_s2_e6_c24_se0.25 ir_r2_k5_s2_e6_c40_se0.25 ir_r3_k3_s2_e6_c80_se0.25 "
    "ir_r3_k5_s1_e6_c112_se0.25 ir_r4_k5_s2_e6_c192_se0.25 ir_r1_k3_s1_e6_c320_se0.25"
)


@given(architectures())
def test_text_round_trip_is_exact(arch: Architecture) -> None:
    again = Architecture.parse(str(arch))
    assert again == arch
    assert str(again) == str(arch)
    assert again.hash == arch.hash


@given(stages())
def test_stage_round_trip_is_exact(stage) -> None:
    assert parse_stage(str(stage)) == stage


@given(architectures())
def test_toml_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, arch: Architecture) -> None:
    path = tmp_path_factory.mktemp("toml") / "a.toml"
    path.write_text(arch.to_toml({"title": 'a "quoted"\nline \\ φ', "n": 3, "x": 0.5}), encoding="utf-8")
    assert Architecture.load(path) == arch


@given(architectures(), architectures())
def test_different_networks_have_different_hashes(a: Architecture, b: Architecture) -> None:
    assert (a == b) == (a.hash == b.hash)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ir_r1_k3_s1_e1_c16_se0.25", "ds_r1_k3_s1_e1_c16_se0.25"),  # no expansion: a depthwise separable block
        ("er_r2_k3_s1_e1_c32", "cn_r2_k3_s1_e1_c32_skip"),  # no expansion: one convolution with a residual
        ("ir_k5_s2_e6_c40_r2", "ir_r2_k5_s2_e6_c40_se0"),  # order, SE of 0
        ("ir_r1_k3_s2_e6_c24_noskip", "ir_r1_k3_s2_e6_c24"),  # stride 2: nowhere to skip
        ("ir_r1_k3_s1_e6_c24_noskip", "ir_r1_k3_s1_e6_c24"),  # channels change: nowhere to skip
        ("ds_k3_s1_c16", "ds_r1_k3_s1_e1_c16"),  # defaults
        ("ir_r1_k3_s1_e3.0_c24_nsw", "ir_r1_k3_s1_e3_c24"),  # the architecture's own activation
    ],
)
def test_equal_networks_are_equal_values(one: str, other: str) -> None:
    a, b = Architecture.parse(one), Architecture.parse(other)
    assert a == b
    assert hash(a) == hash(b)
    assert (str(a), a.hash) == (str(b), b.hash)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ir_r2_k3_s2_e6_c24_noskip", "ir_r2_k3_s2_e6_c24"),
        ("cn_r2_k3_s1_e1_c32_skip", "cn_r2_k3_s1_e1_c32"),
        ("ir_r1_k3_s1_e6_c32_noskip", "ir_r1_k3_s1_e6_c32"),  # behind the stem of 32, it has a residual
        ("ir_r1_k3_s1_e6_c24_nre", "ir_r1_k3_s1_e6_c24"),
        ("ir_r1_k3_s1_e6_c24 240px", "ir_r1_k3_s1_e6_c24"),
    ],
)
def test_different_networks_are_different_values(one: str, other: str) -> None:
    assert Architecture.parse(one) != Architecture.parse(other)


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("xx_r1_k3_s1_c16", 1, "unknown op 'xx'"),
        ("ri_r1_k3_s1_e6_c16", 1, "nearest is 'ir'"),
        ("ir_r1_k4_s1_e6_c16", 7, "kernel must be odd"),
        ("ir_r0_k3_s1_e6_c16", 4, "repeats must be from 1"),
        ("ir_r1_k3_s3_e6_c16", 10, "stride must be from 1 to 2"),
        ("ir_r1_k3_s1_e6_c16_se1.5", 20, "se must be between 0 and 1"),
        ("ir_r1_k3_s1_e0_c16", 13, "expansion must be between"),
        ("ir_r1_k3_s1_e6_c1.5", 16, "channels must be a whole number"),
        ("ir_r1_k3_s1_e6_c16_k5", 20, "kernel is given twice"),
        ("ir_r1_k3_s1_e6", 1, "channels is missing"),
        ("ir_r1_k3_s1_c16", 1, "expansion is missing"),
        ("ir_r1_s1_e6_c16", 1, "kernel is missing"),
        ("ir_r1_k_s1_e6_c16", 7, "write k and a number"),
        ("ir_r1_k3_s1_e6_c16_sq0.25", 20, "nearest is 's"),
        ("ir_r1_k3_s1_e6_c16_", 20, "cannot read ''"),
        ("ir_r1_k3_s1_e6_c-16", 16, "cannot read 'c-16'"),
        ("ds_r1_k3_s1_e6_c16", 1, "has no expansion"),
        ("cn_r1_k3_s1_c16_se0.25", 1, "no squeeze-excitation"),
        ("er_r1_k3_s1_e1_c16_se0.25", 1, "no squeeze-excitation"),
        ("", 1, "unknown op ''"),
    ],
)
def test_errors_in_block_strings_name_the_column(text: str, column: int, said: str) -> None:
    with pytest.raises(BlockError, match=f"column {column}: ") as caught:
        parse_stage(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="cndsirek0123456789._-{}|px ", max_size=60))
def test_any_text_is_an_architecture_or_a_user_error(text: str) -> None:
    try:
        arch = Architecture.parse(text)
    except UserError as error:
        said = str(error)
    else:
        said = str(arch)
        assert Architecture.parse(said) == arch
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages = ]", "line 1, column 10"),
        ("resolution = 224", "key 'stages' is missing"),
        ('stages = ["ds_k3_s1_c16"]\nresolutoin = 224', "nearest is 'resolution'"),
        ('stages = ["ds_k3_s1_c16", "ir_k2_s1_e6_c16"]', "stage 2, column 4: kernel must be odd"),
        ("stages = []", "stages must be a list"),
        ("stages = [1]", "stages must be a list"),
        ('stages = ["ds_k3_s1_c16"]\nresolution = 0', "resolution must be a whole number from 1"),
        ('stages = ["ds_k3_s1_c16"]\nresolution = 1000000', "from 1 to 4096"),
        ('stages = ["ds_k3_s1_c16"]\nstem = true', "stem must be"),
        ('stages = ["ds_k3_s1_c16"]\nactivation = "sillu"', "nearest is 'silu'"),
        ('stages = ["ds_k3_s1_c16"]\nactivation = ["relu"]', "unknown activation"),
        ('stages = ["ds_k3_s1_c16"]\nnorm_eps = "x"', "norm_eps must be"),
    ],
)
def test_errors_in_files_name_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.toml") as caught:
        Architecture.load(path)
    assert said in str(caught.value)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest is 'efficientnet_b0'"):
        Architecture.load("efficientnet-b0")
    with pytest.raises(UserError, match="no file"):
        Architecture.load("nowhere/x.toml")


def test_bundled_families_are_complete() -> None:
    expected = {f"efficientnet_b{i}" for i in range(8)} | {f"efficientnet_v2_{s}" for s in "sml"} | {"mnasnet_a1"}
    assert expected <= set(family_names())
    assert Architecture.load("efficientnet_b0") == Architecture.parse(B0)


@pytest.mark.parametrize(
    ("member", "width", "depth"),
    [(1, 1.0, 1.1), (2, 1.1, 1.2), (3, 1.2, 1.4), (4, 1.4, 1.8), (5, 1.6, 2.2), (6, 1.8, 2.6), (7, 2.0, 3.1)],
)
def test_published_members_are_the_scaled_baseline(member: int, width: float, depth: float) -> None:
    published = Architecture.load(f"efficientnet_b{member}")
    scaled = Architecture.load("efficientnet_b0").scale(depth=depth, width=width).at(published.resolution)
    assert scaled == replace(published, norm_eps=1e-5, norm_momentum=0.1)


@given(architectures(), st.floats(0.3, 3), st.floats(0.3, 3), st.floats(0.9, 3))
def test_scaling_keeps_its_rounding_rules(arch: Architecture, depth: float, width: float, resolution: float) -> None:
    try:
        scaled = arch.scale(depth, width, resolution)
    except UserError:
        assert round(arch.resolution * resolution) < 1
        return
    assert scaled.resolution == round(arch.resolution * resolution)
    for before, after in zip(arch.stages, scaled.stages, strict=True):
        assert after.repeats == math.ceil(round(before.repeats * depth, 9))
        assert after.channels % 8 == 0 or width == 1
        exact = before.channels * width
        assert 0.9 * exact <= after.channels <= max(8, exact + 8)


@given(architectures())
def test_scaling_by_one_changes_nothing(arch: Architecture) -> None:
    assert arch.scale() == arch


def test_depth_factors_count_as_the_decimals_they_are_written_as() -> None:
    assert Architecture.parse("ir_r10_k3_s1_e6_c16").scale(depth=1.1).stages[0].repeats == 11


@pytest.mark.parametrize("factors", [{"depth": 0}, {"width": -1}, {"resolution": math.nan}, {"depth": 999.0}])
def test_impossible_factors_are_refused(factors: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"factor must be|scaled too far"):
        Architecture.parse("ir_r10_k3_s1_e6_c16").scale(**factors)
