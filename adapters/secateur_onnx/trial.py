"""Whether a provider runs here: a convolution is tried, since what a build offers says nothing about the machine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secateur.errors import ConfigError, SecateurError
from secateur_onnx.packages import require
from secateur_onnx.sessions import create_session, infer, provider_name

SIDE = 8


def check_installation(*, provider: str = "cpu") -> None:
    """Refuse before any work what `export` and `create_session` would refuse after it.

    Raises:
        MissingDependencyError: onnx, onnxscript or onnxruntime is missing, or onnxruntime is installed twice.
        ConfigError: the provider is misspelt, not part of the installed onnxruntime, or does not run a convolution.

    Cost: on a device a session and a run.

    Example:
        >>> check_installation(provider="cpu")
    """
    require("onnx")
    require("onnxscript")
    provider_name(provider, require("onnxruntime").get_available_providers())
    if provider != "cpu" and (reason := trial(provider)):
        raise ConfigError(f"the provider {provider!r} does not run a convolution here: {reason}")


def trial(provider: str) -> str:
    """Run one convolution through `create_session` on a provider; return "" or what went wrong."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            path.write_bytes(_convolution())
            outputs = infer(create_session(path, provider=provider, threads=1), np.ones((1, 1, SIDE, SIDE)))
    except SecateurError as error:
        return str(error)
    expected = 9.0  # a kernel of ones over ones, where the padding does not reach
    return "" if outputs[0, 0, 1, 1] == expected else f"a sum of nine ones came out as {outputs[0, 0, 1, 1]}"


def _convolution() -> bytes:
    onnx = require("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    shape: Sequence[int] = (1, 1, SIDE, SIDE)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        "trial",
        [helper.make_tensor_value_info("x", number, shape)],
        [helper.make_tensor_value_info("y", number, shape)],
        [helper.make_tensor("w", number, (1, 1, 3, 3), [1.0] * 9)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
