"""HRank and DI in Torch-Pruning's pruners, with nothing else of secateur."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torchvision.models import DenseNet

from cases_for_tests import cases
from importances_for_tests import (
    EXAMPLE,
    IMAGES,
    LABELS,
    LOADER,
    SMALL,
    Counted,
    convolutions,
    linears,
    sizes_as_declared,
)
from networks_for_tests import Residual, torchvision_network
from secateur import CriterionImportance, DIImportance, HRankImportance, collect_scores
from secateur.errors import ConfigError, DataError, SecateurWarning
from secateur.records import Reduction

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision_network("resnet18"),
    "mobilenet_v2": lambda: torchvision_network("mobilenet_v2"),
    "vgg16_bn": lambda: torchvision_network("vgg16_bn"),
    "short densenet": lambda: DenseNet(8, (3, 4, 6, 4), 16, num_classes=10),
}


@pytest.mark.parametrize("build", cases(NETWORKS, thorough=["vgg16_bn"]))
@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")
def test_hrank_halves_every_convolution_and_leaves_linear_layers(build: Callable[[], nn.Module]) -> None:
    net = build()
    before, dense_linears = convolutions(net), linears(net)
    importance = HRankImportance(LOADER, samples=4)
    tp.pruner.BasePruner(net, (IMAGES[:1],), importance=importance, pruning_ratio=0.5).step()
    assert convolutions(net) == {layer: width // 2 for layer, width in before.items()}
    assert linears(net) == dense_linears
    assert sizes_as_declared(net)
    assert net(IMAGES[:2]).shape == (2, 10)


@pytest.mark.parametrize("build", cases(NETWORKS, thorough=["vgg16_bn"]))
def test_di_halves_every_convolution_and_every_hidden_linear_layer(build: Callable[[], nn.Module]) -> None:
    net = build()
    before, dense_linears = convolutions(net), linears(net)
    tp.pruner.BasePruner(net, (IMAGES[:1],), importance=DIImportance(LOADER), pruning_ratio=0.5).step()
    assert convolutions(net) == {layer: width // 2 for layer, width in before.items()}
    assert linears(net) == {layer: width if width == 10 else width // 2 for layer, width in dense_linears.items()}
    assert sizes_as_declared(net)
    assert net(IMAGES[:2]).shape == (2, 10)


def test_hidden_linear_layers_that_hrank_leaves_dense_are_named() -> None:
    images = IMAGES[:4, :, :8, :8]
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 10))
    with pytest.warns(SecateurWarning, match="'2' is left dense"):
        tp.pruner.BasePruner(net, (images[:1],), importance=HRankImportance([images])).step()
    assert (convolutions(net), linears(net)) == ({"0": 4}, {"2": 16, "4": 10})
    assert net[2].in_features == 4 * 36


def test_maps_of_one_pixel_are_left_dense_by_hrank_and_named() -> None:
    net = torchvision_network("resnet18")
    before, small = convolutions(net), IMAGES[:4, :, :32, :32]  # the last stage has maps of 1 x 1
    with pytest.warns(SecateurWarning, match=r"'layer4.*' is left dense"):
        tp.pruner.BasePruner(net, (small[:1],), importance=HRankImportance([small])).step()
    assert convolutions(net) == {
        layer: width if layer.startswith("layer4") else width // 2 for layer, width in before.items()
    }


@pytest.mark.parametrize("importance", [HRankImportance, DIImportance])
@pytest.mark.parametrize(("prune_outputs", "outputs"), [(False, 4), (True, 2)])
def test_outputs_stay_unless_asked_for(importance: Any, prune_outputs: bool, outputs: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    tp.pruner.BasePruner(net, EXAMPLE, importance=importance(SMALL, prune_outputs=prune_outputs)).step()
    assert convolutions(net) == {"0": 4, "2": outputs}


@pytest.mark.parametrize(("importance", "criterion"), [(HRankImportance, "hrank"), (DIImportance, "di")])
def test_scores_are_those_of_collect_scores(importance: Any, criterion: str) -> None:
    net = torchvision_network("resnet18")
    own = importance(LOADER, tap="bn", samples=16).scores(net)
    expected = collect_scores(net, LOADER, criterion, tap="bn", samples=16)
    assert dict(own.settings) == dict(expected.settings)
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[layer], expected[layer]) for layer in expected)


def test_the_lowest_scores_are_what_falls() -> None:
    net = Residual()
    scores, biases = collect_scores(net, SMALL, "di")["first"], net.body_norm.bias.detach().clone()
    stay = sorted(range(6), key=lambda channel: -scores[channel])[:3]
    tp.pruner.BasePruner(net, EXAMPLE, importance=DIImportance(SMALL)).step()
    assert net.body_norm.bias.tolist() == biases[sorted(stay)].tolist()


@pytest.mark.parametrize("reduction", ["sum", "mean", "max"])
def test_group_reduction_combines_the_layers_of_a_shortcut(reduction: Reduction) -> None:
    net = torchvision_network("resnet18")
    table = collect_scores(net, LOADER, "di")
    meeting = ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    rows = [table[layer].tolist() for layer in meeting]
    by_hand = {"sum": sum, "mean": lambda column: sum(column) / len(column), "max": max}[reduction]
    expected = [by_hand(column) for column in zip(*rows, strict=True)]

    graph = tp.DependencyGraph().build_dependency(net, example_inputs=(IMAGES[:1],))
    group = graph.get_pruning_group(net.conv1, tp.prune_conv_out_channels, list(range(64)))
    result = DIImportance(LOADER, group_reduction=reduction)(group)
    assert result is not None
    assert result.tolist() == pytest.approx(expected, rel=1e-12)


def test_partial_groups_get_one_score_for_each_index() -> None:
    net = torchvision_network("densenet121")
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=(IMAGES[:1],))
    layer = "features.denseblock1.denselayer1.conv2"
    group = graph.get_pruning_group(net.get_submodule(layer), tp.prune_conv_out_channels, [2, 17, 30])
    importance = HRankImportance(LOADER, samples=2)
    result = importance(group)
    assert result is not None
    torch.testing.assert_close(result, importance.scores(net)[layer][[2, 17, 30]], rtol=1e-8, atol=1e-290)


def test_three_steps_collect_three_times() -> None:
    net, batches = torchvision_network("resnet18"), Counted(LOADER)
    before = convolutions(net)
    pruner = tp.pruner.BasePruner(
        net,
        (IMAGES[:1],),
        importance=HRankImportance(batches, samples=2),
        pruning_ratio=0.5,
        iterative_steps=3,
    )
    widths = []
    for step in (1, 2, 3):
        pruner.step()
        assert batches.passes == step
        widths.append(convolutions(net)["conv1"])
    assert widths == [53, 42, 32]
    assert convolutions(net) == {layer: width // 2 for layer, width in before.items()}
    assert net(IMAGES[:2]).shape == (2, 10)


def test_pruning_ratio_dict_decides_layer_by_layer() -> None:
    net = Residual()
    tp.pruner.BasePruner(
        net,
        EXAMPLE,
        importance=DIImportance(SMALL),
        pruning_ratio=0.5,
        pruning_ratio_dict={net.first: 1 / 3},
    ).step()
    assert convolutions(net) == {"stem": 4, "first": 4, "second": 4}


def test_round_to_rounds_what_remains_down() -> None:
    """The host's rule: 64 channels less 30 percent are 44, of which 32 are left where multiples of 16 are wanted."""
    net = torchvision_network("resnet18")
    tp.pruner.BasePruner(
        net,
        (IMAGES[:1],),
        importance=HRankImportance(LOADER, samples=2),
        pruning_ratio=0.3,
        round_to=16,
    ).step()
    assert set(convolutions(net).values()) == {32, 80, 176, 352}
    assert net(IMAGES[:2]).shape == (2, 10)


