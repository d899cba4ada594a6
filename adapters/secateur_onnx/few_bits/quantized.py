"""A network whose filters have few bits as an ONNX file that is small, and that ONNX Runtime runs as it is.

In place of a layer's weight stand its codes, one tensor for each number of bits, in the narrowest type that holds them.
DequantizeLinear multiplies each filter's codes by its scale, Concat puts the levels one behind the other, and Gather
brings the filters into the order of the channels. Batch norm that the exporter has folded into a convolution is a
factor of each filter, and goes into its scale. What a layer reads goes through QuantizeLinear and DequantizeLinear
where the plan has a range for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.errors import NetworkError
from secateur.quantization import ActivationRange, BitPlan, Quantized, quantize_network
from secateur_onnx.exporting import NEWEST_TRACED, ExportResult, export, require_folder, write_checked
from secateur_onnx.few_bits.rounded_inputs import opset_of, round_inputs_of, tolerance_of, with_room_for_bias
from secateur_onnx.few_bits.stored_types import StoredTypes, codes_tensor, stored_types
from secateur_onnx.packages import require

ROUNDING = 1e-4  # of a filter's largest weight: how far the exporter's folding may be from codes times a scale


@dataclass(frozen=True)
class QuantizedExport:
    """What was written.

    Attributes:
        file: where it lies, its size, and how the network was translated.
        stored: bits of a filter -> the type that its codes are stored in.
        wider: bits -> why the narrowest type was not taken; empty where it was.
        left: layer -> why its weights are stored in float32, rounded all the same.
        model: the network with rounded weights, which also rounds its activations, to compare the file with.
        tolerance: of a comparison with it, for `check_parity`, see `tolerance_of`; None: that of floating numbers.
    """

    file: ExportResult
    stored: Mapping[int, str]
    wider: Mapping[int, str]
    left: Mapping[str, str]
    model: nn.Module
    tolerance: float | None = None


def export_quantized(
    model: nn.Module,
    plan: BitPlan,
    example_inputs: Tensor | tuple[Tensor, ...],
    path: str | Path,
    *,
    thresholds: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> QuantizedExport:
    """Write the network with rounded weights as one ONNX file whose weights take the bits that the plan gives them.

    Args:
        model: unchanged.
        plan, thresholds: see `secateur.quantization.quantize_network`.
        example_inputs, path, metadata: see `export`; with rounded activations the more images, the surer the tolerance.

    Raises: as `quantize_network` and `export`, and

        NetworkError: weights that are not float32, or inputs to round of a layer whose weight the file has in float32
            or shares with another layer.

    Cost: that of `export`, and of a session for each type whose support is not known yet.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> from secateur_onnx import check_parity
        >>> net, images = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)), torch.randn(2, 3, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = export_quantized(net, uniform_bits(net, 4, ends=None), images, Path(folder) / "net.onnx")
        ...     check_parity(done.model, done.file.path, [images]).passed
        True
        >>> done.stored, done.file.file_bytes < 64 * 64 * 9
        ({4: 'INT4'}, True)

    Deviations: the runtime turns codes into float32 and computes in it; where a type has no operator, the runtime
    refuses it, or no exporter translates the network with operators that know it, the next wider one is taken.
    Transposed convolutions in groups keep float32.
    """
    onnx, path = require("onnx"), Path(path)
    require_folder(path)
    rounded, codes = quantize_network(model, plan, thresholds)
    check_weights(rounded, plan)
    plain = quantize_network(model, replace(plan, activations={}), thresholds)[0] if plan.activations else rounded
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / path.name
        result, types = _export_for(plan, plain, example_inputs, unpacked, metadata)
        proto = onnx.load(unpacked, "protobuf")  # whatever its name ends in
    left, made = dict[str, str](), list[str]()
    for name, quantized in codes.items():
        module, to = rounded.get_submodule(name), plan.activations.get(name)
        if isinstance(module, _ConvTransposeNd) and module.groups > 1:
            left[name] = "a transposed convolution in groups"
        elif (weight := _replace(proto.graph, name, module, quantized, types.widths, to)) is not None:
            made.append(name)
            if to is not None:
                round_inputs_of(proto.graph, name, weight, to)
        elif (twin := next((own for own in made if _equal(codes[own], quantized)), None)) is None:
            left[name] = "the exporter changed its weight by more than a factor for each filter"
        elif {name, twin} & plan.activations.keys():
            raise NetworkError(
                f"what {twin!r} and {name!r} read cannot be rounded in the ONNX file, since the exporter keeps one "
                "tensor for their equal weights; take both out of the plan's activations"
            )
    lost = [name for name in plan.activations if name in left]
    if lost:
        raise NetworkError(f"what {lost[0]!r} reads cannot be rounded in the ONNX file: {left[lost[0]]}")
    size = write_checked(proto, path)
    file = ExportResult(path, result.opset, result.exporter, result.fallback_reason, size)
    tolerance = tolerance_of(rounded, plan, example_inputs)
    return QuantizedExport(file, types.names, types.wider, left, rounded, tolerance)


def _export_for(
    plan: BitPlan,
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    path: Path,
    metadata: Mapping[str, object] | None,
) -> tuple[ExportResult, StoredTypes]:
    """Export the network with operators that know the narrowest types; with older ones where no exporter can."""
    bits = {b for own in plan.bits.values() for b in own.tolist()}

    def exported(types: StoredTypes) -> ExportResult:
        needed = [*types.opsets, *(opset_of(to) for to in plan.activations.values())]
        return export(model, example_inputs, path, metadata=metadata, opset=max(needed, default=None))

    types = stored_types(bits)
    try:
        return exported(types), types
    except NetworkError:
        older = stored_types(bits, newest=NEWEST_TRACED)
        if older.widths == types.widths:
            raise
        return exported(older), older


def check_weights(model: nn.Module, plan: BitPlan) -> None:
    """Refuse layers of a plan that `export_quantized` does not write.

    Raises:
        NetworkError: weights that are not float32.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> check_weights(net, uniform_bits(net, 4))
    """
    for name in plan.bits:
        if (kind := model.get_parameter(f"{name}.weight").dtype) != torch.float32:
            raise NetworkError(
                f"few bits are written of weights in float32; those of {name!r} are {kind}: use .float()"
            )


def _equal(first: Quantized, second: Quantized) -> bool:
    """Return whether two layers have the same weights, of which the exporter keeps one."""
    return torch.equal(first.codes, second.codes) and torch.equal(first.scales, second.scales)


def _replace(
    graph: Any,
    name: str,
    module: nn.Module,
    quantized: Quantized,
    chosen: Mapping[int, int],
    to: ActivationRange | None,
) -> str | None:
    """Put codes and scales in the place of a layer's weight; return its name, None if none is made of them."""
    codes, bits = quantized.codes.cpu().numpy(), quantized.bits.cpu().numpy()
    ways = [isinstance(module, _ConvTransposeNd)]
    if isinstance(module, nn.Linear):
        ways.append(True)  # written as a product with the transposed weight
    for weight, values in _candidates(graph, f"{name}.weight"):
        for turned in ways:
            scales = _scales(np.swapaxes(values, 0, 1) if turned and values.ndim > 1 else values, codes)
            if scales is None:
                continue
            if to is not None:
                codes, scales = with_room_for_bias(graph, weight.name, codes, scales, to)
            nodes, tensors = _dequantized(name, weight.name, codes, scales, bits, chosen, turned, to)
            graph.initializer.remove(weight)
            graph.initializer.extend(tensors)
            for place, node in enumerate(nodes):
                graph.node.insert(place, node)
            return str(weight.name)
    return None


def _candidates(graph: Any, own: str) -> Iterator[tuple[Any, NDArray[Any]]]:
    """Yield the tensors that may be a weight, with values: mostly it keeps its own name, and zeros fit any codes."""
    onnx = require("onnx")
    floating = [weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT]
    zeros: list[tuple[Any, NDArray[Any]]] = []
    for weight in sorted(floating, key=lambda weight: weight.name != own):
        values = onnx.numpy_helper.to_array(weight)
        if weight.name == own or values.any():
            yield weight, values
        else:
            zeros.append((weight, values))
    yield from zeros


def _scales(values: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any] | None:
    """Return what each filter's codes are to be multiplied by to give these values, (C,); None if nothing does."""
    if values.shape != codes.shape:
        return None
    rows, whole = values.reshape(len(values), -1).astype(np.float64), codes.reshape(len(codes), -1).astype(np.float64)
    squares = (whole**2).sum(1)
    scales = (rows * whole).sum(1) / np.maximum(squares, 1)
    off = np.abs(rows - scales[:, None] * whole).max(1)
    return scales if (off <= ROUNDING * np.maximum(np.abs(rows).max(1), 1e-30)).all() else None


def _dequantized(
    name: str,
    weight: str,
    codes: NDArray[Any],
    scales: NDArray[Any],
    bits: NDArray[Any],
    chosen: Mapping[int, int],
    turned: bool,
    to: ActivationRange | None,
) -> tuple[list[Any], list[Any]]:
    """Return the nodes that make a weight of its codes, and the tensors that they read."""
    helper = require("onnx").helper
    nodes, tensors, levels, order = [], [], [], []
    for width in sorted({chosen[b] for b in set(bits.tolist())}):
        own = np.flatnonzero([chosen[b] == width for b in bits.tolist()])
        base = f"{name}.codes.{width}"
        reads = [base, f"{base}.scale"]
        tensors += [codes_tensor(codes[own], base, width), _floats(scales[own], f"{base}.scale")]
        if width == 8:  # which onnxruntime may make unsigned: it puts one zero there where a filter each is due (1.32)
            reads.append(f"{base}.zero")
            tensors.append(codes_tensor(np.zeros(len(own), codes.dtype), f"{base}.zero", width))
        nodes.append(helper.make_node("DequantizeLinear", reads, [f"{base}.values"], axis=0))
        levels.append(f"{base}.values")
        order.append(own)
    last = levels[0]
    if len(levels) > 1 or _misread(width, to, product=turned and codes.ndim == 2):
        tensors.append(_integers(np.argsort(np.concatenate(order)), f"{name}.order"))
        nodes.append(helper.make_node("Concat", levels, [f"{name}.levels"], axis=0))
        nodes.append(helper.make_node("Gather", [f"{name}.levels", f"{name}.order"], [f"{name}.filters"], axis=0))
        last = f"{name}.filters"
    if turned:
        axes = [1, 0, *range(2, codes.ndim)]
        nodes.append(helper.make_node("Transpose", [last], [f"{name}.turned"], perm=axes))
        last = f"{name}.turned"
    nodes[-1].output[0] = weight
    return nodes, tensors


def _misread(width: int, to: ActivationRange | None, *, product: bool) -> bool:
    """Return whether onnxruntime would take codes that a layer reads at once for those of a kernel that is not right.

    Seen in 1.32: it makes an integer convolution of codes of 2 bits and inputs of 8, and cannot run it; and of the
    product of a linear layer with codes of 8 bits one that rounds all other inputs to 8 bits. Behind a Gather it looks
    for neither.
    """
    in_bytes = to is not None and to.bits <= 8
    return width == 2 if in_bytes else width == 8 and product


def _floats(values: NDArray[Any], name: str) -> Any:
    return require("onnx").numpy_helper.from_array(values.astype(np.float32), name)


def _integers(values: NDArray[Any], name: str) -> Any:
    return require("onnx").numpy_helper.from_array(values.astype(np.int64), name)
