"""Cost models by name, for configuration files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from secateur.cost.macs import MacsCost
from secateur.cost.parameters import ParameterCost
from secateur.cost.published import flops2_cost, hrank_cost, hrank_parameters, thop_cost
from secateur.cost.stored_bytes import ByteCost
from secateur.cost.terms import Groups
from secateur.errors import ConfigError
from secateur.protocols import CostModel

COSTS: Mapping[str, Callable[[nn.Module, Any, Groups], CostModel]] = {
    "macs": MacsCost,
    "parameters": lambda model, _, groups: ParameterCost(model, groups),
    "bytes": lambda model, _, groups: ByteCost(model, groups),
    "flops2": flops2_cost,
    "thop": thop_cost,
    "hrank": hrank_cost,
    "hrank_parameters": lambda model, _, groups: hrank_parameters(model, groups),
}
"""Name -> what makes the cost model; each cost model carries the name that it goes by."""


def cost_model(name: str, model: nn.Module, example_inputs: Any, groups: Groups) -> CostModel:
    """Return the cost model of this name: a function of the widths of `groups`.

    | name | what is counted |
    |---|---|
    | `macs` | multiply-accumulates of convolutions and linear layers in the shrunken network |
    | `parameters` | all its parameters |
    | `bytes` | what its state dict holds: parameters and running statistics |
    | `flops2` | two operations for each MAC |
    | `thop` | MACs, biases, and two operations for each output of a batch norm |
    | `hrank`, `hrank_parameters` | kept outputs of each layer, computed from all of its dense inputs |

    Which published tables they reproduce: `secateur.cost.published`.

    Args:
        name: a key of `COSTS`.
        model: the dense network; unchanged afterwards.
        example_inputs: a tensor (N, ...), a tuple of positional or a mapping of keyword arguments; "parameters",
            "bytes" and "hrank_parameters" do not look at them.
        groups: the channel groups by name.

    Raises:
        ConfigError: an unknown name.
        NetworkError: the network does not run on the example inputs, or the groups are those of another network.

    Cost: at most two forward passes.

    Example:
        >>> import torch
        >>> {name: cost_model(name, nn.Linear(3, 2), torch.zeros(1, 3), {})({}) for name in ("macs", "bytes")}
        {'macs': 6.0, 'bytes': 32.0}
    """
    if name not in COSTS:
        raise ConfigError(f"unknown cost {name!r}; allowed: {', '.join(COSTS)}")
    return COSTS[name](model, example_inputs, groups)
