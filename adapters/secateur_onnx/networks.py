"""A batch as a torch network takes it, and as the ONNX file beside it does."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def placed(inputs: Tensor, network: nn.Module) -> Tensor:
    """Return a copy of `inputs` on the device of the network and, where both are floating, in its number format.

    A network may work in place on what it is given.

    Example:
        >>> placed(torch.zeros(1, 3), nn.Linear(3, 2).double()).dtype
        torch.float64
    """
    for weights in (*network.parameters(), *network.buffers()):
        if weights.is_floating_point():
            return inputs.to(weights.device, weights.dtype if inputs.is_floating_point() else None, copy=True)
    return inputs.clone()


def as_array(inputs: Tensor) -> NDArray[Any]:
    """Return `inputs` as numpy has them; numbers in bfloat16, which it lacks, in float32.

    Example:
        >>> as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype
        dtype('float32')
    """
    held = inputs.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()
