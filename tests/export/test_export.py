"""An exported network answers as the trained one, to readers that share no code with `nas.export`."""

import csv
import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import nas
from nas import Architecture, UserError, datasets
from nas.base.errors import RunFailed
from nas.export import formats, timm
from nas.export.files import difference, export
from nas.export.source import Source, open_source
from nas.networks.module import Network
from nas.networks.timm import to_arch_def
from nas.training import trained
from nas.training.trained import Inputs, Trained
from tests.helpers.commands import ROOT, Command
from tests.helpers.strategies import architectures

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("timm")

ARCH = Architecture.parse(
    "28px stem8 ds_r1_k3_s1_e1_c8 ir_r2_k3_s2_e3_c16_se0.25 er_r1_k3_s2_e4_c24_nhs head32 eps0.001"
)
INPUTS = Inputs(("cat", "dog"), 3, 16, (120.5, 110.25, 99.1), (60.0, 61.0, 62.0))


def stirred(arch: Architecture, inputs: Inputs) -> Network:
    """A network whose every weight and statistic is random, so that none may stand for another."""
    torch.manual_seed(0)
    model = arch.build(len(inputs.classes), inputs.channels).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1 if tensor.ndim == 1 else torch.randn_like(tensor) / 4)
    return model


def saved(path: Path, arch: Architecture = ARCH, inputs: Inputs = INPUTS) -> Path:
    """A network's file, quickly."""
    trained.save(path, Trained(arch, inputs, {}), stirred(arch, inputs).state_dict())
    return path


def test_every_format_answers_as_the_trained_network(command: Command, here: Path) -> None:
    ended = command("train", str(ARCH), "--data", datasets.DEFAULT, "--epochs", "1", "--run", "a", "--device", "cpu")
    assert ended.code == 0, ended.err
    run, out = here / "runs/a", here / "out"
    rows = {row.format: row for row in export(open_source("a", None, 10_000), list(formats.FORMATS), out)}
    files = {"model.safetensors", "model.toml", "model.pt2", "model.onnx", "model_int8.onnx"}
    assert {file.name for file in out.iterdir()} == files | {"timm.safetensors", "timm.json", "export.csv"}

    model, known = nas.load(run), trained.read(run)
    data = datasets.load()
    images = known.inputs.normalised(data.val_images)
    with torch.no_grad():
        logits = model(images)
    right = float((logits.argmax(1) == data.val_labels).double().mean())
    assert right == pytest.approx(tomllib.loads((run / "result.toml").read_text())["validation"]["top1"], abs=0.002)
    assert right > 0.5
    for row in rows.values():
        assert row.bytes == sum((out / file).stat().st_size for file in row.files)
        assert row.images == (10_000 if row.format == "int8" else 129)
        if row.format != "int8":
            assert row.max_difference_random <= (row.tolerated_random or 0) < 1e-3
            assert -1 < (-1 if row.max_difference_real is None else row.max_difference_real) < 1e-4

    def agrees(network: Callable[[torch.Tensor], torch.Tensor], count: int = 50) -> None:
        for part in (slice(0, 1), slice(1, count)):
            assert torch.allclose(network(images[part]), logits[part], atol=1e-4)

    with torch.no_grad():
        again = Architecture.load(out / "model.toml").build(10, 1).eval()
        again.load_state_dict(load_file(out / "model.safetensors"))
        agrees(again)
        agrees(nas.load(out / "model.safetensors"))
        agrees(torch.export.load(out / "model.pt2").module())
        agrees(with_timm(out))
    file = onnx.load(out / "model.onnx")
    onnx.checker.check_model(file, full_check=True)
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator(file)
    agrees(lambda x: torch.from_numpy(reference.run(["logits"], {"images": x.numpy()})[0]), count=4)
    runtime = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    agrees(lambda x: torch.from_numpy(runtime.run(["logits"], {"images": x.numpy()})[0]))
    described(file, known)

    for name in files | {"timm.json"}:
        content = (out / name).read_bytes()
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content
    archive = ZipFile(out / "model.pt2")
    images_pickled, configs = (
        [n for n in archive.namelist() if word in n] for word in ("sample_inputs", "config.json")
    )
    assert [archive.read(name) for name in images_pickled] == [b""]
    assert len(configs) == 2
    assert not any(b'"use_pickle": true' in archive.read(name) for name in configs)
    assert any(b'"use_pickle": false' in archive.read(name) for name in configs)

    int8 = onnx.load(out / "model_int8.onnx")
    described(int8, known)
    quantized(int8)
    pixels = (data.val_images.numpy().astype(np.float32) - known.inputs.mean[0]) / np.float32(known.inputs.std[0])
    runtime = onnxruntime.InferenceSession(out / "model_int8.onnx", providers=["CPUExecutionProvider"])
    classes = np.concatenate([runtime.run(["logits"], {"images": part})[0] for part in np.split(pixels, 40)]).argmax(1)
    share = float((classes == data.val_labels.numpy()).mean())
    assert rows["int8"].top1 == pytest.approx(share, abs=0.002)
    assert rows["int8"].trained_top1 == right
    assert share > right - 0.04
    assert rows["int8"].same_class == pytest.approx(float((classes == logits.argmax(1).numpy()).mean()), abs=0.002)
    assert rows["int8"].bytes < 0.9 * rows["onnx"].bytes
    table = list(csv.DictReader((out / "export.csv").open()))
    assert [(line["format"], int(line["bytes"])) for line in table] == [(r.format, r.bytes) for r in rows.values()]


