"""Scores of networks and batches that do more than layers do: caches, pyramids, labels of their own, inference mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import Residual
from secateur import channel_groups, collect_scores, gradient_scores, reconstruction_scores, weight_scores
from secateur.errors import NetworkError
from secateur.records import ScoreTable

IMAGES = torch.randn(12, 3, 9, 9, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Caching(nn.Module):
    """Makes its grid at the first call, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if self.grid is None:
            self.grid = torch.linspace(0.5, 1, x.shape[-1]).expand(x.shape[-2:]).clone()
        return self.last(x * self.grid)


def test_a_network_that_keeps_a_tensor_can_be_trained_afterwards() -> None:
    network = Caching()
    groups = channel_groups(network, IMAGES[:2])
    network.grid = None
    reconstruction_scores(network, groups, [IMAGES])
    network(IMAGES).sum().backward()
    assert network.first.weight.grad is not None


class Pyramid(nn.Module):
    """One head over maps of several sizes, the smallest of a single value."""

    def __init__(self, *, smallest_first: bool) -> None:
        super().__init__()
        self.stem, self.head, self.smallest_first = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), smallest_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        levels = [x, nn.functional.adaptive_max_pool2d(x, 1)]
        return sum(self.head(level).mean((2, 3)) for level in (levels[::-1] if self.smallest_first else levels))


@pytest.mark.parametrize("smallest_first", [True, False])
def test_a_layer_of_which_one_map_has_no_rank_is_left_out_in_any_order(smallest_first: bool) -> None:
    table = collect_scores(Pyramid(smallest_first=smallest_first).eval(), [IMAGES], "hrank")
    assert set(table) == {"stem"}
    assert "head" in table.settings["skipped"]


def test_labels_that_no_rule_reads_may_be_anything() -> None:
    network = Residual().eval()
    groups = channel_groups(network, IMAGES[:2])
    sequences = [(IMAGES[:6], torch.zeros(6, 4)), (IMAGES[6:], torch.zeros(6, 7))]
    alone = [images for images, _ in sequences]
    found, expected = (reconstruction_scores(network, groups, batches) for batches in (sequences, alone))
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)


GROUPS = channel_groups(Residual(), IMAGES[:2])
SCORES: dict[str, Callable[[nn.Module], ScoreTable]] = {
    "bn_scale": lambda net: weight_scores(net, "bn_scale", example_inputs=IMAGES[:2]),
    "reconstruction": lambda net: reconstruction_scores(net, GROUPS, [IMAGES]),
    "hrank": lambda net: collect_scores(net, [IMAGES], "hrank"),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.filterwarnings("ignore::secateur.errors.SaturationWarning")
def test_in_inference_mode_scores_are_the_same(score: Callable[[nn.Module], ScoreTable]) -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    expected = score(network)
    with torch.inference_mode():
        found = score(network)
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)


@pytest.mark.parametrize("score", [collect_scores, gradient_scores])
def test_a_single_name_in_place_of_names_is_said(score: Callable[..., Any]) -> None:
    criterion = "hrank" if score is collect_scores else "taylor"
    with pytest.raises(NetworkError, match="layers must be a list of names; found the single name 'stem'"):
        score(Residual(), [(IMAGES, LABELS)], criterion, layers="stem")


def test_gradients_keep_all_of_float32() -> None:
    """TensorFloat-32 would leave three digits of them, and other ties."""
    seen: set[str] = set()

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        seen.add(torch.get_float32_matmul_precision())
        return nn.functional.cross_entropy(outputs, labels)

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        gradient_scores(Residual(), [(IMAGES, LABELS)], "taylor", loss=loss)
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {"highest"}
