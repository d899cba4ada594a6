"""Where the inputs of a torch network that is run beside its ONNX file should lie."""

from __future__ import annotations

from torch import Tensor, nn


def placed(inputs: Tensor, network: nn.Module) -> Tensor:
    """Return `inputs` on the device of the network and, where both are floating, in its number format.

    Example:
        >>> import torch
        >>> placed(torch.zeros(1, 3), nn.Linear(3, 2).double()).dtype
        torch.float64
    """
    for weights in (*network.parameters(), *network.buffers()):
        if weights.is_floating_point():
            return inputs.to(weights.device, weights.dtype if inputs.is_floating_point() else None)
    return inputs
