"""The formats that a network is exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from nas.base.errors import UserError, check_installed
from nas.base.units import nearest
from nas.export import int8, onnx, program, timm
from nas.export.source import Answer, Source
from nas.networks.architecture import Architecture
from nas.training import trained


@dataclass(frozen=True)
class Format:
    """One format. files: their names, the one with the weights first; others have its name and another suffix.

    write: writes them, given the path of the first. load: the network in them, as users of the format load it. check:
    raises UserError where the format cannot hold a network, before anything is written. exact: whether its outputs are
    the trained network's, except for rounding in fp32. needs: packages of the extra.
    """

    name: str
    files: tuple[str, ...]
    write: Callable[[Source, Path], None]
    load: Callable[[Path], Answer]
    check: Callable[[Source], object] = lambda source: None
    exact: bool = True
    needs: tuple[str, ...] = ()


def write_weights(source: Source, file: Path) -> None:
    """Write what `nas.load` reads, and the TOML that is in its metadata to a file of its own."""
    trained.save(file, source.trained, source.model.state_dict())
    file.with_suffix(".toml").write_text(source.trained.to_toml(), encoding="utf-8")


def load_weights(file: Path) -> Answer:
    """The network that the TOML describes, with the weights."""
    inputs = trained.read(file).inputs
    model = Architecture.load(file.with_suffix(".toml")).build(len(inputs.classes), inputs.channels)
    model.load_state_dict(load_file(file))
    return model.eval()


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = (
    Format("safetensors", ("model.safetensors", "model.toml"), write_weights, load_weights),
    Format("pt2", ("model.pt2",), program.write, program.load),
    Format("onnx", ("model.onnx",), onnx.write, onnx.load, needs=_ONNX),
    Format("int8", ("model_int8.onnx",), int8.write, onnx.load, int8.check, exact=False, needs=_ONNX),
    Format("timm", ("timm.safetensors", "timm.json"), timm.write, timm.load, timm.definition, needs=("timm",)),
)


def chosen(text: str) -> list[Format]:
    """The formats of a list such as onnx,timm; raises UserError if one is unknown or its packages are missing."""
    known = {form.name: form for form in FORMATS}
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--to: unknown format {name[:40]!r}; {nearest(name[:40], known)}")
        for package in known[name].needs:
            check_installed(f"--to {name}", package, "export")
    return [form for form in FORMATS if form.name in names]
