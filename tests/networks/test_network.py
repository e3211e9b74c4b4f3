"""Built networks against torchvision's: state dicts, outputs to the last bit, stochastic depth, initialisation."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Architecture, UserError
from tests.helpers.strategies import architectures

PUBLISHED = (*(f"efficientnet_b{i}" for i in range(8)), *(f"efficientnet_v2_{size}" for size in "sml"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_torchvisions(name: str) -> None:
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    cost = Architecture.load(name).cost(weights.transforms.keywords["crop_size"])
    assert cost.params == weights.meta["num_params"]
    assert round(cost.madds / 1e9, 3) == weights.meta["_ops"]


def test_b3_is_b0_scaled() -> None:
    b0, b3 = map(Architecture.load, ("efficientnet_b0", "efficientnet_b3"))
    assert b0.scale(width=1.2, depth=1.4).at(300) == b3


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_are_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):  # without initialising what is overwritten below
        theirs = getattr(torchvision.models, name)().eval()
        ours = Architecture.load(name).build().eval()
    theirs, ours = theirs.to_empty(device="cpu"), ours.to_empty(device="cpu")
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0, 0.02)
    for module in theirs.modules():  # statistics and affine terms that differ from their initial values
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.ones_(module.weight)
            module.num_batches_tracked.zero_()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))
    norms = [[(m.eps, m.momentum) for m in n.modules() if isinstance(m, torch.nn.BatchNorm2d)] for n in (ours, theirs)]
    assert norms[0] == norms[1]


def test_stochastic_depth_and_dropout_are_torchvisions() -> None:
    theirs = torchvision.models.efficientnet_b0(stochastic_depth_prob=0.3, dropout=0.4)
    ours = Architecture.load("efficientnet_b0").build(drop_path=0.3, dropout=0.4)
    kinds = torchvision.ops.StochasticDepth, torch.nn.Dropout
    rates = [[m.p for m in n.modules() if isinstance(m, kinds)] for n in (ours, theirs)]
    assert rates[0] == rates[1]
    assert max(rates[0]) == 0.4


@settings(max_examples=12, deadline=None)
@given(architectures())
def test_every_architecture_runs_and_learns(arch: Architecture) -> None:
    model = arch.build(num_classes=5, in_channels=1)
    assert model.architecture == arch
    logits = model(torch.randn(2, 1, 40, 40))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


@settings(max_examples=25, deadline=None)
@given(architectures())
def test_the_walk_tells_what_the_module_does(arch: Architecture) -> None:
    model = arch.build(num_classes=2, in_channels=1).eval()
    stem, *stages, head = model.features
    modules = [stem, *(block for stage in stages for block in stage), head]
    blocks = arch.walk(in_channels=1)
    for module, block in zip(modules, blocks, strict=True):
        module.register_forward_hook(lambda _, given, out: seen.append((*given[0].shape, *out.shape)))
        assert getattr(module, "residual", False) == block.residual
    seen: list[tuple[int, ...]] = []
    with torch.no_grad():
        model(torch.zeros(1, 1, arch.resolution, arch.resolution))
    said = [(b.input.channels, b.input.size, b.output.channels, b.output.size) for b in blocks]
    assert [(c, h, c2, h2) for _, c, h, _, _, c2, h2, _ in seen] == said
    places = [(n, i) for n, stage in enumerate(arch.stages, 1) for i in range(stage.repeats)]
    assert [(b.stage, b.position) for b in blocks] == [(0, 0), *places, (len(arch.stages) + 1, 0)]


@settings(max_examples=10, deadline=None)
@given(architectures(), st.integers(1, 60))
def test_a_fitted_network_runs(arch: Architecture, px: int) -> None:
    fitted = arch.fitted(px)
    model = fitted.build(num_classes=5, in_channels=1)
    images = torch.randn(2, 1, fitted.resolution, fitted.resolution)
    assert model(images).shape == (2, 5)
    side = model.features(images).shape[-1]
    assert side == fitted.walk()[-1].output.size
    assert side >= min(px, 4) or px >= arch.resolution


def test_residuals_are_where_they_are_said_to_be() -> None:
    def residuals(text: str) -> list[bool]:
        model = Architecture.parse(text).build()
        return [block.residual for stage in model.features[1:-1] for block in stage]

    assert residuals("ir_r2_k3_s2_e6_c24") == [False, True]
    assert residuals("ir_r2_k3_s1_e6_c32_noskip") == [False, False]
    assert residuals("cn_r2_k3_s1_c32") == [False, False]
    assert residuals("er_r2_k3_s1_e1_c32") == [True, True]


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"in_channels": 0}, {"dropout": 1.0}, {"drop_path": -0.1}])
def test_impossible_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be"):
        Architecture.load("efficientnet_b0").build(**wrong)
