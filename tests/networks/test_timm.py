"""Architectures built by timm have the same parameters and multiply-adds, and timm's own strings load here."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas import Architecture, SearchSpace, UserError
from nas.networks.blocks import OPS
from nas.networks.timm import from_arch_def, to_arch_def
from tests.helpers.strategies import architectures

timm = pytest.importorskip("timm")
builder = pytest.importorskip("timm.models._efficientnet_builder")

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}


def counts(model: nn.Module, px: int, channels: int = 3) -> tuple[int, int]:
    """Parameters and multiply-adds of convolutions and linear layers, by forward hooks."""
    madds = 0

    def see(module: Any, _: Any, out: torch.Tensor) -> None:
        nonlocal madds
        weight = module.weight
        madds += out.numel() * weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(see)
    with torch.no_grad():
        model.eval()(torch.zeros(1, channels, px, px))
    return sum(p.numel() for p in model.parameters()), madds


def built_by_timm(arch: Architecture, arch_def: list[list[str]] | None = None, classes: int = 10) -> nn.Module:
    from timm.models.efficientnet import EfficientNet

    model: nn.Module = EfficientNet(
        builder.decode_arch_def(arch_def or to_arch_def(arch)),
        num_classes=classes,
        num_features=arch.head,
        stem_size=arch.stem,
        fix_stem=True,
        round_chs_fn=lambda channels: channels,
        act_layer=ACTIVATIONS[arch.activation],
        norm_layer=partial(nn.BatchNorm2d, eps=arch.norm_eps, momentum=arch.norm_momentum),
    )
    model.conv_stem.stride = (arch.stem_stride, arch.stem_stride)
    return model


def expect(arch: Architecture, px: int, classes: int) -> tuple[int, int]:
    cost = arch.cost(px, classes)
    return cost.params, cost.madds


@pytest.mark.parametrize("name", ["mnas", "efficientnet_v1", "efficientnet_v2"])
@pytest.mark.parametrize("seed", range(3))
def test_networks_found_here_are_built_by_timm(name: str, seed: int) -> None:
    arch = SearchSpace.load(name).sample(seed)
    assert counts(built_by_timm(arch), 64) == expect(arch, 64, 10)


@settings(max_examples=30)
@given(architectures(), st.integers(16, 50))
def test_any_architecture_is_built_by_timm_or_refused(arch: Architecture, px: int) -> None:
    written = [[str(stage)] for stage in arch.stages]
    try:
        alike = counts(built_by_timm(arch, written), px) == expect(arch, px, 10)
    except ZeroDivisionError:  # it squeezes to no channel at all
        alike = False
    try:
        arch_def = to_arch_def(arch)
    except UserError:
        assert not alike
        return
    assert arch_def == written or not alike
    assert counts(built_by_timm(arch, arch_def), px) == expect(arch, px, 10)
    again = from_arch_def(
        arch_def,
        stem=arch.stem,
        head=arch.head,
        resolution=arch.resolution,
        activation=arch.activation,
        norm_eps=arch.norm_eps,
        norm_momentum=arch.norm_momentum,
        stem_stride=arch.stem_stride,
    )
    blocks = [[(b.layers, b.residual, b.activation) for b in one.walk()] for one in (arch, again)]
    assert blocks[0] == blocks[1]
    assert again == arch or max(map(len, arch_def)) == 2  # two strings are two stages


@pytest.mark.parametrize(
    ("member", "width", "depth", "px"),
    [(0, 1.0, 1.0, 224), (1, 1.0, 1.1, 240), (2, 1.1, 1.2, 260), (3, 1.2, 1.4, 280), (4, 1.4, 1.8, 300)],
)
def test_efficientnet_lite_keeps_stem_head_and_ends(member: int, width: float, depth: float, px: int) -> None:
    """By the coefficients of the released code; timm's counts, to the last parameter and multiply-add."""
    lite0 = Architecture.load("efficientnet_lite0")
    scaled = lite0.scale(depth, width, px / 224, keep=("stem", "head", "ends"))
    assert scaled.resolution == px
    assert counts(timm.create_model(f"efficientnet_lite{member}"), 64) == expect(scaled, 64, 1000)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("mnasnet_a1", "mnasnet_a1"),
        ("mobilenet_v2", "mobilenetv2_100"),
        *((f"efficientnet_v2_b{i}", f"tf_efficientnetv2_b{i}") for i in range(4)),
        ("efficientnet_b0", "efficientnet_b0"),
    ],
)
def test_bundled_families_equal_timms_counts(name: str, model: str) -> None:
    arch = Architecture.load(name)
    assert counts(timm.create_model(model), arch.resolution) == expect(arch, arch.resolution, 1000)


