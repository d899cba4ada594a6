"""Bytes of the structurally pruned network on disk, as a function of the widths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from secateur.cost.tensors import tensor_term
from secateur.cost.terms import TermCost, check_layers
from secateur.records import ChannelGroup


class ByteCost:
    """Bytes of what `state_dict()` holds in the network that keeps the given widths: parameters and buffers.

    Formula: the sum over the tensors of the state dict of the elements that stay, see `tensor_term`, times the bytes of
    an element. Running statistics shrink with their channels; a batch norm's count of batches, eight bytes, stays. A
    tensor that the state dict names twice counts twice, since it is saved twice. A file holds these bytes and a header:
    about 100 bytes for each tensor in safetensors.

    Attributes:
        name, unit: "bytes" and "B".

    Raises:
        NetworkError: the groups are those of another network.
        PlanError: (when called) a width of an unknown group or out of range.

    Cost: time proportional to the number of stored tensors for each call.

    Example:
        >>> from secateur.records import ChannelGroup, Member
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        >>> channels = tuple((c,) for c in range(4))
        >>> layers = (("0", "producer"), ("1", "carrier"), ("2", "consumer"))
        >>> group = ChannelGroup("0", 4, tuple(Member(layer, role, channels) for layer, role in layers))
        >>> cost = ByteCost(model, {"0": group})
        >>> cost({}), cost({"0": 1})                            # 130 and 34 parameters, 8 and 2 statistics, one count
        (560.0, 152.0)
    """

    name = "bytes"
    unit = "B"

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup]) -> None:
        check_layers(groups, model)
        stored = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
        terms = [tensor_term(model, name, t, groups).times(t.element_size()) for name, t in stored.items()]
        self._sum = TermCost(self.name, self.unit, dict(groups), terms)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the bytes when group g keeps `widths[g]` channels; absent groups keep all."""
        return self._sum(widths)
