"""Naive twins of the costs: loops over the layers of a network as it stands. They import nothing of secateur."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def outputs_of(model: nn.Module, x: Tensor) -> list[tuple[str, Any, Tensor]]:
    """Each call of a layer without children: its name, the layer, what it gave."""
    calls: list[tuple[str, Any, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, _, y, name=name: calls.append((name, module, y)))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return calls


def thop_by_loops(model: nn.Module, x: Tensor) -> int:
    """What thop counted in 2020 in a network for one input, without pools, by its rule for each type of layer."""
    total = 0
    for _, module, y in outputs_of(model, x[:1]):
        if isinstance(module, nn.Conv2d):
            each = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            total += y.numel() * (each + (1 if module.bias is not None else 0))
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            total += 2 * y.numel()
        elif isinstance(module, nn.Linear):
            total += y.numel() * (module.in_features + module.in_features - 1)
    return total


def hrank_by_loops(
    model: nn.Module, x: Tensor, kept: Mapping[str, int], lost_inputs: Mapping[str, int] | None = None
) -> tuple[int, int]:
    """The MACs and parameters of the published script for HRank: every layer reads all inputs of the dense network."""
    macs, parameters = 0, 0
    for name, module, y in outputs_of(model, x[:1]):
        if isinstance(module, nn.Conv2d):
            inputs = module.in_channels - (lost_inputs or {}).get(name, 0)
            filters = kept.get(name, module.out_channels)
            weights = filters * inputs * module.kernel_size[0] * module.kernel_size[1] // module.groups
            macs += weights * y.shape[2] * y.shape[3]
            parameters += weights + (filters if module.bias is not None else 0)
        elif isinstance(module, nn.Linear):
            both = module.weight.numel() + (module.bias.numel() if module.bias is not None else 0)
            macs += both
            parameters += both
    return macs, parameters


def bytes_by_tensor(model: nn.Module) -> dict[str, int]:
    """The bytes of each tensor of the state dict."""
    return {name: len(t.contiguous().numpy().tobytes()) for name, t in model.state_dict().items()}


def macs_by_counting(
    outputs: list[int], inputs: list[int], *, dense_outputs: int, dense_inputs: int, groups: int, work: int
) -> int:
    """MACs of a convolution whose kept outputs and inputs (their dense indices) are listed: pair by pair.

    An output reads an input if both lie in the same of `groups` blocks; `work` is kernel elements times positions.
    """
    total = 0
    for o in outputs:
        for i in inputs:
            if o * groups // dense_outputs == i * groups // dense_inputs:
                total += work
    return total
