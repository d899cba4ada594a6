"""Parameters of the structurally pruned network, as a function of the widths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from secateur.cost.layers import describe_layer
from secateur.cost.terms import CARRIED, Count, Term, check_layers, layer_counts, owned_positions, total_cost
from secateur.records import ChannelGroup


class ParameterCost:
    """Number of parameters of the network that keeps the given widths: weights, biases, batch norm, all of them.

    Formula: K * I * O / G for a weight (K * O where depthwise), O for a bias; a parameter of a layer that channels
    pass through (batch norm, PReLU with one slope a channel), or that stands alone, shrinks in proportion to the
    positions that stay; every other parameter counts in full. Buffers (running statistics) are not parameters.
    Shared parameters count once.

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
        check_layers(groups, {name for name, _ in [*model.named_modules(), *model.named_parameters()]})
        self.groups = dict(groups)
        self._terms = [_term(model, name, parameter, groups) for name, parameter in model.named_parameters()]

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the number of parameters when group g keeps `widths[g]` channels; absent groups keep all."""
        return total_cost(self._terms, self.groups, widths)


def _term(model: nn.Module, name: str, parameter: Tensor, groups: Mapping[str, ChannelGroup]) -> Term:
    layer, _, attribute = name.rpartition(".")
    record = describe_layer(layer, model.get_submodule(layer))
    if record is not None:
        counts = layer_counts(record, groups)
        if attribute == "bias":
            return Term(1, counts[-1:])
        return Term(record.kernel if record.depthwise else record.kernel / record.groups, counts)
    count = _lone_count(name, parameter, groups) or _carried_count(layer, parameter, groups)
    if count is None:
        return Term(parameter.numel())
    return Term(parameter.numel() / count.total, (count,))


def _lone_count(name: str, parameter: Tensor, groups: Mapping[str, ChannelGroup]) -> Count | None:
    axes = {m.axis for g in groups.values() for m in g.members if m.layer == name and m.axis is not None}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    total = parameter.shape[axis]
    return Count.of(total, owned_positions(name, groups, roles=CARRIED, total=total, axis=axis))


def _carried_count(layer: str, parameter: Tensor, groups: Mapping[str, ChannelGroup]) -> Count | None:
    if parameter.ndim == 0 or parameter.shape[0] == 1:  # one slope for all channels stays
        return None
    owned = owned_positions(layer, groups, roles=CARRIED, total=parameter.shape[0])
    return Count.of(parameter.shape[0], owned) if owned else None
