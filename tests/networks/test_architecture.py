"""Block strings, the architecture as a value, its TOML, and scaling."""

import math
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas.base.errors import UserError
from nas.base.files import to_toml
from nas.networks.architecture import KEPT, Architecture, family_names
from nas.networks.blocks import MAX_RESOLUTION, OPS
from nas.networks.stages import ACTIVATIONS, BlockError, Stage, parse_stage
from tests.helpers.strategies import architectures, layers_of, stages

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


NUMBERS = st.one_of(
    st.floats(0, 2), st.floats(0, 1e-300), st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 1e-5, 0.1, 5e-324, 1e-17])
)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("norm_eps", "eps{}"),
        ("norm_momentum", "momentum{}"),
        ("stem", "stem{}"),
        ("head", "head{}"),
        ("resolution", "{}px"),
        ("stem_stride", "stem32_s{}"),
        ("activation", "{}"),
    ],
)
@given(value=st.one_of(NUMBERS, st.sampled_from([*ACTIVATIONS, "re", "sw", "relu7"])))
def test_text_and_toml_take_the_same_settings(key: str, word: str, value: float | str) -> None:
    def taken(make: Callable[[], Architecture]) -> Architecture | None:
        try:
            return make()
        except UserError:
            return None

    written = word.format(value)
    text = taken(lambda: Architecture.parse(f"{written} ds_r1_k3_s1_e1_c16"))
    table = tomllib.loads(to_toml({"stages": ["ds_r1_k3_s1_e1_c16"], key: value}))
    assert text == taken(lambda: Architecture.from_table(table, "mine.toml"))
    assert text is None or Architecture.parse(str(text)) == text


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
        ("stem16 ir_r1_k3_s1_e2.4_c24", "stem16 ir_r1_k3_s1_e2.5_c24"),  # both expand to 40
        ("stem16 ir_r2_k3_s1_e2.6_c24", "stem16 ir_r2_k3_s1_e2.7_c24"),  # both expand to 40, later to 64
        ("stem8 ds_r1_k3_s1_c8_se0.04", "stem8 ds_r1_k3_s1_c8_se0.125"),  # both squeeze to 1
        ("stem16 ir_r1_k3_s1_e1.000001_c24", "stem16 ir_r1_k3_s1_e1.1_c24"),  # both expand to as many as there are
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
        ("ir_r1_k3_s1_e6_c24 stem32_s1", "ir_r1_k3_s1_e6_c24 stem32_s2"),
        ("stem16 ir_r2_k3_s1_e2.4_c24", "stem16 ir_r2_k3_s1_e2.5_c24"),  # the second blocks expand to 56 and to 64
        ("stem16 ir_r1_k3_s1_e1.000001_c24", "stem16 ir_r1_k3_s1_e1_c24"),  # with an expansion convolution or without
        ("1px ir_r1_k3_s1_e6_c24", "1px ir_r1_k5_s1_e6_c24"),  # on one pixel both compute the same, with other weights
    ],
)
def test_different_networks_are_different_values(one: str, other: str) -> None:
    assert Architecture.parse(one) != Architecture.parse(other)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("stem16 ir_r1_k3_s1_e2.4_c24", "e2.5_"),
        ("stem16 ir_r1_k3_s1_e2.2500001_c24", "e2.5_"),
        ("stem16 ir_r2_k3_s1_e2.39_c24", "e2.4_"),  # 2.5 would make 64 of the 24 channels, not 56
        ("stem4 ir_r1_k3_s1_e3_c24", "e4_"),  # 4 times as many channels is what rounding makes of it
        ("stem16 ir_r1_k3_s1_e0.9_c24", "e1.000001_"),
        ("stem8 ds_r2_k3_s1_c24_se0.3", "se0.3 "),
        ("stem30 ds_r1_k3_s1_c16_se0.24", "se0.25 "),  # 7 of 30 channels
        ("stem16 ds_r1_k3_s1_c16_se0.13", "se0.125 "),
        ("stem8 ds_r1_k3_s1_c16_se0.3", "se0.25 "),
        ("stem24 ds_r1_k3_s1_c16_se0.333", "se0.3 "),
    ],
)
def test_of_the_numbers_that_give_the_same_layers_one_is_written(text: str, canonical: str) -> None:
    arch = Architecture.parse(text)
    assert canonical in str(arch)
    assert Architecture.parse(str(arch)) == arch


