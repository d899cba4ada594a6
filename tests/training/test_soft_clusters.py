"""Soft cluster pruning: equal filters merge without loss, at the widths asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import Depthwise, Residual
from references_related import soft_counts
from secateur import MacsCost, apply_plan, channel_groups, prune_by_soft_clusters, verify_pruning
from secateur.criteria.clustering import clusters
from secateur.errors import ConfigError, DataError, NetworkError, PlanError
from secateur.tf32 import tf32_allowed
from secateur.training import Recipe, soft_clusters
from secateur.training.soft_clusters import clusters_after

IMAGES = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES.split(8), (torch.arange(24) % 5).split(8), strict=True))


def setting(network: nn.Module) -> tuple[nn.Module, Any, MacsCost]:
    groups = channel_groups(network.eval(), IMAGES[:2])
    return network, groups, MacsCost(network, IMAGES[:1], groups)


def flat() -> nn.Module:
    """A linear layer that reads four positions of each channel."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(5), nn.Flatten(), nn.Linear(32, 5))
    return nn.Sequential(*layers)


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual()


@pytest.mark.parametrize("build", [flat, residual])
def test_the_merged_network_is_the_trained_one(monkeypatch: pytest.MonkeyPatch, build: Any) -> None:
    network, groups, cost = setting(build())
    before = [value.clone() for value in network.state_dict().values()]
    kept, merge = list[Tensor](), soft_clusters._merge

    def watched(model: nn.Module, *given: Any) -> None:
        assert not tf32_allowed()  # or the sum of some weights would not be what their sum gives
        if not kept:
            kept.append(model.eval()(IMAGES))
        merge(model, *given)

    monkeypatch.setattr(soft_clusters, "_merge", watched)
    keep = {name: max(1, group.width // 2) for name, group in groups.items()}
    recipe = Recipe(epochs=3, learning_rate=0.05)
    found = prune_by_soft_clusters(network, groups, cost, batches(), keep=keep, recipe=recipe)
    assert found.plan.widths == keep == {name: len(own) for name, own in found.clusters.items()}
    pruned = apply_plan(found.model, found.plan).eval()
    torch.testing.assert_close(pruned(IMAGES), kept[0], rtol=1e-4, atol=1e-5)
    verify_pruning(found.model, pruned, found.plan, IMAGES)
    assert all(map(torch.equal, network.state_dict().values(), before))
    assert len(found.history.epochs) == 3
    assert found.plan.cost_after == found.plan.budget == MacsCost(pruned, IMAGES[:1], groups={})({})


def test_the_clusters_become_fewer_epoch_by_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [clusters_after(epoch, 5, 16, 6) for epoch in range(1, 6)] == soft_counts(5, 16, 6)
    asked = list[int]()
    monkeypatch.setattr(soft_clusters, "clusters", lambda rows, count: (asked.append(count), clusters(rows, count))[1])
    network, groups, cost = setting(flat())
    prune_by_soft_clusters(network, groups, cost, batches(), keep={"0": 3}, recipe=Recipe(epochs=4))
    assert asked == [*soft_counts(4, 8, 3), 3]


def test_equal_filters_may_part_again() -> None:
    """In the epoch after, gradients by different readers pull them apart."""
    network, groups, _ = setting(flat())
    soft_clusters.make_equal(network, groups["0"], ((0, 1, 2, 3, 4, 5, 6, 7),))
    assert all(torch.equal(row, network[0].weight[0]) for row in network[0].weight)
    assert all(torch.equal(row, network[1].running_var[0]) for row in network[1].running_var)
    network.train()(IMAGES).square().sum().backward()
    assert not torch.equal(network[0].weight.grad[0], network[0].weight.grad[1])


def test_a_run_that_was_stopped_ends_in_the_same_numbers(tmp_path: Path) -> None:
    network, groups, cost = setting(flat())
    options: dict[str, Any] = {"keep": {"0": 4}, "recipe": Recipe(epochs=4, learning_rate=0.05)}

    def stop(done: int, _total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    whole = prune_by_soft_clusters(network, groups, cost, batches(), **options)
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        prune_by_soft_clusters(network, groups, cost, batches(), checkpoint=file, on_step=stop, **options)
    again = prune_by_soft_clusters(network, groups, cost, batches(), checkpoint=file, **options)
    assert again.plan == whole.plan
    assert all(map(torch.equal, again.model.state_dict().values(), whole.model.state_dict().values()))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_batches_of_another_number_than_they_say_are_refused_after_an_epoch(length: int) -> None:
    class Three(list[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return length

    network, groups, cost = setting(flat())
    ended = list[int]()
    with pytest.raises(DataError, match="another number of batches in epoch 1 than their length says"):
        prune_by_soft_clusters(
            *(network, groups, cost, Three(batches())),
            keep={"0": 1},
            recipe=Recipe(epochs=2),
            on_epoch=lambda epoch: ended.append(epoch.number),
        )
    assert not ended


def test_what_cannot_be_merged_is_refused() -> None:
    network, groups, cost = setting(flat())

    def refused(error: type[Exception], message: str, given: Any = (network, groups, cost), **options: Any) -> None:
        with pytest.raises(error, match=message):
            prune_by_soft_clusters(*given, batches(), **{"keep": {"0": 4}, **options})

    refused(TypeError, "validate", validate=batches())  # an earlier epoch has more clusters than may stay
    refused(ConfigError, "no moving average", recipe=Recipe(average=0.9))
    refused(ConfigError, "at least one epoch", recipe=Recipe(epochs=0))
    refused(PlanError, "no channel group '9'; known: 0", keep={"9": 2})
    refused(ConfigError, "'0' has 8 channels; asked to keep 9", keep={"0": 9})
    refused(ConfigError, "nothing would go", keep={"0": 8})
    depthwise = setting(Depthwise())
    name = next(iter(depthwise[1]))
    refused(NetworkError, r"cannot be merged behind .* \(Conv2d\); allowed", depthwise, keep={name: 2})
    upward = setting(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 5, 3), nn.Flatten()))
    refused(NetworkError, r"cannot be merged behind '2' \(ConvTranspose2d\)", upward)
    masked = channel_groups(residual().eval(), IMAGES[:2], residual="mask")
    stream = next(name for name, group in masked.items() if group.masked)
    refused(PlanError, "only masked", (residual(), masked, cost), keep={stream: 2})


def test_a_training_that_diverges_says_so() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5))
    large = [(100 * IMAGES, torch.arange(24) % 5)]  # of which the first step leaves no filter finite
    for given, train, words in ((flat(), batches(), "the loss is"), (plain, large, "a weight is not finite")):
        network, groups, cost = setting(given)
        with pytest.raises(DataError, match=rf"{words} .*at step [0-9]+ of [0-9]+: training diverged"):
            prune_by_soft_clusters(
                network, groups, cost, train, keep={"0": 4}, recipe=Recipe(epochs=2, learning_rate=3e38)
            )


def test_layers_that_a_shortcut_joins_are_alike_where_all_of_them_are() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
            for layer, rows in ((self.first, [0.0, 0.0, 1.0, 1.0]), (self.second, [0.0, 9.0, 0.0, 9.0])):
                layer.weight.data[:] = torch.tensor(rows)[:, None, None, None]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.first(x) + self.second(x)).mean((2, 3)))

    network, groups, cost = setting(Two())
    (name,) = groups
    recipe = Recipe(epochs=1, learning_rate=1e-6)
    found = prune_by_soft_clusters(network, groups, cost, batches(), keep={name: 2}, recipe=recipe)
    assert found.clusters[name] == ((0, 2), (1, 3))


def test_layers_that_mix_channels_are_found_out() -> None:
    class Mixing(nn.Module):
        def __init__(self, scales: Tensor) -> None:
            super().__init__()
            self.first, self.head, self.scales = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), scales

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = x * self.scales[:, None, None]
            return self.head(torch.relu(x).mean((2, 3)))

    torch.manual_seed(0)
    _, groups, cost = setting(Mixing(torch.ones(1)))
    network = Mixing(torch.arange(1.0, 9.0))  # equal channels are not alike behind it
    with pytest.raises(NetworkError, match="not read alike"):
        prune_by_soft_clusters(network, groups, cost, batches(), keep={"first": 4}, recipe=Recipe(epochs=1))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_merges_as_exactly(kind: torch.dtype) -> None:
    network, groups, cost = setting(flat().to(kind).float())
    network.to(kind)
    half = [(images.to(kind), labels) for images, labels in batches()]
    found = prune_by_soft_clusters(network, groups, cost, half, keep={"0": 4}, recipe=Recipe(epochs=2))
    assert {value.dtype for value in found.model.parameters()} == {kind}
    assert verify_pruning(found.model, apply_plan(found.model, found.plan), found.plan, IMAGES[:2].to(kind))
