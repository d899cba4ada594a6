"""A network in float16 as ONNX: batch norm folded in float32, and only then rounded.

The exporters fold batch norm into the convolution before it in the number format of the network. In float16 that
rounds gain, deviation and their quotient one after another, an error of its own for each channel, which a network of
50 layers magnifies: the file of a MobileNetV2 was 3.7 times as far from exact arithmetic as torch in float16 is. So
the file is made from a copy in float32, which holds the same weights, and rounded as a whole when all is folded.
"""

from __future__ import annotations

import copy
import importlib
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

IN_FLOAT32 = ("Gelu",)


def all_half(model: nn.Module, example: Tensor, outputs: Tensor) -> bool:
    """Return whether a network is float16 from end to end: input, output, and every floating tensor it owns.

    Example:
        >>> half, batch = nn.Linear(3, 2).half(), torch.zeros(2, 3).half()
        >>> all_half(half, batch, half(batch)), all_half(nn.Linear(3, 2), batch, batch)
        (True, False)
    """
    tensors = itertools.chain([example, outputs], model.parameters(), model.buffers())
    return all(t.dtype == torch.float16 for t in tensors if t.is_floating_point())


def in_float32(model: nn.Module) -> nn.Module:
    """Return a copy of a network with the same weights in float32."""
    return copy.deepcopy(model).float()


def rounded_to_half(proto: Any) -> Any:
    """Return a float32 ONNX model in float16, input and output included, by onnxruntime's own converter.

    Operators that know no float16 keep float32 between two casts, and so does Gelu: in float16 it lets onnxruntime
    1.32 end with a segmentation fault when it optimises a vision transformer for the CPU. Numbers beyond the largest of
    float16 become that.

    Args:
        proto: the ONNX model; it is used up.
    """
    converter = importlib.import_module("onnxruntime.transformers.float16")
    numbers = np.finfo(np.float16)
    half = converter.convert_float_to_float16(
        proto,
        min_positive_val=float(numbers.smallest_subnormal),
        max_finite_val=float(numbers.max),
        op_block_list=[*converter.DEFAULT_OP_BLOCK_LIST, *IN_FLOAT32],
    )
    # The casts stand last, whoever reads them, and inner values keep types from before; both fail onnx's checker.
    importlib.import_module("onnxruntime.transformers.onnx_model").OnnxModel(half).topological_sort()
    del half.graph.value_info[:]
    return half
