"""How ONNX Runtime executes a quantized file: in integers, in floats made at every run, or in floats made once.

A small file is not a quick one. What is known of each provider stands in `FACTS`; what a provider that is here makes of
a file is read off the graph that it will run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateur.errors import ConfigError
from secateur_onnx.packages import require
from secateur_onnx.raw_session import PROVIDERS
from secateur_onnx.sessions import create_session

How = Literal["integer kernels", "integer kernels in part", "dequantised floats", "size only", "floats", "not known"]
Form = Literal["few bits", "few bits, unpacked", "few bits and activations", "static INT8"]

INTEGER = {
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv",
    "QLinearMatMul",
}  # fmt: skip
FLOATING = {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}
CODES = ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")

UNPACKED: Form = "few bits, unpacked"
NO_INTEGER_CONVOLUTION = "it has no integer convolution (none in 1.31.1), so no speed is claimed"
FACTS: Mapping[Form, Mapping[str, tuple[How, str]]] = {
    "few bits": {
        "cpu": ("dequantised floats", "weights become float32 at every run, which takes time"),
        "cuda": ("dequantised floats", NO_INTEGER_CONVOLUTION),
        "tensorrt": ("not known", "not tried; no speed is claimed"),
    },
    "few bits, unpacked": {
        "cpu": ("size only", "weights become float32 once, as the file is loaded; then it is a float file"),
        "cuda": ("size only", NO_INTEGER_CONVOLUTION),
        "tensorrt": ("not known", "not tried; no speed is claimed"),
    },
    "few bits and activations": {
        "cpu": ("dequantised floats", "rounded floats; where all filters of a layer have 8 bits, integers in part"),
        "cuda": ("dequantised floats", NO_INTEGER_CONVOLUTION),
        "tensorrt": ("not known", "not tried; no speed is claimed"),
    },
    "static INT8": {
        "cpu": ("integer kernels", "8-bit products; measured beside the float file"),
        "cuda": ("dequantised floats", NO_INTEGER_CONVOLUTION),
        "tensorrt": ("not known", "its integers want activations without a zero point, which these have"),
    },
}
"""How each provider executes each form of file, and why; those of the CPU are tested, the others are from the operators
that onnxruntime 1.31.1 brings for them and from its documentation."""


@dataclass(frozen=True)
class Execution:
    """What a provider makes of a file.

    Attributes:
        provider: "cpu", "cuda" or "tensorrt".
        how: in a word.
        integer: convolutions and products that integer kernels compute.
        floating: those that are computed in floating numbers.
        at_each_run: those of the latter whose weights are made of codes at every run.
    """

    provider: str
    how: How
    integer: int
    floating: int
    at_each_run: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "provider": self.provider,
            "how": self.how,
            "integer": self.integer,
            "floating": self.floating,
            "at_each_run": self.at_each_run,
        }


def observed_execution(path: str | Path, *, provider: str = "cpu", unpack: bool = False) -> Execution:
    """Return how a provider that is here will execute a file: read off the graph that its session will run.

    Args:
        path: an ONNX file.
        provider, unpack: see `create_session`.

    Raises: as `create_session`.

    Cost: opening a session, and a file as large as the network in float32.

    Example:
        >>> import torch
        >>> from secateur.quantization import uniform_bits
        >>> from secateur_onnx import export_quantized
        >>> net = torch.nn.Conv2d(3, 8, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plan, path = uniform_bits(net, 4), Path(folder) / "net.onnx"
        ...     _ = export_quantized(net, plan, torch.zeros(2, 3, 8, 8), path)
        ...     observed_execution(path).how, observed_execution(path, unpack=True).how
        ('dequantised floats', 'size only')
    """
    onnx = require("onnx")
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "optimized.onnx"
        create_session(path, provider=provider, threads=1, unpack=unpack, optimized=seen)
        graph, given = onnx.load(seen).graph, onnx.load(path, "protobuf", load_external_data=False).graph
    read, made = {value.name for value in graph.input}, set[str]()  # made of what the network reads; made of weights
    for node in graph.node:
        (read if read.intersection(node.input) else made).update(filter(None, node.output))
    floating = [node for node in graph.node if node.op_type in FLOATING]
    integer = sum(node.op_type in INTEGER for node in graph.node)
    at_each_run = sum(node.input[1] in made for node in floating)
    kinds = {getattr(onnx.TensorProto, name, None) for name in CODES}
    in_codes = any(tensor.data_type in kinds and len(tensor.dims) > 1 for tensor in given.initializer)
    how: How = "floats"
    if integer:
        how = "integer kernels in part" if floating else "integer kernels"
    elif at_each_run:
        how = "dequantised floats"
    elif in_codes:
        how = "size only"
    return Execution(provider, how, integer, len(floating), at_each_run)


def execution_table(path: str | Path, form: Form) -> list[dict[str, Any]]:
    """Return for each provider how it executes a file, as plain data: provider, how, why, and what was observed.

    Args:
        path: an ONNX file.
        form: what kind of file it is.

    Where onnxruntime has the provider and it runs the file, `how` is what `observed_execution` sees; elsewhere it is
    what `FACTS` say, and `observed` is None.

    Raises: as `create_session` for the CPU.

    Example:
        >>> import torch
        >>> from secateur_onnx import export
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(torch.nn.Linear(3, 2), torch.zeros(2, 3), Path(folder) / "net.onnx").path
        ...     rows = execution_table(path, "few bits")
        >>> rows[0]["provider"], rows[0]["how"], rows[0]["observed"]["floating"]
        ('cpu', 'floats', 1)
    """
    available = require("onnxruntime").get_available_providers()
    rows = []
    for provider, (how, why) in FACTS[form].items():
        observed = None
        if PROVIDERS[provider] in available:
            try:
                observed = observed_execution(path, provider=provider, unpack=form == UNPACKED)
            except ConfigError:  # a device that is not there, or that cannot run all of the file
                if provider == "cpu":
                    raise
        counts = None if observed is None else observed.to_json()
        rows.append({"provider": provider, "how": observed.how if observed else how, "why": why, "observed": counts})
    return rows
