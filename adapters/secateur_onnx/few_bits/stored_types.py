"""The types of ONNX that hold codes of few bits: which there are, and which of them work here."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.errors import NetworkError
from secateur.quantization.packing import pack
from secateur_onnx.packages import require

TYPES = {2: ("INT2", 25), 4: ("INT4", 21), 8: ("INT8", 21), 16: ("INT16", 21)}
"""Bits of a type -> its name, and the first version of the ONNX operators in which DequantizeLinear takes it."""


@dataclass(frozen=True)
class StoredTypes:
    """What codes are stored in.

    Attributes:
        widths: bits of a filter -> bits of the type of its codes.
        wider: bits -> why the narrowest type was not taken; empty where it was.
    """

    widths: Mapping[int, int]
    wider: Mapping[int, str]

    @property
    def names(self) -> dict[int, str]:
        """Bits of a filter -> name of the type."""
        return {bits: TYPES[width][0] for bits, width in self.widths.items()}

    @property
    def opsets(self) -> list[int]:
        """The versions of the ONNX operators that the types need."""
        return [TYPES[width][1] for width in self.widths.values()]


def stored_types(bits: Iterable[int], *, newest: int | None = None) -> StoredTypes:
    """Return the narrowest types for codes of so many bits. Raises and reads `newest` as `narrowest` does.

    Example:
        >>> stored_types([7, 3], newest=21).names
        {3: 'INT4', 7: 'INT8'}
    """
    found = {each: narrowest(each, newest=newest) for each in sorted(set(bits))}
    wider = {each: "; ".join(refused) for each, (_, refused) in found.items() if refused}
    return StoredTypes({each: width for each, (width, _) in found.items()}, wider)


def narrowest(bits: int, *, newest: int | None = None) -> tuple[int, list[str]]:
    """Return the width of the narrowest type that holds numbers of `bits` bits and works, and why narrower ones do not.

    Args:
        bits: 2..16.
        newest: the last version of the ONNX operators that can be had; None: any.

    Raises:
        NetworkError: none works.

    Example:
        >>> narrowest(3)
        (4, [])
    """
    refused: list[str] = []
    for width in sorted(TYPES):
        if width >= bits:
            reason = _too_new(width, newest) or _refused(width)
            if reason is None:
                return width, refused
            refused.append(reason)
    raise NetworkError(f"no type for {bits} bits can be stored here: {'; '.join(refused)}")


def _too_new(width: int, newest: int | None) -> str | None:
    name, opset = TYPES[width]
    if newest is None or opset <= newest:
        return None
    return f"no exporter of torch translates the network with opset {opset}, which {name} needs"


@functools.cache
def _refused(width: int) -> str | None:
    """Return why a type cannot be used here; None where a session has run it."""
    onnx, onnxruntime = require("onnx"), require("onnxruntime")
    name, opset = TYPES[width]
    if not hasattr(onnx.TensorProto, name) or onnx.defs.onnx_opset_version() < opset:
        return f"onnx {onnx.__version__} does not know {name}"
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["codes", "scale"], ["output"], axis=0)],
        "probe",
        [],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [2, 1])],
        [
            codes_tensor(np.array([[1], [-1]]), "codes", width),
            helper.make_tensor("scale", onnx.TensorProto.FLOAT, [2], [1.0, 1.0]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = min(proto.ir_version, helper.find_min_ir_version_for(proto.opset_import))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {})[0]
    except Exception as error:  # onnxruntime's errors have no common class of their own
        return f"onnxruntime {onnxruntime.__version__} refuses {name}: {str(error).splitlines()[0]}"
    return None if found.tolist() == [[1.0], [-1.0]] else f"onnxruntime {onnxruntime.__version__} misreads {name}"


def codes_tensor(codes: NDArray[Any], name: str, width: int) -> Any:
    """Return codes as a tensor of an ONNX graph, packed in a type of `width` bits."""
    onnx = require("onnx")
    kind = getattr(onnx.TensorProto, TYPES[width][0])
    stream = pack(torch.from_numpy(codes.reshape(-1)), width).numpy().tobytes()  # ONNX's order: lowest bits first
    return onnx.helper.make_tensor(name, kind, codes.shape, stream, raw=True)
