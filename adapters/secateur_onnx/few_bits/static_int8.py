"""An ONNX file in floats made one in 8-bit integers by onnxruntime's own quantizer, calibrated on images.

.. [ORT] ONNX Runtime, "Quantize ONNX models": static quantization in the QDQ format.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.batches import Batches, rebatch
from secateur.counts import check_counts
from secateur.errors import ConfigError, DataError, NetworkError
from secateur_onnx.exporting import write_model
from secateur_onnx.networks import as_array
from secateur_onnx.packages import require
from secateur_onnx.sessions import create_session, input_spec

SAMPLES = 256


@dataclass(frozen=True)
class StaticInt8:
    """What was written.

    Attributes:
        path: the file.
        file_bytes: its size.
        images: how many the ranges were found on.
    """

    path: Path
    file_bytes: int
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"path": str(self.path), "file_bytes": self.file_bytes, "images": self.images}


def export_int8(
    source: str | Path, path: str | Path, batches: Batches, *, samples: int = SAMPLES, reduce_range: bool = False
) -> StaticInt8:
    """Write a float32 ONNX file anew so that a processor computes it in 8-bit integers [ORT]_.

    onnxruntime prepares the graph, runs the images, takes the range of each tensor from their least and largest value,
    and puts QuantizeLinear and DequantizeLinear around the operators: weights int8 with a scale for each filter,
    activations uint8 with a zero point. How far the outputs move is to be measured: see `check_parity` and
    `file_accuracy`; and so is the speed: see `benchmark`.

    Args:
        source: what `export` wrote; unchanged.
        path: the file to write, under another name first.
        batches: `(inputs, labels)` or inputs alone, (N, C, H, W); labels are not read.
        samples: images to calibrate on.
        reduce_range: weights of 7 bits, whose sums do not overflow on processors without 8-bit dot products (VNNI).
            With those of 8 bits a session there needs the entry `session.x64quantprecision` = 1, as `create_session`
            sets it.

    Raises:
        CheckpointError, MissingDependencyError: as `create_session`.
        ConfigError: the file is not in float32, or `samples` is below 1.
        DataError: no images, images of another shape or not finite.
        NetworkError: the quantizer cannot read the graph.

    Cost: running the images on the CPU with all tensors kept of one batch at a time, and seconds.

    Example:
        >>> import torch
        >>> from secateur_onnx import export
        >>> net, images = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.randn(4, 3, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = export(net, images, Path(folder) / "net.onnx").path
        ...     export_int8(source, Path(folder) / "net.int8.onnx", [images]).images
        4

    Deviations: uint8 activations, where onnxruntime's default is int8: a ReLU then goes into the integer convolution,
    which on a processor with VNNI made the difference between faster and slower than floats. Transposed convolutions in
    groups keep float32: onnxruntime's quantizer has fewer scales for them than biases.
    """
    onnx, path = require("onnx"), Path(path)
    require("onnxruntime")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    check_counts(samples=samples)
    spec = input_spec(create_session(source))
    if spec.dtype != np.float32:
        raise ConfigError(f"only files in float32 can be written in 8-bit integers; {source} takes {spec.dtype}")
    reader = _Reader(spec.name, [as_array(inputs) for inputs, _ in rebatch(batches, None, samples=samples)])
    for inputs in reader.batches:
        spec.require(inputs.shape)
    with tempfile.TemporaryDirectory() as folder:
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            with _quiet():
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                kept = _in_groups(onnx.load(prepared).graph)
                quantize_static(
                    str(prepared),
                    str(written),
                    reader,
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=reduce_range,
                    nodes_to_exclude=kept,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                )
        except Exception as error:  # it passes on whatever its many parts raise
            raise NetworkError(f"onnxruntime cannot write {source} in 8-bit integers: {error}") from error
        proto, about = onnx.load(written), onnx.load(source, "protobuf", load_external_data=False).metadata_props
    onnx.helper.set_model_props(proto, {entry.key: entry.value for entry in about})
    return StaticInt8(path, write_model(proto.SerializeToString(), path), reader.images)


def _in_groups(graph: Any) -> list[str]:
    """Return the names of the transposed convolutions in groups."""
    groups = {node.name: a.i for node in graph.node if node.op_type == "ConvTranspose" for a in node.attribute
              if a.name == "group"}  # fmt: skip
    return [name for name, count in groups.items() if count > 1]


class _Reader:
    """The images, one batch after another: what onnxruntime's `CalibrationDataReader` is."""

    def __init__(self, name: str, batches: list[Any]) -> None:
        if not batches:
            raise DataError("there are no images to find the ranges of 8-bit integers on")
        self.name, self.batches, self.images = name, batches, sum(map(len, batches))
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        inputs = next(self._left, None)
        return None if inputs is None else {self.name: np.ascontiguousarray(inputs, np.float32)}

    def rewind(self) -> None:
        self._left = iter(self.batches)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's hints from the user; what it raises still comes through."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
