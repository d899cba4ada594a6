"""Batch norms are folded where that changes nothing but rounding, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import randomise_batch_norm
from races_for_tests import check, cuts
from secateur.channel_graph import channel_groups
from secateur.evaluation import CandidateWorth, MaskedAccuracy
from secateur.evaluation.arithmetic import foldable


class NormAct(nn.BatchNorm2d):
    """Normalises and activates in one module, as EfficientNets of other libraries do."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Standardised(nn.Conv2d):
    """Takes the mean and scale of each filter away at each call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


def network_of(conv: type[nn.Conv2d], norm: type[nn.BatchNorm2d], *, hooked: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [conv(3, 12, 3, bias=False), norm(12), nn.ReLU(), conv(12, 8, 3, bias=False), norm(8)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    if hooked:
        network[1].register_forward_hook(lambda _module, _inputs, output: output.clamp(max=0.5))
    return randomise_batch_norm(network).eval()


UNFOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "a norm that activates": lambda: network_of(nn.Conv2d, NormAct),
    "a convolution of its own": lambda: network_of(Standardised, nn.BatchNorm2d),
}


@pytest.mark.parametrize("build", UNFOLDABLE.values(), ids=UNFOLDABLE)
def test_layers_with_a_forward_of_their_own_are_judged_as_they_are(build: Callable[[], nn.Module]) -> None:
    network = build()
    images = torch.randn(300, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert foldable(network, images[:2]) == []
    with torch.no_grad():
        network[7].bias.sub_(network(images).mean(0))
        labels = network(images).argmax(1)
    groups = channel_groups(network, images[:2])
    literal, worth = (judge(network, groups, [(images, labels)]) for judge in (MaskedAccuracy, CandidateWorth))
    candidates = [*cuts(groups, {}, torch.Generator().manual_seed(0)), {}]
    true = [literal(candidate) for candidate in candidates]
    assert [worth(candidate) for candidate in candidates] == true
    check(worth.race(candidates), true)


class Listed(nn.Module):
    """Layers that have two names, and are called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.stem = nn.Sequential(self.conv, self.norm, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stem(x).mean((2, 3)))
        return logits


def test_a_norm_is_folded_under_all_of_its_names() -> None:
    network = randomise_batch_norm(Listed()).eval()
    images = torch.randn(20, 3, 9, 9)
    groups = channel_groups(network, images[:2])
    with torch.no_grad():
        expected = -nn.functional.cross_entropy(network(images), torch.arange(20) % 4)
    worth = CandidateWorth(network, groups, [(images, torch.arange(20) % 4)], measure="loss")
    assert foldable(network, images[:2]) == [("conv", "norm")]
    assert worth({}) == pytest.approx(float(expected), abs=1e-5)


def test_hooks_keep_a_norm_and_plain_pairs_are_folded() -> None:
    images = torch.randn(2, 3, 9, 9)
    assert foldable(network_of(nn.Conv2d, nn.BatchNorm2d), images) == [("0", "1"), ("3", "4")]
    assert foldable(network_of(nn.Conv2d, nn.BatchNorm2d, hooked=True), images) == [("3", "4")]
    assert foldable(network_of(nn.Conv2d, nn.BatchNorm2d), images, but=["1"]) == [("3", "4")]