def with_timm(folder: Path) -> nn.Module:
    """The network as someone builds it who has only timm and the two files."""
    from timm.models import EfficientNet
    from timm.models._efficientnet_builder import decode_arch_def

    known = json.loads((folder / "timm.json").read_text())
    model: nn.Module = EfficientNet(
        decode_arch_def(known["arch_def"]),
        round_chs_fn=lambda channels: channels,
        norm_layer=partial(nn.BatchNorm2d, **known["norm"]),
        **known["model"],
    )
    model.load_state_dict(load_file(folder / "timm.safetensors"))
    return model.eval()


def described(file: Any, known: Trained) -> None:
    """An ONNX file says what it takes and gives, and with which opset."""
    props = {prop.key: prop.value for prop in file.metadata_props}
    assert json.loads(props["classes"]) == list(known.inputs.classes)
    assert json.loads(props["mean"]) == list(known.inputs.mean)
    assert json.loads(props["std"]) == list(known.inputs.std)
    assert props["network"] == known.to_toml()
    assert [opset.version for opset in file.opset_import if not opset.domain] == [18]
    (taken,), (given_,) = file.graph.input, file.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (taken, given_)]
    assert (taken.name, given_.name) == ("images", "logits")
    assert shapes == [["batch", 1, 28, 28], ["batch", 10]]


def quantized(file: Any) -> None:
    """Every convolution's weights are INT8, each channel with its own scale, and its images are quantized too."""
    tensors = {tensor.name: tensor for tensor in file.graph.initializer}
    makers = {node.output[0]: node for node in file.graph.node}
    convolutions = [node for node in file.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 10
    for node in convolutions:
        images, weights = (makers[name] for name in node.input[:2])
        assert images.op_type == weights.op_type == "DequantizeLinear"
        values, scales = (tensors[name] for name in weights.input[:2])
        assert values.data_type == onnx.TensorProto.INT8
        assert list(scales.dims) == [values.dims[0]]


def test_answers_of_another_shape_are_wrong_answers() -> None:
    """Also where broadcasting would find them equal."""
    assert difference(torch.ones(1, 3), torch.ones(2, 3)) == float("inf")
    assert difference(torch.tensor([[1.0, 2.5]]), torch.tensor([[1.0, 2.0]])) == 0.5


@settings(max_examples=15)
@given(architectures(), st.integers(1, 4))
def test_timm_answers_as_any_architecture_or_refuses_it(arch: Architecture, channels: int) -> None:
    inputs = Inputs(("a", "b", "c"), channels, 16, (0.5,) * channels, (0.25,) * channels)
    model = stirred(arch, inputs)
    try:
        known = timm.definition(Source(Path(), model, Trained(arch, inputs, {}), None))
    except UserError:
        with pytest.raises(UserError, match="timm squeezes"):
            to_arch_def(arch)
        return
    theirs = timm.build(json.loads(json.dumps(known))).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), model.state_dict().values(), strict=True)))
    images = torch.rand(2, channels, 20, 20)
    with torch.no_grad():
        assert torch.allclose(theirs(images), model(images), rtol=1e-4, atol=1e-4)
    assert theirs.pretrained_cfg["label_names"] == ["a", "b", "c"]


def spoilt(form: formats.Format, damage: str) -> formats.Format:
    """A format that writes another network than that which was trained."""

    def write(source: Source, file: Path) -> None:
        other = source.trained.architecture.build(len(source.inputs.classes), source.inputs.channels).eval()
        other.load_state_dict(source.model.state_dict())
        if damage == "weight":
            other.features[1][0].block[0][0].weight.data[0, 0, 1, 1] += 0.01
        elif damage == "statistic":
            other.features[2][0].block[1][1].running_var.data[3] *= 1.05
        else:
            other.classifier[1].bias.data[1] = torch.nan
        form.write(replace(source, model=other), file)

    return replace(form, write=write)


