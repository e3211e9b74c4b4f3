"""The ONNX file in INT8: post-training static quantization by onnxruntime. Needs the extra `export`.

Weights are signed, one scale a channel; activations unsigned, with the ranges that calibration images give them; as
QuantizeLinear and DequantizeLinear around each operator (QDQ). Such files are always smaller; how fast and how exact
they are depends on the processor: those without VNNI may saturate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nas.base.errors import UserError
from nas.export.onnx import INPUT, graph, save
from nas.export.source import Source


class Calibration:
    """Training images in the interface of onnxruntime's calibration."""

    def __init__(self, source: Source) -> None:
        assert source.real
        self.images = source.batches(source.real.calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        batch = next(self.images, None)
        return None if batch is None else {INPUT: batch.numpy()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.get_next, None)


def check(source: Source) -> None:
    """Raise a UserError if there are no images to calibrate with."""
    if source.real is None:
        raise UserError("--to int8: needs images to calibrate with; give --data NAME or --data FOLDER, or leave it out")


def write(source: Source, file: Path) -> None:
    """Quantize the network and write it."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with TemporaryDirectory() as name:
        plain, quantized = Path(name, "plain.onnx"), Path(name, "quantized.onnx")
        save(graph(source), source, plain)
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it asks for batch norm to be folded first, which was done
        try:
            quantize_static(
                plain,
                quantized,
                Calibration(source),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            logging.disable(before)
        save(onnx.load(quantized), source, file)
