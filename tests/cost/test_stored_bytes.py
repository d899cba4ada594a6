"""Bytes as a closed form in the widths, against the state dict and the file of the network that really shrank."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual
from references_costs import bytes_by_tensor
from secateur.channel_graph import apply_plan, channel_groups
from secateur.checkpoint import save_pruned
from secateur.cost import ByteCost
from secateur.cost.tensors import tensor_term
from secateur.errors import NetworkError
from secateur.networks import digits_resnet
from secateur.records import ChannelGroup, Member, PruningPlan


class Mixed(nn.Module):
    """Tensors of several types: a lone parameter, slopes, a half, a table of integers, one that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.slopes = nn.PReLU(8)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.second = nn.Conv2d(8, 4, 1)
        self.first.register_buffer("calls", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1, dtype=torch.float16))
        self.register_buffer("labels", torch.arange(10))
        self.register_buffer("scratch", torch.zeros(1000), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.slopes(self.first(x - self.mean) * self.scale)))


class Renamed(nn.Sequential):
    """Layers that have a second name, by which the state dict holds their tensors once more."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
        self.stem = nn.Sequential(self[0], self[1])

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self[4](self[3](self[2](self.stem(x)))))


NETWORKS = [Residual, Depthwise, Grouped, ConcatTwice, Mixed, Renamed, digits_resnet]


def cut(model: nn.Module, x: Tensor, seed: int) -> tuple[dict[str, ChannelGroup], PruningPlan]:
    groups = dict(channel_groups(model, x, check=False))
    draw = random.Random(seed)
    kept = {
        name: tuple(sorted(draw.sample(range(group.width), draw.randint(1, group.width))))
        for name, group in groups.items()
    }
    return groups, PruningPlan(tuple(groups.values()), kept, "bytes", 1.0, 1.0, 1.0)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_state_dict_after_real_surgery_tensor_by_tensor(
    network: type[nn.Module], dtype: torch.dtype
) -> None:
    model = network().to(dtype)
    x = torch.randn(2, 1 if network is digits_resnet else 3, 9, 9, dtype=dtype)
    for seed in range(3):
        groups, plan = cut(model, x, seed)
        expected = bytes_by_tensor(apply_plan(model, plan))
        removed = {name: group.width - len(plan[name]) for name, group in groups.items()}
        found = {
            name: tensor_term(model, name, tensor, groups).value(removed) * tensor.element_size()
            for name, tensor in model.state_dict().items()
        }
        assert found == expected
        assert ByteCost(model, groups)(plan.widths) == sum(expected.values())
    assert ByteCost(model, groups)({}) == sum(bytes_by_tensor(model).values())


@pytest.mark.parametrize("network", [Residual, digits_resnet])
def test_the_file_holds_these_bytes_and_a_header(network: type[nn.Module], tmp_path: Path) -> None:
    model = network()
    groups, plan = cut(model, torch.randn(2, 1 if network is digits_resnet else 3, 9, 9), 0)
    save_pruned(apply_plan(model, plan), model, plan, tmp_path)
    file = (tmp_path / "model.safetensors").read_bytes()
    header = int.from_bytes(file[:8], "little")
    assert len(file) - 8 - header == ByteCost(model, groups)(plan.widths)
    tensors = json.loads(file[8 : 8 + header]).keys() - {"__metadata__"}
    assert len(tensors) == len(model.state_dict())
    assert 50 < header / len(tensors) < 150


def test_running_statistics_shrink_and_the_count_of_batches_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    channels = tuple((c,) for c in range(4))
    layers = (Member("0", "producer", channels), Member("1", "carrier", channels), Member("2", "consumer", channels))
    cost = ByteCost(model, {"0": ChannelGroup("0", 4, layers)})
    assert cost({"0": 3}) == 4 * (3 * 3 + 4 * 3 + 2 * 3) + 8
    assert (cost.name, cost.unit) == ("bytes", "B")


def test_tensors_that_are_saved_twice_count_twice() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert ByteCost(model, {})({}) == 2 * 16 * 4


def test_groups_of_another_network_are_refused() -> None:
    group = ChannelGroup("stem", 2, (Member("stem", "producer", ((0,), (1,))),))
    with pytest.raises(NetworkError, match="'stem'"):
        ByteCost(nn.Sequential(nn.Linear(2, 2)), {"stem": group})
