"""What is decided before a network is quantized: bits, ranges and the rule of clipping, as one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from secateur.errors import ConfigError, NetworkError
from secateur.quantization.filters import filters_of
from secateur.quantization.quantizer import ThresholdRule, check_bits, check_rule
from secateur.quantization.ranges import ActivationRange


@dataclass(frozen=True)
class BitPlan:
    """The bits of every filter, and how they are rounded.

    Example:
        >>> from secateur.quantization import uniform_bits
        >>> uniform_bits(nn.Sequential(nn.Linear(2, 2)), 3).check(nn.Sequential(nn.Linear(2, 4)))
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: the plan gives bits to 2 filters of '0', which has 4

    Attributes:
        bits: layer -> (C,), int64: of each of its filters; layers that are absent stay in float32.
        settings: how they were found.
        activations: layer -> how what it reads is rounded, see `calibrated`; layers that are absent read float32.
        thresholds: the rule by which the weights of each filter are clipped, see `thresholds_of`. It is part of the
            plan, so that training, both files and whoever loads them follow one rule.
    """

    bits: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, ActivationRange] = field(default_factory=dict)
    thresholds: ThresholdRule = "published"

    def __post_init__(self) -> None:
        check_rule(self.thresholds)
        for bits in self.bits.values():
            check_bits(bits)

    def check(self, model: nn.Module) -> None:
        """Refuse a network that this is no plan of.

        Raises:
            ConfigError: it lacks a layer of the plan, or has other filters there.
            NetworkError: a layer of the plan has no filters, computes its weight from other tensors, or shares it with
                another layer, which would round it again.
        """
        modules, owners = dict(model.named_modules()), dict[int, list[str]]()
        for name, module in modules.items():
            for parameter in module.parameters(recurse=False):
                owners.setdefault(id(parameter), []).append(name)
        for name, bits in self.bits.items():
            if name not in modules:
                raise ConfigError(f"the plan gives bits to {name!r}, which the network does not have")
            filters = len(filters_of(modules[name]))
            if len(bits) != filters:
                raise ConfigError(f"the plan gives bits to {len(bits)} filters of {name!r}, which has {filters}")
            weight = dict(modules[name].named_parameters(recurse=False)).get("weight")
            if weight is None:
                raise NetworkError(f"the weight of {name!r} is computed from other tensors, such as by a "
                                   "parametrization; make it a parameter first")  # fmt: skip
            if len(owners[id(weight)]) > 1:
                raise NetworkError(f"the layers {' and '.join(map(repr, owners[id(weight)]))} share one weight, which "
                                   "cannot be rounded for each of them; give each its own, or leave them out of "
                                   "the plan")  # fmt: skip
        foreign = [name for name in self.activations if name not in self.bits]
        if foreign:
            raise ConfigError(f"the plan rounds what {foreign[0]!r} reads, but gives no bits to its weights")

    def average(self, model: nn.Module) -> float:
        """Return the bits a weight, over all weights of the layers that have any. Raises as `check`."""
        self.check(model)
        weights = {name: filters_of(model.get_submodule(name)) for name in self.bits}
        total = sum(float(bits.sum()) * weights[name][0].numel() for name, bits in self.bits.items())
        return total / sum(weight.numel() for weight in weights.values())
