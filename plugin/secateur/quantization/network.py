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
from secateur.quantization.plan import BitPlan
from secateur.quantization.quantizer import Quantized, dequantize, quantize, rounded, thresholds_of
from secateur.quantization.ranges import round_inputs

Thresholds = Mapping[str, Tensor]


def quantize_network(
    model: nn.Module, plan: BitPlan, thresholds: Thresholds | None = None
) -> tuple[nn.Module, dict[str, Quantized]]:
    """Return a copy with rounded weights, and the whole numbers that they stand for, by layer.

    Args:
        model: unchanged.
        plan: bits by layer, and how activations are rounded, if they are: the copy then rounds them as it runs.
        thresholds: layer -> (C,), such as `fake_quantized` yields, for a network that was trained with them; None:
            found by the rule of the plan on the weights as they are.

    Raises:
        ConfigError: the plan is of another network, or the thresholds are.
        NetworkError: layers share a weight, or compute it; see `BitPlan.check`.
        ScoreError: weights that are not finite.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> net = nn.Sequential(nn.Linear(4, 3))
        >>> rounded, codes = quantize_network(net, uniform_bits(net, 8))
        >>> bool((rounded[0].weight - net[0].weight).abs().max() < 0.01), codes["0"].codes.dtype
        (True, torch.int32)
    """
    plan.check(model)
    limits = _thresholds(model, plan) if thresholds is None else thresholds
    lacking = [name for name in plan.bits if name not in limits]
    if lacking:
        raise ConfigError(f"the thresholds are those of another plan: there are none for {lacking[0]!r}")
    copied, found = copy.deepcopy(model), {}
    for name, bits in plan.bits.items():
        module = copied.get_submodule(name)
        found[name] = quantize(filters_of(module), bits, limits[name])
        with torch.no_grad():
            weight = as_weight(module, dequantize(found[name]))
            module.get_parameter("weight").copy_(weight)
    round_inputs(copied, plan.activations)
    return copied, found


@contextmanager
def fake_quantized(model: nn.Module, plan: BitPlan) -> Iterator[dict[str, Tensor]]:
    """Within the block, `model` computes with rounded weights and is trained through them [Bengio2013]_.

    The weights of the planned layers are rounded on each use; gradients go to the weights underneath as if they were
    not. Where the plan has ranges of activations, these are rounded likewise. After the block the weights underneath
    are the network's own again: `quantize_network` rounds them for good.

    Yields: layer -> (C,), the thresholds, which stay as they were at the beginning. Whoever stores the trained network
    hands them on: found anew they would be others.

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
    plan.check(model)
    modules, thresholds = {name: model.get_submodule(name) for name in plan.bits}, _thresholds(model, plan)
    handles, orders = [], {name: [*module._parameters] for name, module in modules.items()}
    try:
        handles = round_inputs(model, plan.activations)
        for name, module in modules.items():
            parametrize.register_parametrization(module, "weight", _Rounded(module, plan.bits[name], thresholds[name]))
        yield thresholds
    finally:
        for handle in handles:
            handle.remove()
        for name, module in modules.items():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
                for own in orders[name]:  # optimizers count parameters, and the weight has become the last
                    module._parameters[own] = module._parameters.pop(own)


class _Rounded(nn.Module):
    """Rounds a weight on the way forward and lets gradients through on the way back."""

    bits: Tensor
    thresholds: Tensor
    filter_by_filter = True  # see `secateur.training.frozen`

    def __init__(self, module: nn.Module, bits: Tensor, thresholds: Tensor) -> None:
        super().__init__()
        self._module = [module]  # in a list, so that it is no part of this one
        self.register_buffer("bits", bits, persistent=False)
        self.register_buffer("thresholds", thresholds, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        module = self._module[0]
        with torch.no_grad():
            codes = rounded(by_filter(module, weight), self.bits, self.thresholds)
            values = as_weight(module, dequantize(codes)).to(weight.dtype)
        return values + (weight - weight.detach())


def _thresholds(model: nn.Module, plan: BitPlan) -> dict[str, Tensor]:
    return {
        name: thresholds_of(filters_of(model.get_submodule(name)), bits, plan.thresholds)
        for name, bits in plan.bits.items()
    }
