"""Parameters as a closed form in the widths, against the parameters of the network that really shrank."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual
from secateur.channel_graph import apply_plan, channel_groups
from secateur.cost import ParameterCost
from secateur.errors import NetworkError
from secateur.records import ChannelGroup, Member, PruningPlan


class Scaled(nn.Module):
    """A parameter that stands alone, slopes for each channel, and weights used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.slopes = nn.PReLU(8)
        self.second = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.slopes(self.first(x) * self.scale))
        return self.tied(self.head(x.mean((2, 3))))


class Attending(nn.Module):
    """One head, whose channels are those of the residual stream around it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 1, add_bias_kv=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        attended, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + attended).mean(1))


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice, Scaled, Attending])
def test_equals_the_parameters_left_after_real_surgery(network: type[nn.Module]) -> None:
    model, x = network(), torch.randn(2, 3, 9, 9)
    groups = dict(channel_groups(model, x, ignore=["head", "second"] if network is Scaled else [], check=False))
    cost = ParameterCost(model, groups)
    assert cost({}) == sum(p.numel() for p in model.parameters())
    for seed in range(4):
        draw = random.Random(seed)
        widths = {name: draw.randint(1, group.width) for name, group in groups.items()}
        kept = {name: tuple(sorted(draw.sample(range(groups[name].width), width))) for name, width in widths.items()}
        pruned = apply_plan(model, PruningPlan(tuple(groups.values()), kept, "parameters", 1.0, 1.0, 1.0))
        assert cost(widths) == sum(p.numel() for p in pruned.parameters())


def test_one_slope_for_all_channels_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(), nn.Conv2d(4, 2, 1))
    channels = ((0,), (1,), (2,), (3,))
    layers = (Member("0", "producer", channels), Member("1", "carrier", channels), Member("2", "consumer", channels))
    assert ParameterCost(model, {"0": ChannelGroup("0", 4, layers)})({"0": 1}) == (3 + 1) + 1 + (2 + 2)


def test_groups_of_another_network_are_refused() -> None:
    group = ChannelGroup("stem", 2, (Member("stem", "producer", ((0,), (1,))),))
    with pytest.raises(NetworkError, match="'stem'"):
        ParameterCost(nn.Sequential(nn.Linear(2, 2)), {"stem": group})
