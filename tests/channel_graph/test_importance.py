"""Score tables inside Torch-Pruning's pruners."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import nn

from networks_for_tests import Depthwise, Grouped, Residual
from secateur.channel_graph.importance import ScoreImportance
from secateur.errors import SecateurWarning
from secateur.records import ScoreTable

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def first_channels_matter(model: nn.Module) -> ScoreTable:
    """Score channels by their index, backwards: 0 is the most important."""
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return ScoreTable({n: -torch.arange(m.out_channels, dtype=torch.float64) for n, m in convolutions.items()})


@pytest.mark.parametrize(
    ("network", "layer", "kept"),
    [
        (Residual, "stem", [0, 1, 2, 3]),
        (Residual, "first", [0, 1, 2]),
        (Depthwise, "depthwise", [0, 1, 2, 3]),
        (Grouped, "after", [0, 1, 2]),
        (Grouped, "grouped", [0, 1, 4, 5]),
    ],
)
def test_the_lowest_scores_fall(network: type[nn.Module], layer: str, kept: list[int]) -> None:
    net = network()
    dense = net.get_submodule(layer).weight.flatten(1)[:, 0]
    importance = ScoreImportance(first_channels_matter)
    tp.pruner.BasePruner(net, (IMAGES,), importance=importance, pruning_ratio=0.5, ignored_layers=[net.head]).step()
    pruned = net.get_submodule(layer).weight.flatten(1)[:, 0]
    assert torch.equal(pruned, dense[kept])
    assert net(IMAGES).shape == (2, 5)


def test_scores_are_collected_once_per_structure() -> None:
    calls: list[int] = []

    def collect(model: nn.Module) -> ScoreTable:
        calls.append(sum(p.numel() for p in model.parameters()))
        return first_channels_matter(model)

    net = Residual()
    pruner = tp.pruner.BasePruner(
        net,
        (IMAGES,),
        importance=ScoreImportance(collect),
        pruning_ratio=0.5,
        iterative_steps=3,
        ignored_layers=[net.head],
    )
    for _ in range(3):
        pruner.step()
    assert len(calls) == 3
    assert calls == sorted(set(calls), reverse=True)


def test_reset_asks_for_fresh_scores() -> None:
    calls: list[int] = []

    def collect(model: nn.Module) -> ScoreTable:
        calls.append(1)
        return first_channels_matter(model)

    net, importance = Residual(), ScoreImportance(collect)
    importance.scores(net)
    importance.scores(net)
    assert len(calls) == 1
    importance.reset()
    importance.scores(net)
    importance.scores(Residual())
    assert len(calls) == 3


def test_shortcuts_sum_the_scores_of_their_members() -> None:
    net = Residual()
    scores = ScoreTable(
        {"stem": torch.arange(8.0), "second": torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 0]), "first": torch.arange(6.0)}
    )
    importance, dense = ScoreImportance(lambda _: scores), net.stem.weight
    tp.pruner.BasePruner(net, (IMAGES,), importance=importance, pruning_ratio=0.25, ignored_layers=[net.head]).step()
    assert torch.equal(net.stem.weight, dense[[0, 3, 4, 5, 6, 7]])


def test_partial_groups_give_one_score_per_index() -> None:
    net = Residual()
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=(IMAGES,))
    group = graph.get_pruning_group(net.stem, tp.prune_conv_out_channels, [2, 6, 7])
    result = ScoreImportance(first_channels_matter)(group)
    assert result is not None
    assert result.tolist() == [-4.0, -12.0, -14.0]


def test_groups_without_scores_are_named_and_left_dense() -> None:
    net = Residual()
    importance = ScoreImportance(lambda _: ScoreTable({"first": torch.arange(6.0)}))
    with pytest.warns(SecateurWarning, match="'second' is left dense|'stem' is left dense"):
        tp.pruner.BasePruner(net, (IMAGES,), importance=importance, pruning_ratio=0.5, ignored_layers=[net.head]).step()
    assert (net.stem.out_channels, net.first.out_channels) == (8, 3)


def test_the_networks_outputs_stay_unless_asked_for() -> None:
    def score_all(model: nn.Module) -> ScoreTable:
        layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        return ScoreTable({n: torch.arange(len(m.weight), dtype=torch.float64) for n, m in layers.items()})

    for prune_outputs, classes in ((False, 5), (True, 2)):
        net = Residual()
        importance = ScoreImportance(score_all, prune_outputs=prune_outputs)
        tp.pruner.BasePruner(net, (IMAGES,), importance=importance, pruning_ratio=0.5).step()
        assert net(IMAGES).shape == (2, classes)
        assert net.stem.out_channels == 4
