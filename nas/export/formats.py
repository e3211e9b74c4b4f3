"""The formats that a network is exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.base.errors import UserError, check_installed
from nas.base.units import nearest
from nas.export import int8, onnx, program, timm, weights
from nas.export.source import Answer, Source


@dataclass(frozen=True)
class Format:
    """One format. files: their names, the one with the weights first.

    write: writes them to a folder. load: the network in them, as users of the format load it. check: raises UserError
    where the format cannot hold a network, before anything is written.
    exact: whether it answers as the trained network does, but for rounding in fp32. needs: packages of the extra.
    """

    name: str
    files: tuple[str, ...]
    write: Callable[[Source, Path], None]
    load: Callable[[Source, Path], Answer]
    check: Callable[[Source], object] = lambda source: None
    exact: bool = True
    needs: tuple[str, ...] = ()


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = (
    Format("safetensors", weights.FILES, weights.write, weights.load),
    Format("pt2", program.FILES, program.write, program.load),
    Format("onnx", onnx.FILES, onnx.write, onnx.load, needs=_ONNX),
    Format("int8", int8.FILES, int8.write, int8.load, int8.check, exact=False, needs=_ONNX),
    Format("timm", timm.FILES, timm.write, timm.load, timm.definition, needs=("timm",)),
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
