"""Layers that divide channels into blocks: what lies alike in all of them can go, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur import WeightImportance, prune, verify_pruning
from secateur.channel_graph import channel_groups, verify
from secateur.channel_graph.traced_groups import groups_of, record_group
from secateur.channel_graph.tracing import trace
from secateur.channel_graph.verify import difference
from secateur.errors import NetworkError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """Two layers side by side, divided into two blocks: each of them is one block by itself."""

    def __init__(self, width: int, blocks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.left, self.right = nn.Conv2d(6, width, 3, padding=1), nn.Conv2d(6, width, 1)
        self.blocks, self.head = blocks, nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.blocks(torch.cat([self.left(x), self.right(x)], 1))))


@pytest.mark.parametrize(
    ("width", "blocks"),
    [
        (4, lambda: nn.Conv2d(8, 16, 3, groups=2)),
        (8, lambda: nn.Conv2d(16, 16, 3, groups=2)),
        (8, lambda: nn.GroupNorm(2, 16)),
    ],
)
def test_channels_that_lie_in_one_of_several_blocks_stay(width: int, blocks: Callable[[], nn.Module]) -> None:
    net = Joined(width, blocks()).eval()
    result = prune(net, IMAGES, WeightImportance("l1"))
    reason = "blocks divides what it reads into 2 blocks, in which its channels do not lie alike"
    assert {name: result.skipped[name] for name in ("left", "right")} == {"left": reason, "right": reason}
    assert result.plan.widths["stem"] == 3
    assert verify_pruning(net, result.model, result.plan, IMAGES).largest_difference < 1e-5


@pytest.mark.parametrize("blocks", [lambda: nn.Conv2d(8, 8, 1), lambda: nn.GroupNorm(1, 8), lambda: nn.BatchNorm2d(8)])
def test_in_a_single_block_they_may_go(blocks: Callable[[], nn.Module]) -> None:
    layers = (nn.Conv2d(3, 8, 1), blocks(), nn.ReLU(), nn.Conv2d(8, 5, 1))
    assert channel_groups(nn.Sequential(*layers).eval(), IMAGES)["0"].width == 8


def test_a_layer_that_cannot_be_cut_counts_as_one_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    groups = channel_groups(net, IMAGES)

    def fails(*_: object) -> nn.Module:
        raise RuntimeError("INDICES element is out of DATA bounds")

    assert difference(net, groups, {"0": (1, 2)}, IMAGES) < 1e-5
    monkeypatch.setattr(verify, "apply_plan", fails)
    assert difference(net, groups, {"0": (1, 2)}, IMAGES) == float("inf")
    with pytest.raises(NetworkError, match="0: the network does not run any more"):
        channel_groups(net, IMAGES)


def test_fewer_channels_than_blocks_are_one_channel() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    group = next(group for group, record in groups_of(trace(net, (IMAGES,)), net) if record.name == "0")
    assert record_group(group, blocks=8).width == 1
