"""Weights as safetensors, and beside them the network as TOML: what `nas.load` and `Architecture.load` read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from nas.export.source import Answer, Source
from nas.networks.architecture import Architecture
from nas.training import trained

FILES = ("model.safetensors", "model.toml")


def write(source: Source, folder: Path) -> None:
    """Write both files; the TOML is also in the metadata of the weights."""
    trained.save(folder / FILES[0], source.trained, source.model.state_dict())
    (folder / FILES[1]).write_text(source.trained.to_toml(), encoding="utf-8")


def load(source: Source, folder: Path) -> Answer:
    """The network that the TOML describes, with the weights."""
    model = Architecture.load(folder / FILES[1]).build(len(source.inputs.classes), source.inputs.channels)
    model.load_state_dict(load_file(folder / FILES[0]))
    return model.eval()