@settings(max_examples=300)
@given(stages(), st.sampled_from([1, 3, 4, 8, 12, 16, 24]), st.floats(0.01, 8), st.floats(0.01, 8), st.floats(0.001, 1))
def test_equal_layers_are_equal_values(stage: Stage, stem: int, one: float, other: float, se: float) -> None:
    """Whatever the ratios: a stage is written alike if and only if its blocks are alike."""
    expands, squeezes = stage.op in ("ir", "er"), stage.se > 0 and stage.op != "er"
    spelled = [
        replace(stage, expansion=e if expands else 1, se=s if squeezes else 0)
        for e, s in ((one, stage.se), (other, se), (round(one, 1), round(se, 1)), (math.ceil(one), 0.25))
        if round(e, 1) > 0
    ]
    archs = [Architecture((one,), stem=stem) for one in spelled]
    for a, b in product(archs, archs):
        assert (layers_of(a) == layers_of(b)) == (a == b) == (str(a) == str(b)) == (a.hash == b.hash)
    for arch, written in zip(archs, spelled, strict=True):
        if OPS[written.op].plain is None or written.expansion != 1:
            (kept,) = arch.stages
            assert kept.layers(stem, kept.stride) == written.layers(stem, written.stride)
            assert kept.layers(kept.channels, 1) == written.layers(written.channels, 1) or written.repeats == 1


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
        ('stages = ["ds_k3_s1_c16"]\nstem_stride = 3', "stem_stride must be a whole number from 1 to 2"),
        ('stages = ["ds_k3_s1_c16"]\nactivation = "sillu"', "nearest is 'silu'"),
        ('stages = ["ds_k3_s1_c16"]\nactivation = ["relu"]', "unknown activation"),
        ('stages = ["ds_k3_s1_c16"]\nnorm_eps = "x"', "norm_eps must be"),
        ('stages = ["ds_k3_s1_c16"]\nnorm_momentum = 0.0', "norm_momentum must be a number between 0 and 1"),
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


@given(architectures(), st.floats(0.1, 3), st.floats(0.1, 3), st.sets(st.sampled_from(KEPT)))
def test_what_is_kept_is_not_scaled_and_all_else_is(
    arch: Architecture, depth: float, width: float, keep: set[str]
) -> None:
    scaled, kept = arch.scale(depth, width), arch.scale(depth, width, keep=keep)
    assert kept.stem == (arch if "stem" in keep else scaled).stem
    assert kept.head == (arch if "head" in keep else scaled).head
    for i, stage in enumerate(kept.stages):
        end = i in (0, len(arch.stages) - 1)
        assert stage.repeats == (arch if end and "ends" in keep else scaled).stages[i].repeats
        assert stage.channels == scaled.stages[i].channels


def test_no_multiple_of_a_step_is_left() -> None:
    with pytest.raises(UserError, match=r"too far: the resolution would be 0 px in steps of 512, not 1 to 4096"):
        Architecture.parse(B0).scale(step=512)


def test_only_known_parts_can_be_kept() -> None:
    with pytest.raises(UserError, match="cannot keep 'stm'; nearest is 'stem'"):
        Architecture.parse(B0).scale(width=2, keep=("stm",))


@given(architectures(), st.floats(0.1, 60), st.integers(1, 64))
def test_resolutions_are_the_nearest_multiples_of_a_step(arch: Architecture, factor: float, step: int) -> None:
    exact = arch.resolution * factor
    if exact <= step / 2 or exact + step / 2 >= MAX_RESOLUTION:
        with suppress(UserError):
            arch.scale(resolution=factor, step=step)
        return
    found = arch.scale(resolution=factor, step=step).resolution
    assert found % step == 0
    assert abs(found - exact) <= step / 2


@given(architectures(), st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0.5, 3))
def test_scaling_keeps_its_rounding_rules(arch: Architecture, depth: float, width: float, resolution: float) -> None:
    try:
        scaled = arch.scale(depth, width, resolution)
    except UserError:
        assert round(arch.resolution * resolution) < 1
        return
    assert scaled.resolution == round(arch.resolution * resolution)
    for before, after in zip(arch.stages, scaled.stages, strict=True):
        assert after.repeats == math.ceil(round(before.repeats * depth, 9))
    for old, new in zip(arch.widths, scaled.widths, strict=True):
        exact = old * width
        step = 8 if exact >= 16 else 4 if exact >= 8 else 2 if exact >= 4 else 1
        assert new % step == 0 or new == old
        assert 0.9 * exact <= new <= max(1, exact + step)


@given(architectures(), *[st.floats(0.1, 1)] * 3)
def test_factors_below_1_add_nothing(arch: Architecture, depth: float, width: float, resolution: float) -> None:
    assume(round(arch.resolution * resolution) >= 1)
    scaled = arch.scale(depth, width, resolution)
    assert scaled.resolution <= arch.resolution
    assert all(new <= old for old, new in zip(arch.widths, scaled.widths, strict=True))
    for old, new in zip(arch.stages, scaled.stages, strict=True):
        assert new.repeats <= old.repeats