ARCH_DEFS: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    "fbnetc_100": (
        {"stem": 16, "head": 1984, "activation": "relu"},
        [
            ["ir_r1_k3_s1_e1_c16"],
            ["ir_r1_k3_s2_e6_c24", "ir_r2_k3_s1_e1_c24"],
            ["ir_r1_k5_s2_e6_c32", "ir_r1_k5_s1_e3_c32", "ir_r1_k5_s1_e6_c32", "ir_r1_k3_s1_e6_c32"],
            ["ir_r1_k5_s2_e6_c64", "ir_r1_k5_s1_e3_c64", "ir_r2_k5_s1_e6_c64"],
            ["ir_r3_k5_s1_e6_c112", "ir_r1_k5_s1_e3_c112"],
            ["ir_r4_k5_s2_e6_c184"],
            ["ir_r1_k3_s1_e6_c352"],
        ],
    ),
    "semnasnet_100": (
        {"activation": "relu"},
        [
            ["ds_r1_k3_s1_e1_c16_noskip"],
            ["ir_r2_k3_s2_e6_c24"],
            ["ir_r3_k5_s2_e3_c40_se0.25"],
            ["ir_r4_k3_s2_e6_c80"],
            ["ir_r2_k3_s1_e6_c112_se0.25"],
            ["ir_r3_k5_s2_e6_c160_se0.25"],
            ["ir_r1_k3_s1_e6_c320"],
        ],
    ),
}


@pytest.mark.parametrize("name", ARCH_DEFS)
def test_timms_own_lists_load_here(name: str) -> None:
    options, arch_def = ARCH_DEFS[name]
    arch = from_arch_def(arch_def, **options)
    assert counts(timm.create_model(name), 224) == expect(arch, 224, 1000)
    assert counts(arch.build(), 224) == expect(arch, 224, 1000)


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from(
            [
                "cn_r1_k3_s2_e1_c16",
                "cn_r2_k1_s1_c24_skip_nre",
                "ds_r2_k5_s1_e1_c24_se0.25_nhs",
                "ds_r1_k3_s2_c32_noskip",
                "ir_r2_k3_s1_e1_c16_se0.5",
                "ir_r1_k5_s2_e4.5_c40_nr6",
                "er_r2_k3_s1_e1_c24",
                "er_r1_k3_s2_e4_c32_se0.25_nsw",
            ]
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_any_list_of_strings_loads_here(strings: list[str], one_stage: bool) -> None:
    from timm.models.efficientnet import EfficientNet

    arch_def = [strings] if one_stage else [[text] for text in strings]
    arch = from_arch_def(arch_def, head=64)
    model = EfficientNet(builder.decode_arch_def(arch_def), num_classes=10, num_features=64, act_layer=nn.SiLU)
    assert counts(model, 48) == expect(arch, 48, 10)
    ours = [type(m) for m in arch.build(10).modules() if isinstance(m, tuple(ACTIVATIONS.values()))]
    theirs = [type(m) for m in model.modules() if isinstance(m, tuple(ACTIVATIONS.values()))]
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_what_cannot_be_said_here_is_refused() -> None:
    with pytest.raises(UserError, match="timm squeezes 30 channels to 8, torchvision to 7"):
        from_arch_def([["ds_r1_k3_s1_e1_c16_se0.25"]], stem=30)
    with pytest.raises(UserError, match="timm squeezes 24 channels to 3, torchvision to 2"):
        to_arch_def(Architecture.parse("stem9 ir_r1_k3_s1_e2_c16_se0.25"))
    with pytest.raises(UserError, match="unknown op 'uir'"):
        from_arch_def([["uir_r1_k3_s1_e4_c16"]])
    with pytest.raises(UserError, match="cannot read 'fc24'"):
        from_arch_def([["er_r1_k3_s1_e4_c24_fc24_noskip"]])


def test_squeeze_ratios_are_such_that_timm_makes_the_same_channels() -> None:
    def written(text: str) -> list[list[str]]:
        return to_arch_def(Architecture.parse(text))

    assert written("stem30 ds_r1_k3_s1_e1_c16_se0.25") == [["ds_r1_k3_s1_e1_c16_se0.24"]]
    assert written("stem6 ir_r3_k5_s2_e6_c12_se0.25") == [["ir_r1_k5_s2_e6_c12_se0.1", "ir_r2_k5_s1_e6_c12_se0.25"]]


def test_a_stage_of_one_layer_is_asked_for_that_layer_only() -> None:
    arch = Architecture.parse("64px stem8 ds_r1_k3_s1_e1_c30_se0.25 head16")  # 8 channels, of which 2 are squeezed
    assert counts(built_by_timm(arch), 64) == expect(arch, 64, 10)


def test_a_block_that_timm_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "xd", replace(OPS["ir"], title="another"))
    with pytest.raises(UserError, match="ir, er are known here, xd is not"):
        to_arch_def(Architecture.parse("64px stem8 xd_r1_k3_s1_e3_c16 head16"))
