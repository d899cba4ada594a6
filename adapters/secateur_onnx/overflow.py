"""Whether sums of products of 8 bits overflow on this processor."""

from __future__ import annotations

import functools

import numpy as np

from secateur_onnx.packages import require
from secateur_onnx.raw_session import PROVIDERS


@functools.cache
def sums_overflow() -> bool:
    """Return whether onnxruntime's sums of products of 8 bits overflow here, by computing one.

    Its kernels for unsigned inputs and signed weights add two products in 16 bits on x86-64 processors without VNNI,
    and cut the sum off at 32,767 (seen in 1.32): of 255 * 127 + 255 * 127 half is left. Weights of 7 bits are safe. The
    session entry `session.x64quantprecision` avoids it, and slows down processors on which nothing overflows.

    Raises:
        MissingDependencyError: onnx or onnxruntime is missing.

    Cost: a session and a product of matrices, once in a process: milliseconds.
    """
    onnx, onnxruntime, products = require("onnx"), require("onnxruntime"), 16
    helper, number = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["inputs", "weights"], ["sums"])],
        "sums",
        [helper.make_tensor_value_info("inputs", number.UINT8, [4, products])],
        [helper.make_tensor_value_info("sums", number.INT32, [4, 4])],
        [onnx.numpy_helper.from_array(np.full((products, 4), 127, np.int8), "weights")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=[PROVIDERS["cpu"]])
    (sums,) = session.run(None, {"inputs": np.full((4, products), 255, np.uint8)})
    return bool((sums != 255 * 127 * products).any())
