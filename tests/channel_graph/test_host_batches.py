"""What Torch-Pruning's importances read: every image, or a reason; and who is named when they fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from secateur.channel_graph import channel_groups, host_importance_scores
from secateur.errors import DataError, ScoreError

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BATCHES = [(IMAGES[:4], torch.arange(4)), (IMAGES[4:], torch.arange(4))]


@pytest.fixture
def network() -> nn.Module:
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("batches", [BATCHES, BATCHES[:1]])
def test_a_generator_is_refused_whose_first_batch_would_be_lost(network: nn.Module, batches: Iterable[Any]) -> None:
    groups = channel_groups(network, IMAGES)
    assert host_importance_scores(network, groups, batches, "taylor").settings["samples"] == 4 * len([*batches])
    with pytest.raises(DataError, match="give a list or a DataLoader, not a generator"):
        host_importance_scores(network, groups, (batch for batch in batches), "taylor")


def test_images_that_are_gone_when_they_are_read_again_are_missed(network: nn.Module) -> None:
    class Once:
        left = BATCHES[:1]

        def __iter__(self) -> Iterator[Any]:
            given, self.left = self.left, []
            return iter(given)

    with pytest.raises(DataError, match="no images to take gradients of: the batches give none the second time"):
        host_importance_scores(network, channel_groups(network, IMAGES), Once(), "taylor")


def test_the_importance_that_gives_odd_scores_is_named(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tp.pruner.importance.GroupMagnitudeImportance, "__call__", lambda *_: torch.ones(3))
    with pytest.raises(ScoreError, match=r"^GroupMagnitudeImportance must give 8 finite scores .*; it gave 3"):
        host_importance_scores(network, channel_groups(network, IMAGES), BATCHES, "magnitude")
