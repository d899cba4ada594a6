"""Where rounding decides, a race judges each image as the literal evaluation does: in its batch and its arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cases_for_tests import cases
from networks_for_tests import randomise_batch_norm
from races_for_tests import check, cuts
from secateur.channel_graph import channel_groups
from secateur.errors import NetworkError
from secateur.evaluation import CandidateWorth, MaskedAccuracy


def test_images_within_rounding_are_judged_literally() -> None:
    """All outputs are equal but for rounding: only the same arithmetic gives the same answers."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten())
    network = nn.Sequential(*network, nn.Linear(8 * 16, 4)).eval()
    with torch.no_grad():
        network[5].weight.copy_(network[5].weight[:1].expand(4, -1)[:, torch.randperm(128)])
        for row in range(4):  # the same numbers, added up in another order
            network[5].weight[row] = network[5].weight[0]
            network[5].weight[row, :64] *= 1 + 1e-7 * row
        network[5].bias.zero_()
    images = torch.randn(64, 3, 8, 8)
    groups = channel_groups(network, images[:2])
    labels = network(images).argmax(1)
    batches = [(images[:40], labels[:40]), (images[40:], labels[40:])]
    literal, worth = MaskedAccuracy(network, groups, batches), CandidateWorth(network, groups, batches, chunk=5)
    candidates = cuts(groups, {}, torch.Generator().manual_seed(0))
    true = [literal(candidate) for candidate in candidates]
    assert [worth(candidate) for candidate in candidates] == true
    check(worth.race(candidates), true)


class Autocast(nn.Module):
    """Computes in bfloat16 inside, and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs: Tensor = self.network(x)
        return outputs.float()


def plain_network(*, statistics: bool = True) -> nn.Module:
    layers = [nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32, track_running_stats=statistics), nn.ReLU()]
    layers += [nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32, track_running_stats=statistics), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    return randomise_batch_norm(network).eval() if statistics else network.eval()


LITERAL: dict[str, Callable[[], nn.Module]] = {
    "bfloat16": lambda: plain_network().bfloat16(),
    "float16": lambda: plain_network().half(),
    "autocast": lambda: Autocast(plain_network()).eval(),
    "batch statistics": lambda: plain_network(statistics=False),
}


@pytest.mark.parametrize("build", cases(LITERAL, thorough=["bfloat16", "float16"]))
def test_where_the_arithmetic_decides_all_is_judged_literally(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = build()
    images = torch.randn(200, 3, 10, 10).to(next(network.parameters()).dtype)
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.bias.sub_(network(images).mean(0))
        labels = network(images).argmax(1)
    groups = channel_groups(network, images[:3])
    batches = list(zip(images.split(50), labels.split(50), strict=True))
    literal, worth = MaskedAccuracy(network, groups, batches), CandidateWorth(network, groups, batches)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        start = cuts(groups, {}, generator)
        candidates = [*start, *(each for kept in start for each in cuts(groups, kept, generator)), {}]
        true = [literal(candidate) for candidate in candidates]
        check(worth.race(candidates), true)
        assert [worth(candidate) for candidate in candidates] == true


def test_autocast_around_the_search_is_judged_literally() -> None:
    torch.manual_seed(0)
    network, images = plain_network(), torch.randn(200, 3, 10, 10)
    with torch.no_grad():
        network[-1].bias.sub_(network(images).mean(0))
        labels = network(images).argmax(1)
    groups = channel_groups(network, images[:3])
    literal, worth = (judge(network, groups, [(images, labels)]) for judge in (MaskedAccuracy, CandidateWorth))
    candidates = [*cuts(groups, {}, torch.Generator().manual_seed(0)), {}]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        true = [literal(candidate) for candidate in candidates]
        assert [worth(candidate) for candidate in candidates] == true
        check(worth.race(candidates), true)


def test_batch_norm_by_the_batch_is_judged_by_raw_accuracy_alone() -> None:
    network = plain_network(statistics=False)
    images = torch.randn(8, 3, 10, 10)
    batches = [(images, torch.zeros(8, dtype=torch.int64))]
    groups = channel_groups(network, images[:2])
    for arguments in ({"measure": "loss"}, {"recovery": "recalibrate", "calibration": [images]}):
        with pytest.raises(NetworkError, match=r"batch norm '1' keeps no running statistics.*MaskedAccuracy"):
            CandidateWorth(network, groups, batches, **arguments)
