"""A layer at some widths as ONNX nodes: a convolution or product, its bias, and an activation that runtimes fuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from secateur_onnx.latency.geometry import Geometry
from secateur_onnx.packages import require

Pair = tuple[int, int]
"""Channels that a layer reads and writes."""

OPSET, IR_VERSION = 18, 9


def group_count(geometry: Geometry, pair: Pair) -> int:
    """Return the groups of a layer at a pair of widths."""
    return pair[0] if geometry.depthwise else geometry.groups


def weight_shape(geometry: Geometry, pair: Pair) -> tuple[int, ...]:
    """Return the shape of the weight that a layer has at a pair of widths.

    Example:
        >>> weight_shape(Geometry("Gemm", (1,)), (8, 4))
        (4, 8)
    """
    before, after = pair
    groups = group_count(geometry, pair)
    if geometry.op == "ConvTranspose":
        return (before, after // groups, *geometry.kernel)
    return (after, before // groups, *geometry.kernel)


def input_shape(geometry: Geometry, width: int | str, batch: int) -> tuple[int | str, ...]:
    """Return the shape of what a layer with so many inputs reads: (N * rows, D) of a product, else (N, C, H, W).

    Example:
        >>> input_shape(Geometry("Gemm", (5,)), 8, 2), input_shape(Geometry("Conv", (9, 7), (3, 3)), 8, 2)
        ((10, 8), (2, 8, 9, 7))
    """
    if geometry.op == "Gemm":
        return (batch * math.prod(geometry.size), width)
    return (batch * geometry.repeats, width, *geometry.size)


def layer_nodes(geometry: Geometry, groups: int, reads: Sequence[str], name: str) -> list[Any]:
    """Return the nodes of a layer that reads an input, a weight and a bias and writes what is called `name`."""
    make_node = require("onnx").helper.make_node
    attributes: dict[str, Any] = {"transB": 1}
    if geometry.op != "Gemm":
        given = {
            "strides": geometry.stride,
            "dilations": geometry.dilation,
            "pads": geometry.pads,
            "output_padding": geometry.extra,
        }
        attributes = {"kernel_shape": geometry.kernel, "group": groups} | {k: v for k, v in given.items() if v}
    return [
        make_node(geometry.op, list(reads), [f"{name}_sum"], name=name, **attributes),
        make_node("Relu", [f"{name}_sum"], [name], name=f"relu_of_{name}"),
    ]


def layers_model(nodes: Sequence[Any], inputs: Any, outputs: Any, *, weights: Sequence[Any] = ()) -> Any:
    """Return a file of nodes; inputs and outputs are given as pairs of a name and a shape, a str for any size."""
    onnx = require("onnx")
    described = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in some]
        for some in (inputs, outputs)
    )
    proto = onnx.helper.make_graph(list(nodes), "layers", *described, initializer=list(weights))
    return onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
