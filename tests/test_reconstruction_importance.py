"""Reconstruction, whose scores belong to groups, in Torch-Pruning's pruners."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from importances_for_tests import EXAMPLE, LABELLED, SMALL, Counted, convolutions, linears, sizes_as_declared
from networks_for_tests import ConcatTwice, Depthwise, Grouped, PermutedFlatten, Residual
from secateur import ReconstructionImportance, channel_groups, reconstruction_scores
from secateur.errors import ConfigError, DataError, SecateurWarning


class DenseBlock(nn.Module):
    """Three convolutions that each read all maps before them, behind their own batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * step) for step in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * step, 4, 3, padding=1) for step in range(3))
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return self.head(torch.relu(x).mean((2, 3)))


def flattened() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 6), nn.ReLU(), nn.Linear(6, 5)
    )


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice, DenseBlock, flattened])
@pytest.mark.parametrize("settings", [{}, {"global_pruning": True}])
@pytest.mark.filterwarnings("ignore:fewer rows")
def test_reconstruction_prunes_every_shape_of_graph_step_by_step(
    network: Callable[[], nn.Module], settings: dict[str, Any]
) -> None:
    net, batches = network(), Counted(LABELLED)
    before = convolutions(net) | linears(net)
    importance = ReconstructionImportance(batches, example_inputs=EXAMPLE[0])
    pruner = tp.pruner.BasePruner(net, EXAMPLE, importance=importance, iterative_steps=2, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*left dense.*")
        for step in (1, 2):
            pruner.step()
            assert batches.passes == step
    assert sizes_as_declared(net)
    assert net(LABELLED[0][0]).shape == (16, 5)
    after = convolutions(net) | linears(net)
    if settings:
        assert sum(after.values()) < sum(before.values())
    else:
        assert after == {layer: width if width == 5 else width // 2 for layer, width in before.items()}


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_reconstruction_keeps_the_channels_of_its_own_scores() -> None:
    net = DenseBlock()
    scores = reconstruction_scores(net, channel_groups(net, EXAMPLE[0]), LABELLED)["stem"]
    stay = sorted(scores.argsort()[-4:].tolist())
    weight = net.stem.weight.detach()[stay]
    tp.pruner.BasePruner(net, EXAMPLE, importance=ReconstructionImportance(LABELLED)).step()
    assert torch.equal(net.stem.weight, weight)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_reconstruction_leaves_what_it_cannot_score_and_names_it() -> None:
    net = PermutedFlatten()
    importance = ReconstructionImportance(SMALL)
    with pytest.warns(SecateurWarning, match="'moved' is left dense"):
        tp.pruner.BasePruner(net, EXAMPLE, importance=importance).step()
    assert convolutions(net) == {"fine": 3, "moved": 8}


def test_reconstruction_refuses_what_it_cannot_use() -> None:
    with pytest.raises(DataError, match="a list or a DataLoader, not a generator"):
        ReconstructionImportance(batch for batch in SMALL)
    with pytest.raises(ConfigError, match="did you mean 'ridge'"):
        ReconstructionImportance(SMALL, rigde=1.0)
    unlabelled = ReconstructionImportance([SMALL[0][0]], labels=1.0)
    for importance, message in ((unlabelled, "labels=1.0 reads labels"), (ReconstructionImportance([]), "are empty")):
        with pytest.raises(DataError, match=message):
            importance.scores(Residual())
