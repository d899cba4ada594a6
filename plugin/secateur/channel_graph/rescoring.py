"""Scores made anew while a search goes on: those of the network as cut so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from secateur.channel_graph.masks import masked
from secateur.channel_graph.tracing import copy_of
from secateur.protocols import Kept
from secateur.records import ChannelGroup, ScoreTable


def masked_scores(
    model: nn.Module, groups: Mapping[str, ChannelGroup], score: Callable[[nn.Module], ScoreTable]
) -> Callable[[Kept], ScoreTable]:
    """Return the function from kept channels to the scores of the network in which the others are masked.

    Channels that are masked have scores too; they say nothing.

    Args:
        model: the dense network; copied once, never touched.
        groups: its channel groups by name.
        score: network -> scores, such as `lambda network: scores_by_name(network, batches, "di")`; it reads the same
            images whenever it is called, so that equal networks have equal scores.

    Raises:
        NetworkError: the network cannot be copied.
        PlanError: (when called) an unknown group or channels that it does not have.
        whatever `score` raises.

    Cost: memory of one network; each call what `score` costs.

    Example:
        >>> import torch
        >>> from secateur.channel_graph import channel_groups
        >>> from secateur.scoring import scores_by_name
        >>> net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)), torch.randn(8, 2)
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.5]]))
        >>> anew = masked_scores(net, channel_groups(net, x), lambda network: scores_by_name(network, [x], "l1"))
        >>> anew({})["1"].tolist(), anew({"0": (1,)})["1"].tolist()
        ([3.0, 3.5], [2.0, 0.5])
    """
    private = copy_of(model)

    def anew(kept: Kept) -> ScoreTable:
        with masked(private, groups, kept) as network:
            return score(network)

    return anew
