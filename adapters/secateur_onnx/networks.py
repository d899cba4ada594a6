"""How a torch network is run beside its ONNX file: where it lies, in float32 that is float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def placed(inputs: Tensor, network: nn.Module) -> Tensor:
    """Return `inputs` on the device of the network and, where both are floating, in its number format.

    Example:
        >>> placed(torch.zeros(1, 3), nn.Linear(3, 2).double()).dtype
        torch.float64
    """
    for weights in (*network.parameters(), *network.buffers()):
        if weights.is_floating_point():
            return inputs.to(weights.device, weights.dtype if inputs.is_floating_point() else None)
    return inputs


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Switch off TensorFloat-32 in torch's CUDA convolutions and matrix products, and restore what was set.

    It keeps 10 bits of the mantissa, which shows as differences near 1e-3 that have nothing to do with the file.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    switches: list[tuple[Any, str, object]]
    if hasattr(cudnn, "conv"):  # torch 2.9 and later; setting the older names there as well is an error
        switches = [(matmul, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    else:
        switches = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)