@given(architectures())
def test_scaling_by_one_changes_nothing(arch: Architecture) -> None:
    assert arch.scale() == arch


def test_depth_factors_count_as_the_decimals_they_are_written_as() -> None:
    assert Architecture.parse("ir_r10_k3_s1_e6_c16").scale(depth=1.1).stages[0].repeats == 11


def test_a_stem_stride_is_written_where_it_is_not_two() -> None:
    assert str(Architecture.parse("stem32_s2 ir_r1_k3_s1_e6_c24")) == "224px stem32 ir_r1_k3_s1_e6_c24 head1280"
    arch = Architecture.parse("28px stem8_s1 ir_r1_k3_s1_e6_c24")
    assert (arch.stem, arch.stem_stride, str(arch).split()[1]) == (8, 1, "stem8_s1")
    assert tomllib.loads(arch.to_toml())["stem_stride"] == 1
    with pytest.raises(UserError, match="stem is given twice"):
        Architecture.parse("stem8_s1 stem8 ir_r1_k3_s1_e6_c24")


@settings(deadline=None)
@given(architectures(), st.integers(1, 80), st.sampled_from([None, 0.3, 1]))
def test_a_fitted_network_is_for_its_images(arch: Architecture, px: int, width: float | None) -> None:
    fitted = arch.fitted(px, width)
    if px >= arch.resolution:
        assert fitted == arch
        return
    assert fitted.resolution == px
    assert fitted.fitted(px, width) == fitted
    assert Architecture.parse(str(fitted)) == fitted
    strides = [(arch.stem_stride, fitted.stem_stride)]
    strides += [(old.stride, new.stride) for old, new in zip(arch.stages, fitted.stages, strict=True)]
    removed = [i for i, (old, new) in enumerate(strides) if old != new]
    kept = [i for i, (_, new) in enumerate(strides) if new == 2]
    assert max(removed, default=-1) < min(kept, default=len(strides))  # from the stem on
    side = fitted.walk()[-1].output.size
    assert side >= min(px, 4)
    if removed:  # one stride less taken out were one too many
        stages = list(fitted.stages)
        if removed[-1]:
            stages[removed[-1] - 1] = replace(stages[removed[-1] - 1], stride=2)
        fewer = replace(fitted, stages=tuple(stages), stem_stride=fitted.stem_stride if removed[-1] else 2)
        assert fewer.walk()[-1].output.size < 4
    narrower = arch.scale(width=(px / arch.resolution) ** (math.log(1.1) / math.log(1.15)) if width is None else width)
    assert fitted.widths == narrower.widths
    assert [stage.repeats for stage in fitted.stages] == [stage.repeats for stage in arch.stages]


@pytest.mark.parametrize(
    ("px", "text"),
    [
        (
            28,
            "28px stem8_s1 ds_r1_k3_s1_e1_c4_se0.25 ir_r2_k3_s1_e6_c6_se0.25 ir_r2_k5_s2_e6_c12_se0.25 "
            "ir_r3_k3_s2_e6_c24_se0.25 ir_r3_k5_s1_e6_c32_se0.25 ir_r4_k5_s2_e6_c48_se0.25 ir_r1_k3_s1_e6_c80_se0.25 "
            "head312",
        ),
        (
            112,
            "112px stem24 ds_r1_k3_s1_e1_c12_se0.25 ir_r2_k3_s2_e6_c16_se0.25 ir_r2_k5_s2_e6_c24_se0.25 "
            "ir_r3_k3_s2_e6_c48_se0.25 ir_r3_k5_s1_e6_c72_se0.25 ir_r4_k5_s2_e6_c120_se0.25 ir_r1_k3_s1_e6_c200_se0.25 "
            "head800",
        ),
    ],
)
def test_b0_fitted(px: int, text: str) -> None:
    assert str(Architecture.load("efficientnet_b0").fitted(px)) == text


@pytest.mark.parametrize("px", [0, -3, 5000, 28.0])
def test_impossible_sizes_are_refused(px: int) -> None:
    with pytest.raises(UserError, match="resolution must be a whole number"):
        Architecture.load("efficientnet_b0").fitted(px)


@pytest.mark.parametrize("factors", [{"depth": 0}, {"width": -1}, {"resolution": math.nan}, {"depth": 999.0}])
def test_impossible_factors_are_refused(factors: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"factor must be|scaled too far"):
        Architecture.parse("ir_r10_k3_s1_e6_c16").scale(**factors)
