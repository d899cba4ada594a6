"""What Torch-Pruning says that a network costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning.utils import op_counter


def torch_pruning_macs(model: nn.Module, example_inputs: Tensor) -> float:
    """Return the MACs of one input as Torch-Pruning counts them, to be told beside a count of our own.

    Formula: those of convolutions, with a bias one more an output, and of linear layers, whose biases count once for
    all inputs; one for each element that an activation or a pool sees, two for one that a batch norm with parameters
    sees. Modules alone count, not functions.

    Args:
        model: the network; a copy of it is run.
        example_inputs: (N, ...).

    Cost: a copy of the network and a forward pass.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
        >>> torch_pruning_macs(model, torch.zeros(2, 3, 10, 10))  # 2400 of the convolution, and 2 * 800
        4000.0
        >>> torch_pruning_macs(nn.Linear(3, 2), torch.zeros(4, 3))  # 6, and a quarter of the 2 biases
        6.5
    """
    count: Any = op_counter.count_ops_and_params  # it has no types
    with torch.no_grad():
        macs, _ = count(model, example_inputs)
    return float(macs)