def test_global_pruning_ranks_the_channels_of_all_groups_together() -> None:
    net, importance = Residual(), DIImportance(SMALL)
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=EXAMPLE)
    groups = [
        importance(graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels))))
        for layer in (net.stem, net.first)
    ]
    threshold = torch.cat(groups).sort().values[3]
    tp.pruner.BasePruner(
        net,
        EXAMPLE,
        importance=importance,
        global_pruning=True,
        pruning_ratio=4 / 14,
    ).step()
    left = [int((scores > threshold).sum()) for scores in groups]
    assert (net.stem.out_channels, net.first.out_channels) == tuple(left)
    assert sum(left) == 10


def test_global_pruning_removes_what_was_asked_even_where_all_channels_tie() -> None:
    """The host cuts every channel at or below the threshold, and passes groups by that would lose all of theirs."""

    class Constant:
        name, needs_labels, batch_size, samples, accepts_vectors = "constant", False, None, 4, False

        def init(self, channels: int) -> Tensor:
            return torch.zeros(channels, dtype=torch.float64)

        def update(self, state: Tensor, *_: Any) -> Tensor:
            return state

        def compute(self, state: Tensor) -> Tensor:
            return state

    net = Residual()
    pruner = tp.pruner.BasePruner(
        net,
        EXAMPLE,
        importance=CriterionImportance(Constant(), SMALL),
        global_pruning=True,
    )
    pruner.step()
    assert convolutions(net) == {"stem": 4, "first": 3, "second": 4}


def test_the_host_leaves_eval_mode_and_the_importance_the_mode_it_found() -> None:
    net = Residual().train()
    HRankImportance(SMALL).scores(net)
    assert all(module.training for module in net.modules())
    tp.pruner.BasePruner(net, EXAMPLE, importance=HRankImportance(SMALL)).step()
    assert not any(module.training for module in net.modules())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([IMAGES[:, :, :16, :16]], "reads labels, but the batches hold inputs alone"),
        ([], "the batches are empty"),
        ([(SMALL[0][0], torch.zeros(16).long())], "class"),
        ([(SMALL[0][0] * torch.nan, LABELS)], "NaN"),
    ],
    ids=["no labels", "empty", "one class", "NaN"],
)
def test_bad_data_comes_through_torch_pruning_as_our_error(batches: list[Any], message: str) -> None:
    net = Residual()
    pruner = tp.pruner.BasePruner(net, EXAMPLE, importance=DIImportance(batches))
    with pytest.raises(DataError, match=message):
        pruner.step()
    assert convolutions(net) == {"stem": 8, "first": 6, "second": 8}


@pytest.mark.parametrize("importance", [HRankImportance, DIImportance])
def test_data_that_can_be_read_only_once_is_refused_at_once(importance: Any) -> None:
    with pytest.raises(DataError, match="a list or a DataLoader, not a generator"):
        importance(batch for batch in LOADER)


def test_a_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rho'"):
        DIImportance(LOADER, roh=1.0)
