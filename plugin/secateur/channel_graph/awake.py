"""A network of which all can be seen in its outputs, to find out whether removal does what masking does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from secateur.channel_graph.outputs import TOLERANCE, called, outputs_or_none
from secateur.modes import own_copies

HEARD = 0.05
"""What share of an output must move with noise upon the inputs: 0.8 to 2.4 do in nine untrained networks of
torchvision, 0.005 at most in ShuffleNet v2 and nothing in GoogLeNet, whose maps die away before they are trained."""


def awake(model: nn.Module, inputs: Any) -> nn.Module:
    """Return the network, or a copy in which nothing hides a branch from the outputs, so that all of it can be seen.

    A gain or a weight that is zero throughout, or nearly, as gains of residual branches are before training, is drawn
    anew in the copy, of the usual size; biases hide nothing. Where the outputs hardly hear of the inputs, as those of
    some deep networks before training, batch norms get the statistics of the inputs with noise upon them. Where the
    copy does not run, or gives NaN or infinity, the network itself comes back.

    Example:
        >>> branch = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> awake(branch, torch.ones(3, 2)) is branch
        True
        >>> _ = nn.init.zeros_(branch[1].weight)
        >>> bool(awake(branch, torch.ones(3, 2))[1].weight.all())
        True
    """
    if any(_is_asleep(name, weight) for name, weight in model.named_parameters()):
        model = _changed(model, inputs, _draw_anew)
    if any(isinstance(module, _BatchNorm) for module in model.modules()) and not _hears(model, inputs):
        model = _changed(model, inputs, lambda copied: _recalibrate(copied, inputs))
    return model


def _changed(model: nn.Module, inputs: Any, change: Callable[[nn.Module], None]) -> nn.Module:
    copied = copy.deepcopy(model)
    try:
        change(copied)
    except Exception:  # a user's network may raise anything, and batch norm refuses one number a channel
        return model
    outputs = outputs_or_none(copied, inputs)
    return copied if outputs and all(bool(output.isfinite().all()) for output in outputs) else model


def _is_asleep(name: str, weight: Tensor) -> bool:
    return (
        weight.is_floating_point()
        and bool(weight.numel())
        and not name.endswith("bias")
        and bool(weight.detach().abs().max() <= TOLERANCE)
    )


def _draw_anew(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if _is_asleep(name, weight):
            drawn = 0.5 + 0.5 * torch.rand(weight.shape, generator=generator)
            if weight.ndim > 1:  # signs and a size with which sums neither vanish nor grow
                drawn *= torch.randn(weight.shape, generator=generator).sign() / weight[0].numel() ** 0.5
            weight.detach().copy_(drawn)


def _hears(model: nn.Module, inputs: Any) -> bool:
    """Return whether noise upon the inputs moves an output by more than `HEARD` of its largest number."""
    before, after = (outputs_or_none(model, given) for given in (own_copies(model, inputs), _noisy(model, inputs)))
    if before is None or after is None:
        return True
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a.shape == b.shape]
    return any(bool((a - b).abs().max() > HEARD * a.abs().max()) for a, b in pairs)


def _recalibrate(model: nn.Module, inputs: Any) -> None:
    """Give batch norms the statistics of noise upon the inputs: images that are all alike have none."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        called(model, _noisy(model, inputs))
    model.eval()


def _noisy(model: nn.Module, inputs: Any) -> Any:
    generator = torch.Generator().manual_seed(0)

    def noise(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            return x
        return x + torch.randn(x.shape, generator=generator).to(x.device, x.dtype)

    return tree_map(noise, own_copies(model, inputs))
