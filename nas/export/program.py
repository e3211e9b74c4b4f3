"""The network as torch traced it, without Python: `torch.export`'s .pt2."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from nas.export.source import Answer, Source

NETWORK = "network.toml"  # the description's name among the archive's extra files


@lru_cache(maxsize=1)
def traced(source: Source) -> ExportedProgram:
    """The traced network, for batches of any size.

    It contains no path of this machine and no example images, which torch would pickle.
    """
    images = torch.zeros(2, source.inputs.channels, source.inputs.image_size, source.inputs.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        program = torch.export.export(source.model, (images,), dynamic_shapes=({0: Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None
    return program


def write(source: Source, file: Path) -> None:
    """Write the archive, with the network as TOML among its extra files."""
    torch.export.save(traced(source), file, extra_files={NETWORK: source.trained.to_toml()})


def load(file: Path) -> Answer:
    """The network in an archive that this process has just written: torch unpickles whatever such a file contains."""
    return torch.export.load(file).module()
