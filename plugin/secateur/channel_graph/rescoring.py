"""Scores made anew while a search goes on: those of the network as cut so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from secateur.channel_graph.narrowing import narrowed, removals
from secateur.channel_graph.surgery import apply_plan
from secateur.protocols import Kept
from secateur.records import ChannelGroup, PruningPlan, ScoreTable

Score = Callable[[nn.Module, Mapping[str, ChannelGroup]], ScoreTable]


def cut_scores(model: nn.Module, groups: Mapping[str, ChannelGroup], score: Score) -> Callable[[Kept], ScoreTable]:
    """Return the function from kept channels to the scores of the network in which the others are gone.

    They are cut, not masked: a channel that stays is compared with those that stay. Of two channels that say the same,
    say, each is worth nothing beside the other, and much once the other has gone.

    Channels that are gone have the score 0, which says nothing, so that a table fits the dense network.

    Args:
        model: the dense network; never touched.
        groups: its channel groups by name.
        score: network and its channel groups -> scores, such as
            `lambda network, groups: scores_by_name(network, batches, "di", groups=groups)`; it reads the same images
            whenever it is called, so that equal networks have equal scores.

    Raises:
        NetworkError: (when called) the network cannot be copied.
        PlanError: (when called) an unknown group or channels that it does not have.
        whatever `score` raises.

    Cost: of each call a copy of the network, and what `score` costs.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> from secateur.scoring import scores_by_name
        >>> net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)), torch.randn(8, 2)
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.5]]))
        >>> anew = cut_scores(net, channel_groups(net, x), lambda network, _: scores_by_name(network, [x], "l1"))
        >>> anew({})["1"].tolist(), anew({"0": (1,)})["1"].tolist(), anew({"1": (1,)})["1"].tolist()
        ([3.0, 3.5], [2.0, 0.5], [0.0, 3.5])
    """
    owned = dict(groups)

    def anew(kept: Kept) -> ScoreTable:
        decision = {name: tuple(channels) for name, channels in kept.items()}
        plan = PruningPlan(tuple(owned.values()), decision, "none", 0.0, 0.0, 0.0)
        found = score(apply_plan(model, plan), narrowed(owned, plan.kept))
        gone = removals(owned, plan.kept)
        scores = {layer: _spread(values, gone.get((layer, False, None), set())) for layer, values in found.items()}
        return ScoreTable(scores, settings=found.settings)

    return anew


def _spread(values: Tensor, gone: set[int]) -> Tensor:
    """Return scores (C,) with zeros put where the channels that are gone were."""
    full = values.new_zeros(len(values) + len(gone))
    full[torch.tensor([place for place in range(len(full)) if place not in gone], dtype=torch.long)] = values
    return full
