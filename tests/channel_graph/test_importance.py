"""Score tables inside Torch-Pruning's pruners."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch_pruning as tp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from networks_for_tests import Depthwise, Grouped, Residual
from secateur import (
    CriterionImportance,
    GradientImportance,
    ReconstructionImportance,
    WeightImportance,
    prune,
    weight_scores,
)
from secateur.channel_graph.importance import ScoreImportance, _told_apart
from secateur.errors import SecateurWarning, StaleScoresError
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
    torch.testing.assert_close(result, torch.tensor([-4.0, -12.0, -14.0], dtype=torch.float64), rtol=1e-8, atol=0)


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


def one_table(value: float = 1.0) -> ScoreTable:
    return ScoreTable({"stem": torch.full((8,), value), "first": torch.full((6,), value)})


@pytest.mark.parametrize("value", [1.0, 0.0, -3.0, 1e30, 1e-30])
def test_equal_scores_fall_evenly_and_exactly_under_global_pruning(value: float) -> None:
    net = Residual()
    importance = ScoreImportance(one_table(value))
    tp.pruner.BasePruner(net, (IMAGES,), importance=importance, global_pruning=True).step()
    assert (net.stem.out_channels, net.first.out_channels) == (4, 3)


@given(st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=40), st.integers(0, 1023))
def test_telling_apart_reorders_nothing(values: list[float], rank: int) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    apart = _told_apart(scores, rank)
    assert len(set(apart.tolist())) == len(values)
    assert apart.argsort().tolist() == scores.argsort(stable=True).tolist()
    torch.testing.assert_close(apart, scores, rtol=1e-8, atol=1e-290)


def test_a_table_of_another_structure_is_never_indexed() -> None:
    net = Residual()
    pruner = tp.pruner.BasePruner(net, (IMAGES,), importance=ScoreImportance(one_table()), iterative_steps=2)
    pruner.step()
    with pytest.raises(StaleScoresError, match="another structure"):
        pruner.step()
    with pytest.raises(StaleScoresError, match="8 scores for layer 'stem', which has 6 channels"):
        ScoreImportance(one_table()).scores(net)
    with pytest.raises(StaleScoresError, match="which has no channels"):
        ScoreImportance(one_table()).scores(Depthwise())


def test_a_table_serves_other_networks_of_its_structure() -> None:
    """As where one network is pruned to several widths, each time from a copy."""
    torch.manual_seed(0)
    network = Residual().eval()
    importance = ScoreImportance(weight_scores(network, "l1"))
    kept = [prune(network, IMAGES, importance, pruning_ratio=ratio).plan.widths["stem"] for ratio in (0.25, 0.5)]
    assert kept[0] > kept[1]


def pickled(importance: ScoreImportance) -> ScoreImportance:
    again: ScoreImportance = pickle.loads(pickle.dumps(importance))  # noqa: S301  # bytes of our own
    return again


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CriterionImportance("variance", [IMAGES]),
        lambda: WeightImportance("l1"),
        lambda: GradientImportance([(IMAGES, torch.arange(2))]),
        lambda: ReconstructionImportance([IMAGES]),
        lambda: ScoreImportance(weight_scores(Residual(), "l1")),
    ],
)
def test_importances_can_be_copied_and_pickled_after_use(
    make: Callable[[], ScoreImportance], copied: Callable[[ScoreImportance], ScoreImportance]
) -> None:
    """As processes of the user's own take them along; the copy collects its scores anew."""
    net, importance = Residual().eval(), make()
    used = prune(net, IMAGES, importance)
    again = copied(importance)
    assert again._table is None
    assert prune(net, IMAGES, again).plan.kept == used.plan.kept
    assert importance._table is not None
