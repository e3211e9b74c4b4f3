"""Closed-form costs against fvcore, torchvision and forward hooks on the built networks."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

from nas import Architecture, Cost, SearchSpace, UserError
from nas.networks.architecture import family_names
from nas.networks.blocks import OPS, Conv, Layer, Op, Shape, make_divisible, pointwise, squeeze_excitation
from nas.networks.cost import parts
from tests.helpers.memory import traced_peak
from tests.helpers.strategies import architectures

SPACES = ("mnas", "efficientnet_v1", "efficientnet_v2")


def measured(arch: Architecture, resolution: int, num_classes: int, in_channels: int) -> Cost:
    """The built network's cost: MAdds and flops by fvcore, parameters, and activations by hooks."""
    model = arch.build(num_classes, in_channels).eval()
    image = torch.zeros(1, in_channels, resolution, resolution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flops = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = {name: int(count) for name, count in flops.by_operator().items()}
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    with torch.no_grad():
        model(image)
    madds = by_operator["conv"] + by_operator["linear"]
    params = sum(p.numel() for p in model.parameters())
    peak = traced_peak(arch, resolution, num_classes, in_channels)
    return Cost(madds, int(flops.total()), params, sum(seen), peak)


def check(arch: Architecture, resolution: int, num_classes: int, in_channels: int) -> None:
    assert arch.cost(resolution, num_classes, in_channels) == measured(arch, resolution, num_classes, in_channels)


@settings(max_examples=25, deadline=None)
@given(architectures(), st.integers(1, 70), st.integers(1, 20), st.sampled_from([1, 3]))
def test_random_architectures_equal_fvcore(arch: Architecture, px: int, classes: int, channels: int) -> None:
    check(arch, px, classes, channels)


@settings(max_examples=15, deadline=None)
@given(architectures(), st.integers(1, 70))
def test_fitted_networks_equal_fvcore(arch: Architecture, px: int) -> None:
    fitted = arch.fitted(px)
    check(fitted, fitted.resolution, 7, 1)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("seed", "px", "classes", "channels"), [(0, 33, 10, 1), (1, 65, 1000, 3), (2, 224, 7, 3)])
def test_sampled_networks_equal_fvcore(name: str, seed: int, px: int, classes: int, channels: int) -> None:
    check(SearchSpace.load(name).sample(seed), px, classes, channels)


@pytest.mark.parametrize(
    ("name", "px"), [("efficientnet_b0", 224), ("efficientnet_b1", 601), ("efficientnet_v2_s", 33), ("mnasnet_a1", 97)]
)
def test_published_networks_equal_fvcore(name: str, px: int) -> None:
    check(Architecture.load(name), px, 1000, 3)


@settings(max_examples=100, deadline=None)
@given(architectures(), st.integers(1, 70), st.integers(1, 20), st.sampled_from([1, 3]))
def test_the_peak_is_that_of_the_forward_pass(arch: Architecture, px: int, classes: int, channels: int) -> None:
    assert arch.cost(px, classes, channels).peak == traced_peak(arch, px, classes, channels)


@pytest.mark.parametrize("name", family_names())
def test_peaks_of_published_networks(name: str) -> None:
    arch = Architecture.load(name)
    assert arch.cost().peak == traced_peak(arch, arch.resolution, 1000, 3)


def test_mobilenet_v2_needs_the_memory_that_is_published() -> None:
    """1372 KB in int8: MCUNetV2 (arXiv 2110.15352), figure 1."""
    assert Architecture.load("mobilenet_v2").cost().peak == 1372 * 1024


def test_b0_has_its_published_figures() -> None:
    cost = Architecture.load("efficientnet_b0").cost()
    assert (cost.params, cost.madds) == (5288548, 385814752)
    assert cost.flops == 384534752 + 13475392 + 2369248 + 1280000  # fvcore's operators on torchvision's B0


def test_an_op_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def double_depthwise(s: Shape) -> tuple[Layer, ...]:
        hidden = make_divisible(s.in_channels * s.expansion)
        return (
            Conv(s.in_channels, s.in_channels, 5, 1, s.in_channels, False),
            pointwise(s.in_channels, hidden, True),
            Conv(hidden, hidden, s.kernel, s.stride, hidden, True),
            *squeeze_excitation(s, hidden),
            pointwise(hidden, s.out_channels, False),
        )

    monkeypatch.setitem(OPS, "dd", Op("double depthwise", double_depthwise))
    arch = Architecture.parse("stem16 head32 ir_r1_k3_s2_e3_c16 dd_r2_k3_s2_e4_c24_se0.25 dd_r2_k5_s1_e2_c24")
    assert Architecture.parse(str(arch)) == arch
    check(arch, 45, 7, 3)
    space = SearchSpace("mine", ("{ir|dd}_r{1|2}_k{3|5}_s2_e{2|4}_c{8|16}_se{0|0.25}",), stem=8, head=16, resolution=33)
    assert space.size == 2**6
    codes = space.sample_codes(5, 0, max_madds=max(space.extremes()["madds"]))
    for code, madds in zip(codes, space.costs(codes)["madds"], strict=True):
        assert space.decode(code).cost().madds == madds


def test_the_own_resolution_is_the_default() -> None:
    b3 = Architecture.load("efficientnet_b3")
    assert b3.cost() == b3.cost(300) != b3.cost(224)


@given(architectures())
def test_parts_add_up(arch: Architecture) -> None:
    rows = parts(arch)
    assert rows[0].name == "stem"
    assert sum(row.cost.params for row in rows) == arch.cost().params
    assert max(row.cost.peak for row in rows) == arch.cost().peak
    assert len(rows) == len(arch.stages) + 3


@pytest.mark.parametrize("wrong", [{"resolution": 0}, {"resolution": 10**6}, {"num_classes": 0}, {"in_channels": 0}])
def test_impossible_arguments_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be a whole number from 1"):
        Architecture.load("efficientnet_b0").cost(**wrong)
