"""Parameters of the structurally pruned network, as a function of the widths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from secateur.cost.tensors import tensor_term
from secateur.cost.terms import TermCost, check_layers
from secateur.records import ChannelGroup


class ParameterCost:
    """Number of parameters of the network that keeps the given widths: weights, biases, batch norm, all of them.

    Formula: the sum over all parameters of the elements that stay, see `tensor_term`. Buffers (running statistics) are
    not parameters. Shared parameters count once.

    Attributes:
        name, unit: "parameters" and "parameters".

    Raises:
        NetworkError: the groups are those of another network.
        PlanError: (when called) a width of an unknown group or out of range.

    Cost: time proportional to the number of parameter tensors for each call.

    Example:
        >>> from secateur.records import ChannelGroup, Member
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        >>> channels = tuple((c,) for c in range(4))
        >>> layers = (("0", "producer"), ("1", "carrier"), ("2", "consumer"))
        >>> group = ChannelGroup("0", 4, tuple(Member(layer, role, channels) for layer, role in layers))
        >>> cost = ParameterCost(model, {"0": group})
        >>> cost({}), cost({"0": 1})
        (130.0, 34.0)
    """

    name = "parameters"
    unit = "parameters"

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
        check_layers(groups, model)
        terms = [tensor_term(model, name, parameter, groups) for name, parameter in model.named_parameters()]
        self._sum = TermCost(self.name, self.unit, dict(groups), terms)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the number of parameters when group g keeps `widths[g]` channels; absent groups keep all."""
        return self._sum(widths)
