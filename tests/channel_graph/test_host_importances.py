"""Torch-Pruning's own importances by name: their numbers, and what is refused in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from networks_for_tests import ConcatTwice, Grouped, Residual
from secateur.channel_graph import HOST_IMPORTANCES, channel_groups, host_importance, host_importance_scores
from secateur.channel_graph.host_importances import BROKEN
from secateur.errors import ConfigError, DataError, ScoreError

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 5
BATCHES = [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]


@pytest.fixture
def network() -> nn.Module:
    return Residual().eval()


def as_pruner_scores(network: nn.Module, importance: Any) -> dict[str, Tensor]:
    """What Torch-Pruning's own pruner would rank by: layer of the root -> scores."""
    network = copy.deepcopy(network)
    images, labels = IMAGES, LABELS
    nn.functional.cross_entropy(network(images), labels).backward()
    pruner = tp.pruner.BasePruner(network, (images[:2],), importance=importance, ignored_layers=[network.head])
    names = {module: name for name, module in network.named_modules()}
    groups = pruner.DG.get_all_groups(ignored_layers=[network.head], root_module_types=[nn.Conv2d, nn.Linear])
    return {names[group[0].dep.target.module]: pruner.estimate_importance(group) for group in groups}


@pytest.mark.parametrize(
    ("build", "name", "options"),
    [(Residual, name, {}) for name in sorted({*HOST_IMPORTANCES} - {"random"})]
    + [(Grouped, "magnitude", {}), (Grouped, "taylor", {"normalizer": None})],
)
def test_scores_are_those_that_its_own_pruner_ranks_by(
    build: Callable[[], nn.Module], name: str, options: dict[str, Any]
) -> None:
    """It averages those of channels that a grouped convolution ties together when it has ranked by them."""
    network = build().eval()
    groups = channel_groups(network, IMAGES[:2])
    table = host_importance_scores(network, groups, BATCHES, name, options=options)
    expected = as_pruner_scores(network, host_importance(name, **options))
    assert {*table} == {*groups}
    for group in groups.values():
        (own,) = [values for layer, values in expected.items() if layer in {m.layer for m in group.producers}]
        assert torch.allclose(table[group.name], own.double().reshape(-1, group.width).mean(0), rtol=1e-4)
    assert table.settings["samples"] == (12 if name == "taylor" else 0)
    assert table.settings["skipped"] == {}


def test_groups_that_it_has_no_scores_for_are_told() -> None:
    masked = channel_groups(Residual().eval(), IMAGES[:2], residual="mask")
    table = host_importance_scores(Residual().eval(), masked, BATCHES, "magnitude")
    assert {*table} == {"first"}
    assert {*table.settings["skipped"].values()} == {"Torch-Pruning has no masked groups"}
    unnormalised = Grouped().eval()
    table = host_importance_scores(unnormalised, channel_groups(unnormalised, IMAGES[:2]), BATCHES, "bn-scale")
    assert {*table.settings["skipped"].values()} == {"Torch-Pruning's importance has no scores for it"}


def test_fpgm_measures_distances_between_squares_of_weights() -> None:
    """Of Torch-Pruning 1.6, told wherever it is compared: filters that differ in their signs alone are one to it."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    first, second = network.get_parameter("0.weight").detach(), network.get_parameter("2.weight").detach()
    table = host_importance_scores(network, channel_groups(network, IMAGES[:2]), BATCHES, "fpgm")
    rows = (first.flatten(1) ** 2, second.transpose(0, 1).flatten(1) ** 2)
    distances = [torch.tensor([sum(float((a - b).norm()) for b in own) for a in own]) for own in rows]
    expected = (distances[0] + distances[1]) / 2
    assert torch.allclose(table["0"], (expected / expected.mean()).double(), rtol=1e-4)


def test_random_depends_on_the_seed_alone(network: nn.Module) -> None:
    groups = channel_groups(network, IMAGES[:2])
    before = torch.random.get_rng_state()
    first, again, other = (
        host_importance_scores(network, groups, BATCHES, "random", seed=seed)["stem"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_network_stays_as_it_was(network: nn.Module) -> None:
    network.train()
    before = copy.deepcopy(network.state_dict())
    host_importance_scores(network, channel_groups(network, IMAGES[:2]), BATCHES, "taylor", samples=5)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training


def test_options_reach_its_class(network: nn.Module) -> None:
    groups = channel_groups(network, IMAGES[:2])
    tables = [host_importance_scores(network, groups, BATCHES, "magnitude", options={"p": p}) for p in (1, 2)]
    assert not torch.allclose(tables[0]["first"], tables[1]["first"])


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_does_not_work_there_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used: in Torch-Pruning 1\.6"):
        host_importance(name)


@pytest.fixture
def traced() -> tuple[nn.Module, Callable[[Sequence[int]], Any]]:
    """Two convolutions with the gradients of a loss, and Torch-Pruning's group of the first by its channels."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    nn.functional.cross_entropy(network(IMAGES), LABELS).backward()
    graph = tp.DependencyGraph().build_dependency(network, (IMAGES[:2],))
    return network, lambda idxs: graph.get_pruning_group(network[0], tp.prune_conv_out_channels, idxs=list(idxs))


