"""The network as ONNX, as onnxruntime and others run it. Needs the extra `export`."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nas.export.program import traced
from nas.export.source import Answer, Source

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
INPUT, OUTPUT = "images", "logits"


def write(source: Source, file: Path) -> None:
    """Write the network."""
    save(graph(source), source, file)


@lru_cache(maxsize=1)
def graph(source: Source) -> ModelProto:
    """The traced network with batch norm folded into the convolutions, and without notes on where it comes from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch and onnxscript
        program = torch.onnx.export(
            traced(source), opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    assert program is not None  # it is None only where torch writes the file itself
    model: ModelProto = program.model_proto
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def save(model: ModelProto, source: Source, file: Path) -> None:
    """Write a model, with its inputs and classes as metadata (lists as JSON); raises onnx's errors.

    Keys: network (TOML, everything), classes, mean, std (of pixel values 0 to 255), resize, value_range (or null).
    """
    import onnx

    inputs = source.inputs
    lists = {"classes": inputs.classes, "mean": inputs.mean, "std": inputs.std, "value_range": inputs.value_range}
    known = {key: json.dumps(value) for key, value in lists.items()}
    onnx.helper.set_model_props(model, {"network": source.trained.to_toml(), "resize": inputs.resize, **known})
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


def load(file: Path) -> Answer:
    """The network in an ONNX file, as onnxruntime runs it on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def answer(images: torch.Tensor) -> torch.Tensor:
        (logits,) = opened.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return answer
