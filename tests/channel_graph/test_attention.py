"""Heads of attention: the same channels of each go together, and none moves into another head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.channel_graph import apply_plan, channel_groups, verify_pruning
from secateur.errors import NetworkError
from secateur.records import PruningPlan

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Attending(nn.Module):
    """A layer, attention of its channels, and a layer that reads what it attends to."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.read = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, heads, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        return self.last(self.attention(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]  # a module's call


def without_channels(net: Attending, dead: tuple[int, ...]) -> None:
    """Make some channels dead, in the attention and around it, and what it attends to sharp."""
    attention = net.attention
    with torch.no_grad():
        attention.in_proj_weight[:16] *= 8
        for channel in dead:
            net.read.weight[channel] = net.read.bias[channel] = 0
            for place in (channel, channel + 8, channel + 16):
                attention.in_proj_weight[place] = attention.in_proj_bias[place] = 0
            for weight in (attention.in_proj_weight, attention.out_proj.weight, net.last.weight):
                weight[:, channel] = 0
            attention.out_proj.weight[channel] = attention.out_proj.bias[channel] = 0


def test_the_same_channel_of_every_head_falls_together() -> None:
    groups = channel_groups(Attending(2).eval(), TOKENS)
    assert groups["read"].width == 4
    assert {m.layer: m.indices[1] for m in groups["read"].members} == dict.fromkeys(
        ("read", "attention", "last"), (1, 5)
    )
    with pytest.raises(NetworkError, match=r"one in every of the 8 groups of attention: there is one"):
        channel_groups(Attending(8).eval(), TOKENS)


def test_every_width_runs_and_channels_stay_in_their_heads() -> None:
    torch.manual_seed(0)
    net = Attending(2).eval()
    without_channels(net, (0, 4))
    groups = channel_groups(net, TOKENS)
    for kept in ((3,), (1, 2), (1, 2, 3)):
        plan = PruningPlan(tuple(groups.values()), {"read": kept}, "none", 0.0, 0.0, 0.0)
        pruned = apply_plan(net, plan)
        assert pruned(TOKENS).isfinite().all()
        unchecked = verify_pruning(net, pruned, plan, TOKENS).unchecked["read"]
        assert "attention (MultiheadAttention) divides by the root of the channels of a head" in unchecked
    with torch.no_grad():  # the scale is that of three channels a head now, and no longer of four
        pruned.attention.in_proj_weight[:6] *= (3 / 4) ** 0.5
        pruned.attention.in_proj_bias[:6] *= (3 / 4) ** 0.5
        torch.testing.assert_close(pruned(TOKENS), net(TOKENS))
