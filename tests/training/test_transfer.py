"""Transfer: weights of torchvision, of a file, of a smaller member of the family; what is frozen, what is refused."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from nas import Architecture, UserError, datasets
from nas.networks.module import zero_init
from nas.training import trained
from nas.training.grow import check_family, grow_weights
from nas.training.pretrained import IMAGENET, load_pretrained, published, read_pretrained
from nas.training.trained import Inputs, Trained
from tests.helpers.commands import Command

SMALL = Architecture.parse("32px stem8 ds_r1_k3_s1_c8_se0.25 ir_r2_k3_s2_e3_c16_se0.25 er_r1_k3_s2_e2_c24 head32")
CLASSES = ("class0", "class1", "class2")
INPUTS = Inputs(CLASSES, 3, 28, (100.0, 101.0, 102.0), (50.0, 51.0, 52.0))


@pytest.fixture(scope="module")
def b0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A state dict of torchvision's own B0, with random weights and statistics, and that network."""
    torch.manual_seed(0)
    model = torchvision.models.efficientnet_b0(weights=None)
    stirred(model)
    path = tmp_path_factory.mktemp("b0") / "b0.pth"
    torch.save(model.state_dict(), path)
    return path, model.eval()


@torch.no_grad()
def stirred(model: nn.Module) -> None:
    """Give the norms scales and statistics that are not those of a fresh network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                tensor.normal_(0, 0.1)


def small_weights(folder: Path, arch: Architecture = SMALL) -> tuple[Path, nn.Module]:
    """A file of ours with a network that was as good as trained."""
    torch.manual_seed(0)
    model = arch.build(3).eval()
    stirred(model)
    trained.save(folder / "small.safetensors", Trained(arch, INPUTS, {}), model.state_dict())
    return folder / "small.safetensors", model


def test_a_file_of_torchvisions_is_taken_as_it_is(b0: tuple[Path, nn.Module]) -> None:
    path, theirs = b0
    arch = Architecture.load("efficientnet_b0")
    model = arch.build(3)
    said = load_pretrained(model, read_pretrained(str(path), arch), CLASSES)
    assert "a new classifier" in said
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval().features(x), theirs.features(x))  # type: ignore[operator]
    assert model(x).shape == (2, 3)

    grey = arch.build(3, in_channels=1).eval()
    load_pretrained(grey, read_pretrained(str(path), arch), CLASSES)
    one = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(grey.features(one), theirs.features(one.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)  # type: ignore[operator]


def test_frozen_features_stay_and_the_classifier_learns(
    command: Command, here: Path, images: Path, b0: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    original, theirs = b0
    path = here / "b0.pth"
    path.write_bytes(original.read_bytes())
    arguments = ["efficientnet_b0", "--data", str(images), "--device", "cpu", "--epochs", "2", "--run", "t"]
    ended = command("train", *arguments, "--pretrained", str(path), "--freeze", "features")
    assert ended.code == 0, ended.err
    assert f"weights of {path}; a new classifier" in ended.out
    assert "frozen: the first 9 of 9 parts" in ended.out
    kept, before = load_file(here / "runs/t/weights.safetensors"), theirs.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items() if name.startswith("features."))
    assert kept["classifier.1.weight"].abs().sum() > 0  # it starts at zero
    assert trained.read(here / "runs/t").inputs.mean == pytest.approx(IMAGENET[0])
    with monkeypatch.context() as patch:  # interrupted after the last step
        patch.setattr("nas.train.command.write_results", interrupted)
        assert command("train", *arguments, "--pretrained", str(path), "--freeze", "features", "--run", "u").code == 130
    assert command("train", *arguments, "--pretrained", str(path), "--freeze", "features", "--run", "u").code == 0
    written = [(here / f"runs/{run}/weights.safetensors").read_bytes() for run in ("t", "u")]
    assert written[0] == written[1]
    assert tomllib.loads((here / "runs/t/run.toml").read_text())["recipe"]["name"] == "finetune"
    ended = command("train", *arguments, "--pretrained", str(path), "--freeze", "8")
    assert "--freeze features, now it is 8" in ended.err
    torch.save({**before, "features.0.0.weight": before["features.0.0.weight"] + 1}, path)
    ended = command("train", *arguments, "--pretrained", str(path), "--freeze", "features")
    assert "the file of pretrained weights has changed since this run was started" in ended.err


def test_torchvisions_weights_by_name(
    command: Command, here: Path, images: Path, b0: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published() == [*(f"efficientnet_b{i}" for i in range(8)), *(f"efficientnet_v2_{size}" for size in "lms")]
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    arguments = ["efficientnet_b0", "--data", str(images), "--device", "cpu", "--pretrained", "torchvision"]
    ended = command("train", *arguments)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    name = torchvision.models.EfficientNet_B0_Weights.DEFAULT.url.rpartition("/")[2]
    assert "cannot be downloaded" in ended.err
    assert name in ended.err
    assert not (here / "runs").exists()

    place = here / "torch/hub/checkpoints" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b0[0].read_bytes())
    found = read_pretrained("torchvision", Architecture.load("efficientnet_b0").at(96))
    assert found.mean == pytest.approx(IMAGENET[0])
    assert torch.equal(
        found.weights["features.0.0.weight"], torch.load(b0[0], weights_only=True)["features.0.0.weight"]
    )
    with pytest.raises(UserError, match="this network is another"):
        read_pretrained("torchvision", SMALL)


def test_a_trained_network_goes_on_with_its_classifier(tmp_path: Path) -> None:
    path, before = small_weights(tmp_path)
    model = SMALL.at(64).build(3)
    found = read_pretrained(str(path), SMALL)
    assert "its classifier too" in load_pretrained(model, found, CLASSES)
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert "a new classifier" in load_pretrained(SMALL.build(3), found, ("other", *CLASSES[1:]))
    assert found.statistics(3) == (INPUTS.mean, INPUTS.std)
    assert found.statistics(1) == ((101.0,), (51.0,))
    nudged = replace(found, weights={**found.weights, "classifier.1.bias": found.weights["classifier.1.bias"] + 1e-6})
    assert found.fingerprint != nudged.fingerprint


@settings(max_examples=15, deadline=None)
@given(st.floats(1, 2.5), st.floats(1, 2.5), st.integers(0, 99))
def test_what_has_grown_does_what_the_small_one_did(
    tmp_path_factory: pytest.TempPathFactory, depth: float, width: float, seed: int
) -> None:
    path, small = small_weights(tmp_path_factory.mktemp("small"))
    large = SMALL.scale(depth=depth, width=width, resolution=1.2)
    torch.manual_seed(seed)
    model = large.build(3)
    zero_init(model)
    said = load_pretrained(model, read_pretrained(str(path), large), CLASSES)
    assert "weights" in said
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model.eval()(x), small(x), rtol=1e-3, atol=1e-4)
    if width > 1.6:  # and what is new has something to learn from
        model.train()
        model(x).square().sum().backward()
        head = model.features[-1][0].weight.grad
        assert head is not None
        assert head[SMALL.head :].abs().sum() == 0  # the classifier does not look at it yet
        assert model.classifier[1].weight.grad[:, SMALL.head :].abs().sum() > 0


def test_a_network_shrinks_too(tmp_path: Path) -> None:
    large = SMALL.scale(depth=2, width=2)
    _, model = small_weights(tmp_path, large)
    state = grow_weights(model.state_dict(), SMALL.build(3))
    fresh = SMALL.build(3)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.features[0][0].weight, model.features[0][0].weight[:8])  # type: ignore[index]


@pytest.mark.parametrize(("old", "new"), [("k3_s2_e3", "k5_s2_e3"), ("e2_c24", "e4_c24"), (" er_r1_k3_s2_e2_c24", "")])
def test_another_family_is_refused(old: str, new: str) -> None:
    with pytest.raises(UserError, match="x: is not of this network's family"):
        check_family(SMALL, Architecture.parse(str(SMALL).replace(old, new)), "x")
    check_family(SMALL, SMALL.scale(1.2, 1.1, 1.15), "x")
    check_family(Architecture.load("efficientnet_b0"), Architecture.load("efficientnet_b7"), "x")


class Trap:
    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.place,)


def bad_files(here: Path) -> dict[str, str]:
    """Files by name, and what is said of each."""
    torch.save({"a": torch.zeros(2)}, here / "odd.pth")
    torch.save([torch.zeros(2)], here / "list.pth")
    torch.save({"a": Trap(here / "sprung")}, here / "trap.pth")
    (here / "text.pth").write_text("not weights")
    weights: dict[str, Tensor] = SMALL.scale(width=2).build(3).state_dict()
    torch.save(weights, here / "wide.pth")
    torch.save({**SMALL.build(3).state_dict(), "more": torch.zeros(1)}, here / "more.pth")
    other = Architecture.parse(str(SMALL).replace("k3_s2_e3", "k5_s2_e3"))
    trained.save(here / "other.safetensors", Trained(other, INPUTS, {}), other.build(3).state_dict())
    return {
        "odd.pth": "features.0.0.weight is missing",
        "list.pth": "want a state dict",
        "trap.pth": "not a file of weights alone",
        "text.pth": "not a file of weights alone",
        "wide.pth": "features.0.0.weight is 16x3x3x3, here it is 8x3x3x3",
        "more.pth": "which has no more",
        "none.pth": "no such file",
        "other.safetensors": "is not of this network's family",
        "none.safetensors": "neither",
        "torchvision": "this network is another",
    }


def test_bad_weights_are_one_line_and_write_nothing(command: Command, here: Path, images: Path) -> None:
    arguments = [str(SMALL), "--data", str(images), "--device", "cpu"]
    for name, said in bad_files(here).items():
        ended = command("train", *arguments, "--pretrained", name)
        assert (ended.code, ended.err.count("\n")) == (2, 1), (name, ended.err)
        assert said in ended.err
    for options, said in (
        (["--freeze", "6"], "--freeze 6: the network has 5 parts: the stem, 3 stages, the head"),
        (["--freeze", "some"], "--freeze 'some'"),
        (["--unfreeze", "2"], "unfreeze must be from 0 to 1"),
    ):
        ended = command("train", *arguments, *options)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert said in ended.err
    assert not (here / "runs").exists()
    assert not (here / "sprung").exists()


def test_a_larger_member_is_trained_from_a_smaller_one(command: Command, here: Path, images: Path) -> None:
    (here / "large.toml").write_text(SMALL.scale(1.5, 1.5, 1.2).to_toml())
    arguments = ["--data", str(images), "--device", "cpu", "--epochs", "1"]
    assert command("train", str(SMALL), *arguments, "--run", "small").code == 0
    ended = command("train", "large.toml", *arguments, "--pretrained", "runs/small", "--run", "large")
    assert ended.code == 0, ended.err
    assert "weights grown from runs/small" in ended.out
    small, large = trained.read(here / "runs/small"), trained.read(here / "runs/large")
    assert large.inputs.mean == small.inputs.mean
    assert datasets.load(str(images)).classes == large.inputs.classes
