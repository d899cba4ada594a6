"""What decides how long one layer takes, beside its widths: kernel, stride, padding and the size of what it reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.cost.layers import CONVOLUTIONS, LayerRecord, describe_layer
from secateur.errors import NetworkError
from secateur.modes import evaluating, own_copy

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """One call of a layer, without its widths.

    Attributes:
        op: the ONNX operator, "Conv", "ConvTranspose" or "Gemm".
        size: what stands behind (N, C): (H, W) of a convolution; the rows that one input of the network gives a linear
            layer.
        kernel, stride, dilation: of a convolution; empty for a linear layer.
        pads: zeros before each dimension, then behind each.
        extra: what a transposed convolution adds to its output.
        groups: 1 for a depthwise layer, whose groups fall with its channels.
        depthwise: whether each channel is a group of its own.
        repeats: inputs of a convolution that one input of the network makes, such as the frames of a video.
    """

    op: Literal["Conv", "ConvTranspose", "Gemm"]
    size: Sizes
    kernel: Sizes = ()
    stride: Sizes = ()
    dilation: Sizes = ()
    pads: Sizes = ()
    extra: Sizes = ()
    groups: int = 1
    depthwise: bool = False
    repeats: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def layer_calls(model: nn.Module, example_inputs: Tensor) -> dict[str, tuple[LayerRecord, tuple[Geometry, ...]]]:
    """Return the record of each convolution and linear layer that runs, and the geometry of each of its calls.

    Args:
        model: the network; unchanged afterwards.
        example_inputs: one batch (N, C, H, W).

    Raises:
        NetworkError: the network does not run on the example inputs.

    Cost: one forward pass.

    Example:
        >>> record, (call,) = layer_calls(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))[""]
        >>> record.outputs, call.kernel, call.pads, call.size
        (8, (3, 3), (1, 1, 1, 1), (10, 10))
    """
    found: dict[str, tuple[LayerRecord, tuple[Geometry, ...]]] = {}

    def noting(name: str, record: LayerRecord) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = inputs[0] if inputs else named["input"]
            call = _geometry(module, record, x, len(example_inputs))
            found[name] = (record, (*found.get(name, (record, ()))[1], call))

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if (record := describe_layer(name, module)) is not None:
                handles.append(module.register_forward_pre_hook(noting(name, record), with_kwargs=True))
        with torch.no_grad(), evaluating(model):
            model(own_copy(model, example_inputs))
    except Exception as error:  # whatever the user's forward raises
        shape = tuple(example_inputs.shape)
        raise NetworkError(f"the network does not run on example inputs of shape {shape}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def _geometry(module: Any, record: LayerRecord, x: Tensor, batch: int) -> Geometry:
    count = x.numel() // record.inputs if record.kind == "linear" else len(x)
    each = max(1, count // (len(x) if count % batch else batch))  # the former where what it reads is no batch
    if record.kind == "linear":
        return Geometry("Gemm", (each,))
    groups, depthwise = (1, True) if record.depthwise else (record.groups, False)
    if isinstance(module, CONVOLUTIONS):
        pads, extra = _convolution_pads(module), ()
    else:
        pads, extra = (*module.padding, *module.padding), tuple(module.output_padding)
    return Geometry(
        "Conv" if isinstance(module, CONVOLUTIONS) else "ConvTranspose",
        tuple(x.shape[2:]),
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(module.dilation),
        pads,
        extra,
        groups,
        depthwise,
        each,
    )


def _convolution_pads(module: Any) -> Sizes:
    """Return the zeros before each dimension and behind each, also where the layer names its padding."""
    if not isinstance(module.padding, str):
        return (*module.padding, *module.padding)
    wanted = 0 if module.padding == "valid" else 1
    both = [wanted * d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return (*(total // 2 for total in both), *(total - total // 2 for total in both))