@pytest.mark.parametrize("name", ["taylor", "magnitude", "fpgm", "lamp"])
def test_of_torch_pruning_taylor_alone_mixes_up_channels_in_another_order(traced: Any, name: str) -> None:
    """Once Taylor's scores follow the order too, they need not be refused."""
    _, group = traced
    ordered, reversed_ = (host_importance(name)(group(idxs)) for idxs in (range(6), range(5, -1, -1)))
    assert ordered is not None
    assert reversed_ is not None
    assert torch.allclose(ordered, reversed_) is (name != "taylor")
    assert torch.allclose(ordered, reversed_.flip(0)) is (name == "taylor")


def test_of_torch_pruning_hessian_keeps_the_last_image_alone(traced: Any) -> None:
    """Once all are kept, "hessian" can leave `BROKEN`."""
    network, _ = traced
    importance = tp.importance.GroupHessianImportance()
    importance.zero_grad()
    for loss in nn.functional.cross_entropy(network(IMAGES[:8]), LABELS[:8], reduction="none"):
        network.zero_grad()
        loss.backward(retain_graph=True)
        importance.accumulate_grad(network)
    weight = network[0].weight
    assert importance._counter[weight] == 1
    assert torch.equal(importance._accu_grad[weight], weight.grad**2)


def test_of_torch_pruning_obdc_fails_on_convolutions(traced: Any) -> None:
    """Once it does not, "obdc" can leave `BROKEN`."""
    network, _ = traced
    importance = tp.importance.OBDCImportance(num_classes=5)
    pruner = tp.pruner.BasePruner(network, (IMAGES[:2],), importance=importance)
    with pytest.raises(TypeError):
        importance._prepare_model(network, pruner)


def test_of_torch_pruning_activation_reads_the_last_batch_alone(traced: Any) -> None:
    """Once it reads all, "activation" can leave `BROKEN`."""
    network, group = traced
    importance, scores = tp.pruner.importance.ActivationImportance(), []
    for batches in ([IMAGES[:4], IMAGES[4:]], [IMAGES[4:]], [IMAGES[:4]]):
        with torch.no_grad(), importance.compute_importance(network):
            for batch in batches:
                network(batch)
        scores.append(importance(group(range(6))))
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


def test_bad_input(network: nn.Module) -> None:
    groups = channel_groups(network, IMAGES[:2])
    with pytest.raises(ConfigError, match=r"no importance 'magnitud' here; allowed: magnitude, bn-scale"):
        host_importance("magnitud")
    with pytest.raises(ConfigError, match=r"has no option .q.; it takes p, group_reduction, normalizer, bias"):
        host_importance("fpgm", q=2)
    with pytest.raises(ConfigError, match="options do not fit LAMPImportance"):
        host_importance("lamp", normalizer="mean")
    with pytest.raises(DataError, match="no image"):
        host_importance_scores(network, groups, [], "magnitude")
    with pytest.raises(DataError, match="need labels"):
        host_importance_scores(network, groups, [IMAGES], "taylor")
    for samples in (0, -1, 2.5):
        with pytest.raises(ConfigError, match=f"samples is {samples}; it must be a whole number, at least 1"):
            host_importance_scores(network, groups, BATCHES, "taylor", samples=samples)


def test_channels_in_another_order_are_refused_of_taylor_alone() -> None:
    """The layer behind a concatenation of a map with itself reads its channels in another order than they are made."""
    network = ConcatTwice().eval()
    groups = channel_groups(network, IMAGES[:2])
    with pytest.raises(ScoreError, match=r"'second .*' the scores of others"):
        host_importance_scores(network, groups, BATCHES, "taylor")
    assert {*host_importance_scores(network, groups, BATCHES, "magnitude")} == {*groups}


def test_its_failure_is_told_in_a_line(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("index 6 is out of bounds")

    monkeypatch.setattr(tp.pruner.importance.GroupMagnitudeImportance, "__call__", fail)
    with pytest.raises(ScoreError, match=r"GroupMagnitudeImportance of Torch-Pruning fails: RuntimeError: index 6"):
        host_importance_scores(network, channel_groups(network, IMAGES[:2]), BATCHES, "magnitude")


def test_labels_of_any_whole_type_and_none_beyond_the_classes(network: nn.Module) -> None:
    groups = channel_groups(network, IMAGES[:2])
    tables = [host_importance_scores(network, groups, [(IMAGES, kind)], "taylor") for kind in (LABELS, LABELS.int())]
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in groups)
    with pytest.raises(DataError, match="the cross entropy failed: IndexError"):
        host_importance_scores(network, groups, [(IMAGES, LABELS + 9)], "taylor")
