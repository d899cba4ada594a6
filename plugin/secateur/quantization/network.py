"""A network whose weights are rounded: for good, or while it is trained.

.. [Bengio2013] Y. Bengio, N. Léonard, A. Courville. Estimating or propagating gradients through stochastic neurons for
   conditional computation. arXiv:1308.3432, 2013 (the straight-through estimator).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import ConfigError
from secateur.quantization.filters import as_weight, by_filter, filters_of
from secateur.quantization.levels import BitPlan
from secateur.quantization.quantizer import Quantized, dequantize, quantize, thresholds_of
from secateur.quantization.ranges import round_inputs

Thresholds = Mapping[str, Tensor]


def quantize_network(
    model: nn.Module, plan: BitPlan, thresholds: Thresholds | None = None
) -> tuple[nn.Module, dict[str, Quantized]]:
    """Return a copy with rounded weights, float32, and the whole numbers that they stand for, by layer.

    Args:
        model: unchanged.
        plan: bits by layer, and how activations are rounded, if they are: the copy then rounds them as it runs.
        thresholds: layer -> (C,), such as `fake_quantized` yields; None: `thresholds_of`.

    Raises:
        ConfigError: the plan is of another network.
        ScoreError: weights that are not finite.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(4, 3))
        >>> rounded, codes = quantize_network(net, uniform_bits(net, 8))
        >>> bool((rounded[0].weight - net[0].weight).abs().max() < 0.01), codes["0"].codes.dtype
        (True, torch.int32)
    """
    _check(model, plan)
    rounded, found = copy.deepcopy(model), {}
    for name, bits in plan.bits.items():
        module = rounded.get_submodule(name)
        found[name] = quantize(filters_of(module), bits, None if thresholds is None else thresholds[name])
        with torch.no_grad():
            weight = as_weight(module, dequantize(found[name]))
            module.get_parameter("weight").copy_(weight)
    round_inputs(rounded, plan.activations)
    return rounded, found


@contextmanager
def fake_quantized(model: nn.Module, plan: BitPlan) -> Iterator[dict[str, Tensor]]:
    """Within the block, `model` computes with rounded weights and is trained through them [Bengio2013]_.

    The weights of the planned layers are rounded on each use; gradients go to the weights underneath as if they were
    not. Where the plan has ranges of activations, these are rounded likewise. After the block the weights underneath
    are the network's own again: `quantize_network` rounds them for good.

    Yields: layer -> (C,), the thresholds, which stay as they were at the beginning.

    Raises: as `quantize_network`.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(4, 3))
        >>> with fake_quantized(net, uniform_bits(net, 4)) as thresholds:
        ...     levels = net[0].weight[0].unique().numel()
        ...     net(torch.ones(2, 4)).sum().backward()
        >>> levels <= 4, net[0].weight.grad is not None, quantize_network(net, uniform_bits(net, 4), thresholds)[0]
        (True, True, Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
        ))
    """
    _check(model, plan)
    modules = {name: model.get_submodule(name) for name in plan.bits}
    thresholds = {name: thresholds_of(filters_of(module), plan.bits[name]) for name, module in modules.items()}
    handles = []
    try:
        handles = round_inputs(model, plan.activations)
        for name, module in modules.items():
            parametrize.register_parametrization(module, "weight", _Rounded(module, plan.bits[name], thresholds[name]))
        yield thresholds
    finally:
        for handle in handles:
            handle.remove()
        for module in modules.values():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


class _Rounded(nn.Module):
    """Rounds a weight on the way forward and lets gradients through on the way back."""

    bits: Tensor
    thresholds: Tensor

    def __init__(self, module: nn.Module, bits: Tensor, thresholds: Tensor) -> None:
        super().__init__()
        self._module = [module]  # in a list, so that it is no part of this one
        self.register_buffer("bits", bits, persistent=False)
        self.register_buffer("thresholds", thresholds, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        module = self._module[0]
        with torch.no_grad():
            rounded = as_weight(module, dequantize(quantize(by_filter(module, weight), self.bits, self.thresholds)))
        return weight + (rounded - weight).detach()


def _check(model: nn.Module, plan: BitPlan) -> None:
    """Refuse a plan of another network."""
    modules = dict(model.named_modules())
    for name, bits in plan.bits.items():
        if name not in modules:
            raise ConfigError(f"the plan gives bits to {name!r}, which the network does not have")
        if len(bits) != len(filters_of(modules[name])):
            raise ConfigError(
                f"the plan gives bits to {len(bits)} filters of {name!r}, which has {len(filters_of(modules[name]))}"
            )
    foreign = [name for name in plan.activations if name not in plan.bits]
    if foreign:
        raise ConfigError(f"the plan rounds what {foreign[0]!r} reads, but gives no bits to its weights")
