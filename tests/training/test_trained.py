"""A trained network's file: what is written is what is loaded, and nothing else is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import nas
from nas import Architecture, UserError
from nas.training import trained
from nas.training.trained import Inputs, Trained

ARCH = Architecture.parse("32px stem8 ds_r1_k3_s1_e1_c8 ir_r2_k3_s2_e3_c16_se0.25 head32")
INPUTS = Inputs(("cat", "dog"), 3, 32, (120.5, 110.25, 99.1), (60.0, 61.0, 62.0))


def written(path: Path, known: Trained) -> torch.nn.Module:
    torch.manual_seed(0)
    model = known.architecture.build(len(known.inputs.classes), known.inputs.channels).eval()
    trained.save(path, known, model.state_dict())
    return model


@pytest.mark.parametrize("whole_directory", [False, True])
def test_a_saved_network_answers_as_before(tmp_path: Path, whole_directory: bool) -> None:
    model = written(tmp_path / trained.WEIGHTS, Trained(ARCH, INPUTS, {"top1": 0.5}))
    loaded = nas.load(tmp_path if whole_directory else tmp_path / trained.WEIGHTS)
    images = INPUTS.normalised(torch.randint(0, 256, (4, 3, 32, 32)))
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))


@settings(max_examples=20, deadline=None)
@given(
    classes=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True),
    numbers=st.lists(st.tuples(st.floats(-300, 300), st.floats(1e-3, 300)), min_size=1, max_size=4),
)
def test_what_it_takes_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, classes: list[str], numbers: list[tuple[float, float]]
) -> None:
    mean, std = zip(*numbers, strict=True)
    known = Trained(ARCH, Inputs(tuple(classes), len(numbers), 24, mean, std), {"top1": 0.25, "data": 'a "b"\n'})
    path = tmp_path_factory.mktemp("a") / "net.safetensors"
    written(path, known)
    assert trained.read(path) == known


def test_the_description_is_an_architecture_file(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(Trained(ARCH, INPUTS, {"top1": 0.5}).to_toml())
    assert Architecture.load(tmp_path / "net.toml") == ARCH


def test_normalised_images_have_the_statistics_taken_out() -> None:
    pixels = torch.tensor(INPUTS.mean)[None, :, None, None].expand(2, 3, 4, 4) + 60
    assert torch.allclose(INPUTS.normalised(pixels)[:, 0], torch.ones(2, 4, 4))


def test_each_mistake_is_one_clear_line(tmp_path: Path) -> None:
    def fails(name: str, expected: str) -> None:
        with pytest.raises(UserError, match=expected):
            trained.load(tmp_path / name)

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("not weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"network": "stages = ["})
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors", {"network": ARCH.to_toml()})
    other = replace(ARCH, head=64)
    trained.save(tmp_path / "other.safetensors", Trained(other, INPUTS, {}), ARCH.build(2).state_dict())
    narrow = Trained(ARCH, INPUTS, {}).to_toml().replace("    110.25,\n", "")
    save_file({"a": torch.zeros(1)}, tmp_path / "narrow.safetensors", {"network": narrow})
    whole = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])

    fails("missing.safetensors", "neither")
    fails("empty", "no trained network")
    fails("text.safetensors", "not a safetensors file")
    fails("cut.safetensors", "not a safetensors file")
    fails("plain.safetensors", "does not say which network")
    fails("odd.safetensors", "not valid TOML")
    fails("bare.safetensors", "table inputs")
    fails("narrow.safetensors", "table inputs")
    fails("other.safetensors", "not those of its network")
