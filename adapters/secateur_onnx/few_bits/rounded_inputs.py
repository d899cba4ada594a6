"""The inputs of a layer rounded in an ONNX graph, as `secateur.quantization.round_activation` rounds them in torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.errors import NetworkError
from secateur.modes import evaluating, own_copy
from secateur.quantization import ActivationRange, BitPlan
from secateur_onnx.networks import placed
from secateur_onnx.packages import require

TYPES = {(8, False): np.uint8, (8, True): np.int8, (16, False): np.uint16, (16, True): np.int16}
OPSETS = {8: 13, 16: 21}
"""Bits of a type -> the first version of the ONNX operators in which QuantizeLinear gives it."""
LEAST_SCALE = 2.0**-60  # of a filter; its product with a scale of inputs is still a float32


def opset_of(to: ActivationRange) -> int:
    """Return the first version of the ONNX operators that can round to a range.

    Example:
        >>> opset_of(ActivationRange(8, 1.0, signed=False)), opset_of(ActivationRange(9, 1.0, signed=False))
        (13, 21)
    """
    return OPSETS[_width(to)]


def round_inputs_of(graph: Any, name: str, weight: str, to: ActivationRange) -> None:
    """Put QuantizeLinear and DequantizeLinear before every node of `graph` that reads a weight, in place.

    Args:
        graph: of an ONNX model.
        name: of the layer, for the new tensors.
        weight: the name of its weight in the graph.
        to: where its codes are fewer than those of the type, a Clip goes before.

    Raises:
        NetworkError: no node reads the weight beside an input.
    """
    helper = require("onnx").helper
    readers = [node for node in graph.node if weight in list(node.input)[1:]]
    if not readers:
        raise NetworkError(
            f"what {name!r} reads cannot be rounded in the ONNX file, since no node there reads its weight; take it "
            "out of the plan's activations"
        )
    low, high = to.codes
    width, kind = _width(to), TYPES[_width(to), to.signed]
    graph.initializer.extend([
        _constant(f"{name}.input.scale", to.scale, np.float32),
        _constant(f"{name}.input.zero", 0, kind),
    ])  # fmt: skip
    if to.bits < width:
        ends = zip(("low", "high"), (low, high), strict=True)
        graph.initializer.extend([_constant(f"{name}.input.{end}", code * to.scale, np.float32) for end, code in ends])
    for number, reader in enumerate(readers):
        base, source, nodes = f"{name}.input.{number}", reader.input[0], []
        if to.bits < width:
            nodes.append(
                helper.make_node(
                    "Clip", [source, f"{name}.input.low", f"{name}.input.high"], [f"{base}.clipped"], f"{base}.Clip"
                )
            )
            source = f"{base}.clipped"
        how = [f"{name}.input.scale", f"{name}.input.zero"]
        nodes.append(helper.make_node("QuantizeLinear", [source, *how], [f"{base}.codes"], f"{base}.QuantizeLinear"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{base}.codes", *how], [f"{base}.rounded"], f"{base}.DequantizeLinear"
            )
        )
        place = next(at for at, node in enumerate(graph.node) if node is reader or node == reader)
        for shift, node in enumerate(nodes):
            graph.node.insert(place + shift, node)
        graph.node[place + len(nodes)].input[0] = f"{base}.rounded"


def with_room_for_bias(
    graph: Any, weight: str, codes: NDArray[Any], scales: NDArray[Any], to: ActivationRange
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return codes (C, ...) and scales (C,) of a weight, all above zero and none too small for the bias beside it.

    Where inputs and weights are in codes, ONNX Runtime makes the bias a whole number of 32 bits, whose unit is the
    product of both scales (seen in 1.32). The bias of a filter of zeros, or of next to nothing as training leaves dead
    ones, then overflows, and the outputs are far off. Such a filter gets the scale 2^-30 |bias| / s, with s the scale
    of the inputs, and its codes are rounded anew: no weight moves by more than half of that scale, and no input exceeds
    65,535 s.

    Args:
        graph: of an ONNX model.
        weight: its name in there; a bias is what the nodes that read it read next.
        codes, scales: the weight is codes * scales.
        to: how the inputs are rounded.
    """
    shape = (-1, *[1] * (codes.ndim - 1))
    codes = np.where((scales < 0).reshape(shape), -codes, codes)  # a factor of batch norm below zero
    scales = np.abs(scales)
    named = {tensor.name: tensor for tensor in graph.initializer}
    least = np.full(len(scales), LEAST_SCALE)
    for node in graph.node:
        if [weight] == list(node.input)[1:2] and len(node.input) > 2 and node.input[2] in named:
            bias = require("onnx").numpy_helper.to_array(named[node.input[2]]).astype(np.float64)
            least = np.maximum(least, np.abs(bias) * 2.0**-30 / to.scale)
    fewer = np.rint(codes * np.minimum(scales / least, 1).reshape(shape)).astype(codes.dtype)
    return fewer, np.maximum(scales, least)


def tolerance_of(rounded: nn.Module, plan: BitPlan, example_inputs: Tensor | tuple[Tensor, ...]) -> float | None:
    """Return how far a file with rounded activations may be from torch; None where none are rounded.

    A value at the border of two codes rounds either way, by the last digit of a float, and deep networks carry such
    steps on: torch in float32 is then as far from torch in float64 as from the file. Allowed is three times that
    distance on the example, as a share of the largest output, or four steps of the fewest bits b, 4 * 2^-b, if larger.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> plan = BitPlan({}, activations={"0": ActivationRange(8, 1.0, signed=True)})
        >>> tolerance_of(net, plan, torch.zeros(1, 2)), tolerance_of(net, BitPlan({}), torch.zeros(1, 2))
        (0.015625, None)
    """
    fewest = min((to.bits for to in plan.activations.values()), default=None)
    if fewest is None:
        return None
    example = placed(example_inputs if isinstance(example_inputs, Tensor) else example_inputs[0], rounded)
    exact = copy.deepcopy(rounded).double()
    with evaluating(rounded), evaluating(exact), torch.no_grad():
        outputs, wanted = rounded(own_copy(rounded, example)).double(), exact(own_copy(exact, example.double()))
    distance = float((outputs - wanted).abs().max() / wanted.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    return max(4 * 2.0**-fewest, 3 * distance)


def _width(to: ActivationRange) -> int:
    return 8 if to.bits <= 8 else 16


def _constant(name: str, value: float, kind: Any) -> Any:
    return require("onnx").numpy_helper.from_array(np.array(value, kind), name)
