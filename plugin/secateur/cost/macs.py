"""Multiply-accumulates of the structurally pruned network, as a function of the widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.cost.layers import record_layers
from secateur.cost.terms import TermCost, check_layers, mac_terms
from secateur.records import ChannelGroup


class MacsCost:
    """MACs of one input in the convolution and linear layers of the network that keeps the given widths.

    Formula, for a layer whose kernel of K elements is applied at P positions, with I inputs, O outputs and G groups:

        macs = P * K * I * O / G              depthwise (G = I): P * K * O, groups fall with the channels

    where I and O lose, for each removed channel, the positions that it owns there: removed channels shorten both the
    layer that produces them and every layer that reads them. A layer that is called several times counts each call.
    Equal to half of what `torch.utils.flop_counter` counts in the network after surgery; an upper bound of it where
    channels of one group own different numbers of positions in a layer (behind a chunk), because widths alone do not
    say which of them go.

    Batch norm, activations, biases and pooling count nothing. Figures of the literature that count otherwise are not
    comparable; `secateur.cost.cost_model` has three other ways by name.

    Attributes:
        name, unit: "macs" and "MACs".
        layers: what was recorded, by layer name.

    Args:
        model: the dense network; one forward pass is run and nothing is changed.
        example_inputs: a tensor (N, ...), a tuple of positional or a mapping of keyword arguments.
        groups: the channel groups by name; an empty mapping gives the dense cost alone.

    Raises:
        NetworkError: the network does not run on the example inputs, or the groups are those of another network.
        PlanError: (when called) a width of an unknown group or out of range.

    Cost: one forward pass; then time proportional to the number of layers for each call.

    Example:
        >>> import torch
        >>> from secateur.records import ChannelGroup, Member
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> channels = tuple((c,) for c in range(4))
        >>> group = ChannelGroup("0", 4, (Member("0", "producer", channels), Member("2", "consumer", channels)))
        >>> cost = MacsCost(model, torch.zeros(1, 3, 10, 10), {"0": group})
        >>> cost({}), cost({"0": 1})
        (11600.0, 2900.0)
    """

    name = "macs"
    unit = "MACs"

    def __init__(self, model: nn.Module, example_inputs: Any, groups: Mapping[str, ChannelGroup]) -> None:
        check_layers(groups, model)
        self.layers = record_layers(model, example_inputs)
        self._sum = TermCost(self.name, self.unit, dict(groups), mac_terms(self.layers, groups))

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the MACs of one input when group g keeps `widths[g]` channels; absent groups keep all."""
        return self._sum(widths)
