"""What two processes are asked to do where they train one network: all weights, gates, clusters, layer by layer."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from processes_for_tests import images, network
from secateur import MacsCost, autoprune, channel_groups, fine_tune, prune_by_soft_clusters
from secateur.networks import digits_resnet
from secateur.records import PruningPlan
from secateur.training import Recipe, prune_layer_by_layer

TRAINED = 24  # images of a batch of all processes


def trained() -> nn.Module:
    """A network without batch norm, which normalises by the images of its process alone."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(*layers)


def batches_of(rank: int, size: int, *, uneven: bool = False) -> list[tuple[Tensor, Tensor]]:
    """The share of one of `size` processes of each batch; uneven: two thirds for the first of two."""
    inputs, labels = images()
    parts = []
    for batch in zip(inputs.split(TRAINED), labels.split(TRAINED), strict=True):
        cut = [TRAINED * 2 // 3, TRAINED // 3] if uneven and size == 2 else [TRAINED // size] * size
        parts.append(tuple(tensor.split(cut)[rank] for tensor in batch))
    return parts


def train(rank: int, size: int, uneven: bool = False, checkpoint: str | None = None, stop: int | None = None) -> Any:
    """Return the losses, the accuracies and all weights."""
    model, across = trained(), dist.group.WORLD if size > 1 else None
    own, judges = batches_of(rank, size, uneven=uneven), batches_of(rank, size)

    def step(done: int, _total: int) -> None:
        if done == stop:
            raise InterruptedError

    settings: dict[str, Any] = {"epochs": 6, "learning_rate": 0.3, "clip_norm": 1.0, "average": 0.5}
    history = fine_tune(model, own, judges, across=across, checkpoint=checkpoint, on_step=step, **settings)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    return [e.loss for e in history.epochs], [e.accuracy for e in history.epochs], weights


def train_with_batch_norm(rank: int) -> Any:
    """Return the losses and the state; the first batch norm reads the images themselves."""
    model = nn.Sequential(nn.BatchNorm2d(3), network())
    history = fine_tune(model, batches_of(rank, 2), epochs=3, across=dist.group.WORLD)
    return [e.loss for e in history.epochs], {name: t.tolist() for name, t in model.state_dict().items()}


def train_badly(rank: int, fault: str) -> Any:
    """One of two processes has a batch too many, a label too high, or another learning rate; or all diverge."""
    batches, changes = batches_of(rank, 2), {"learning_rate": 0.1}
    if fault == "batches" and rank == 1:
        batches = batches[:1]
    if fault == "labels" and rank == 1:
        batches[1] = (batches[1][0], batches[1][1] + 70)
    if fault == "diverges":
        changes = {"learning_rate": 1e30}
    if fault == "network":
        return fine_tune(network(seed=rank), batches, across=dist.group.WORLD)
    return fine_tune(trained(), batches, epochs=3, across=dist.group.WORLD, **changes)


def die_while_training(rank: int) -> Any:
    """Process 1 ends after its third step, while the other waits for its part of the gradient."""

    def step(done: int, _total: int) -> None:
        if rank == 1 and done == 3:
            os._exit(1)

    return fine_tune(trained(), batches_of(rank, 2), epochs=9, across=dist.group.WORLD, on_step=step)


def gated() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3)
    layers = (first, nn.GroupNorm(2, 8), nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(6, 5))


def learn_gates(
    rank: int, size: int, changes: dict[str, Any], checkpoint: str | None = None, stop: int | None = None
) -> Any:
    """Return the codes, the channels that stay, the losses and all weights."""
    model, across = gated(), dist.group.WORLD if size > 1 else None
    groups = channel_groups(model, images()[0][:2])
    cost = MacsCost(model, images()[0][:1], groups)

    def step(done: int, _total: int) -> None:
        if done == stop:
            raise InterruptedError

    batches = batches_of(rank, size, uneven=True) * 6
    settings: dict[str, Any] = {"epochs": 3, "learning_rate": 0.05, "checkpoint": checkpoint, "across": across}
    found = autoprune(model, groups, cost, batches, keep=0.5, on_step=step, **settings | changes)
    weights = torch.cat([p.detach().flatten() for p in found.model.parameters()]).tolist()
    codes = {name: gate.code.tolist() for name, gate in found.gates.items()}
    return codes, dict(found.plan.kept), [epoch.loss for epoch in found.epochs], weights


def learn_gates_badly(rank: int, fault: str) -> Any:
    """One of two processes has a batch too few; or all diverge; or one ends."""
    changes: dict[str, Any] = {"learning_rate": 1e30 if fault == "diverges" else 0.05, "epochs": 1}
    model, batches = gated(), batches_of(rank, 2) * (1 + (fault == "batches" and rank == 0))
    groups = channel_groups(model, images()[0][:2])
    return autoprune(
        model, groups, MacsCost(model, images()[0][:1], groups), batches, across=dist.group.WORLD, **changes
    )


def merge_clusters(rank: int, size: int) -> Any:
    """Return the clusters and all weights."""
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    across = dist.group.WORLD if size > 1 else None
    groups = channel_groups(model, images()[0][:2])
    cost, recipe = MacsCost(model, images()[0][:1], groups), Recipe(epochs=3, learning_rate=0.3)
    found = prune_by_soft_clusters(
        model, groups, cost, batches_of(rank, size), keep={"0": 3}, recipe=recipe, across=across
    )
    return found.clusters, torch.cat([p.detach().flatten() for p in found.model.parameters()]).tolist()


def prune_layers_of_wrapped(rank: int) -> tuple[int, list[float]]:
    """Return the width of the layer that was pruned, and all weights."""
    model, data = digits_resnet(), [(torch.rand(4, 1, 8, 8), torch.arange(4) + rank)]
    groups = channel_groups(model, data[0][0])
    plan = PruningPlan(tuple(groups.values()), {"layer1.0.conv1": (1, 2, 5)}, "macs", 1.0, 0.5, 0.5)
    wrapped, dense = (nn.parallel.DistributedDataParallel(network) for network in (model, digits_resnet()))
    pruned, _ = prune_layer_by_layer(
        *(wrapped, plan, data),
        recipe=Recipe(epochs=1, feature_weight=1.0),
        teacher=dense,
        across=dist.group.WORLD,
    )
    weights = torch.cat([p.detach().flatten() for p in pruned.parameters()])
    return pruned.get_submodule("layer1.0.conv1").out_channels, weights.tolist()