@pytest.mark.parametrize("damage", ["weight", "statistic", "nan"])
@pytest.mark.parametrize("form", [form for form in formats.FORMATS if form.name in ("safetensors", "timm")])
def test_what_does_not_verify_leaves_nothing_behind(tmp_path: Path, form: formats.Format, damage: str) -> None:
    source = open_source(str(saved(tmp_path / "a.safetensors")), None, 10)
    out = tmp_path / "out"
    with pytest.raises(RunFailed, match=f"{form.name}: does not answer as the trained network does"):
        export(source, [formats.FORMATS[0], spoilt(form, damage)], out)
    assert not list(out.iterdir())
    export(source, [form], out)
    before = {file: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(RunFailed):
        export(source, [spoilt(form, damage)], out)
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_a_network_that_computes_nothing_is_not_exported(command: Command, here: Path) -> None:
    model = stirred(ARCH, INPUTS)
    model.features[0][0].weight.data[0] = torch.nan
    trained.save(here / "x.safetensors", Trained(ARCH, INPUTS, {}), model.state_dict())
    ended = command("export", "x.safetensors", "--to", "safetensors,timm", "--out", "out")
    assert ended.code == 1
    assert ended.err.startswith("error: x.safetensors: no file can be checked against this network")
    assert ended.err.count("\n") == 1
    assert not list((here / "out").iterdir())


def test_the_command_takes_a_run_and_tells_scripts(command: Command, here: Path) -> None:
    run = here / "runs/x"
    run.mkdir(parents=True)
    saved(run / trained.WEIGHTS)
    ended = command("export", "x", "--to", "timm,safetensors", "--json")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer["folder"] == "runs/x/export"
    assert [row["format"] for row in answer["files"]] == ["safetensors", "timm"]
    for row in answer["files"]:
        assert row["max_difference_random"] <= row["tolerated_random"]
        assert row["top1"] is None
        assert all((run / "export" / file).is_file() for file in row["files"])
    ended = command("export", "runs/x/weights.safetensors", "--out", "b")
    assert ended.code == 0, ended.err
    assert "float32 [batch, 3, 16, 16]: pixel values 0 to 255, less mean 120.5, 110.2, 99.1" in ended.out
    assert nas.load("b/model.safetensors").architecture == ARCH


def test_what_a_file_says_decides_on_no_path(tmp_path: Path) -> None:
    odd = replace(INPUTS, classes=("../../up", "/etc/name", 'ü "quoted"\n', "model.onnx"))
    source = open_source(str(saved(tmp_path / "a.safetensors", inputs=odd)), None, 10)
    out = tmp_path / "below" / "out"
    export(source, [form for form in formats.FORMATS if form.name in ("safetensors", "timm")], out)
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {
        *("a.safetensors", "model.safetensors", "model.toml", "timm.safetensors", "timm.json", "export.csv")
    }
    assert json.loads((out / "timm.json").read_text())["pretrained_cfg"]["label_names"] == list(odd.classes)
    assert trained.read(out / "model.safetensors").inputs == odd


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("efficientnet_b0 --to onnx", "efficientnet_b0: is an architecture without trained weights"),
        ("small.toml --to timm", "small.toml: is an architecture without trained weights"),
        ("nothing --to onnx", "nothing: is neither a training's run directory nor a .safetensors file"),
        ("empty --to onnx", "empty: holds no trained network"),
        ("x.safetensors --to", "--to"),
        ("x.safetensors --to onxx", "--to: unknown format 'onxx'; nearest is 'onnx'"),
        ("x.safetensors --to onnx,", "--to: unknown format ''"),
        ("x.safetensors --to int8", "--to int8: needs images to calibrate with; give --data NAME"),
        (
            "x.safetensors --to timm --data fashion-mnist-20k",
            "the network was trained on 3 channels and 2 classes (cat",
        ),
        ("x.safetensors --to timm --data nowhere", "data 'nowhere': no such folder"),
        ("x.safetensors --to timm --images 0", "--images"),
        ("x.safetensors --to timm --out small.toml", "--out small.toml: no folder can be made there"),
        ("squeezed.safetensors --to safetensors,timm", "--to timm: ir_r1_k3_s1_e2_c16_se0.25: timm squeezes 24"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(command: Command, here: Path, call: str, said: str) -> None:
    saved(here / "x.safetensors")
    saved(here / "squeezed.safetensors", Architecture.parse("stem9 ir_r1_k3_s1_e2_c16_se0.25 head8"))
    (here / "empty").mkdir()
    before = sorted(here.rglob("*.*"))
    ended = command("export", *call.split())
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert [path for path in sorted(here.rglob("*.*")) if path.is_file()] == [p for p in before if p.is_file()]


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnxscript"), ("int8", "onnxruntime"), ("timm", "timm")])
def test_a_missing_package_is_one_line(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, form: str, package: str
) -> None:
    saved(here / "x.safetensors")
    monkeypatch.setattr("nas.base.errors.find_spec", lambda name: None if name == package else object())
    ended = command("export", "x.safetensors", "--to", f"safetensors,{form}")
    assert ended.code == 2
    assert (
        ended.err
        == f"error: --to {form}: needs {package}, which is not installed; pip install 'compound-nas[export]'\n"
    )
    assert command("export", "x.safetensors", "--to", "safetensors").code == 0
