"""Two processes of one gloo group, and what they are asked to do in the tests.

A process of its own must be able to import what it runs: so it stands here, not in the tests.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from networks_for_tests import Residual
from secateur import (
    MacsCost,
    MaskedAccuracy,
    accuracy,
    autoprune,
    channel_groups,
    collect_scores,
    fine_tune,
    greedy_plan,
    prune_by_soft_clusters,
    recalibrate_batch_norm,
    reconstruction_scores,
)
from secateur.criteria import criterion
from secateur.distributed import jointly, part_of
from secateur.networks import digits_resnet
from secateur.records import PruningPlan
from secateur.scoring import scores_by_name
from secateur.training import Recipe, prune_layer_by_layer
from started_for_tests import forkserver

IMAGES = 48


class Processes:
    """Processes that stay, one worker pool each, joined by a file in a folder; `run` runs a function in all of them."""

    def __init__(self, folder: Path, *, size: int = 2) -> None:
        forks, meeting = forkserver(), f"file://{folder / 'meet'}"
        self._pools = [
            ProcessPoolExecutor(1, mp_context=forks, initializer=_join, initargs=(rank, size, meeting))
            for rank in range(size)
        ]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what `function(rank, *arguments)` gives in each process, or the exception that it raises."""
        futures = [pool.submit(function, rank, *arguments) for rank, pool in enumerate(self._pools)]
        return [future.exception(timeout=60) or future.result() for future in futures]


def _join(rank: int, size: int, meeting: str) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=timeout)


def network(*, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Residual().eval()


def images() -> tuple[Tensor, Tensor]:
    """Images, and labels that the network gives to most of them."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(IMAGES, 3, 8, 8, generator=generator)
    with torch.no_grad():
        labels = network()(inputs).argmax(1)
    labels[::5] = torch.arange(len(labels[::5])) % 5
    return inputs, labels


def share(rank: int, shares: str = "even", *, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    """The batches of one of two processes: every second image, or one in eight and the others, or none and all."""
    inputs, labels = images()
    everything = torch.arange(IMAGES)
    own = {
        "even": everything % 2 == rank,
        "uneven": (everything % 8 == 0) == (rank == 0),
        "empty": torch.full((IMAGES,), rank == 0),
        "halves": everything // (IMAGES // 2) == rank,
        "none": torch.full((IMAGES,), False),
    }[shares]
    return list(zip(inputs[own].split(size), labels[own].split(size), strict=True)) if own.any() else []


# What they are asked to do


def find_accuracy(rank: int, shares: str) -> float:
    return accuracy(network(), share(rank, shares), across=dist.group.WORLD)


def find_accuracy_of_wrapped(rank: int, shares: str) -> float:
    wrapped = nn.parallel.DistributedDataParallel(network())
    return accuracy(wrapped, share(rank, shares), across=dist.group.WORLD)


def find_accuracy_of_different_networks(rank: int) -> float:
    return accuracy(network(seed=rank), share(rank), across=dist.group.WORLD)


def find_accuracy_of_different_structures(rank: int) -> float:
    return accuracy(nn.Sequential(network(), nn.Linear(5, 5 + rank)), share(rank), across=dist.group.WORLD)


def fail_and_go_on(rank: int) -> tuple[str, float]:
    """Process 1 has a label that no output belongs to; then all is well."""
    inputs, labels = images()
    if rank == 1:
        labels[3] = 77
    try:
        accuracy(network(), [(inputs, labels)], across=dist.group.WORLD)
    except Exception as error:
        return f"{type(error).__name__}: {error}", find_accuracy(rank, "even")
    return "nothing", 0.0


def find_something_else(rank: int) -> Any:
    if rank == 0:
        return accuracy(network(), share(rank), across=dist.group.WORLD)
    return collect_scores(network(), share(rank), across=dist.group.WORLD)


def die(rank: int) -> list[int]:
    if rank == 1:
        os._exit(1)
    return jointly(lambda: rank, dist.group.WORLD, what="the ranks")


def dawdle(rank: int) -> list[int]:
    impatient = dist.new_group(timeout=timedelta(seconds=1))
    if rank == 1:
        time.sleep(3)
        return []
    return jointly(lambda: rank, impatient, what="the ranks")


def find_ranks(rank: int) -> list[int]:
    return jointly(lambda: 10 * rank, dist.group.WORLD, what="the ranks")


def send_what_cannot_be_sent(rank: int) -> list[Any]:
    return jointly(lambda: (lambda: None) if rank == 1 else rank, dist.group.WORLD, what="functions")


def ask_a_group_of_others(rank: int) -> list[int]:
    others = dist.new_group([0])
    return jointly(lambda: rank, others, what="the ranks")


def find_parts(rank: int, samples: int, batch_size: int | None) -> int:
    return part_of(samples, dist.group.WORLD, batch_size=batch_size)


def find_scores(rank: int, name: str, shares: str, options: dict[str, Any], samples: int | None = None) -> Any:
    rule = criterion(name, **options)
    return collect_scores(network(), share(rank, shares), rule, samples=samples, across=dist.group.WORLD).to_json()


def find_scores_by_name(rank: int, name: str, shares: str, options: dict[str, Any]) -> Any:
    model = network()
    groups = channel_groups(model, images()[0][:2])
    batches = share(rank, shares)
    return scores_by_name(model, batches, name, options=options, groups=groups, across=dist.group.WORLD).to_json()


def find_scores_without_labels(rank: int) -> Any:
    """Process 1 has none, process 0 has."""
    model, batches = network(), share(rank)
    groups = channel_groups(model, images()[0][:2])
    if rank == 1:
        batches = [inputs for inputs, _ in batches]
    return reconstruction_scores(model, groups, batches, labels=0.5, across=dist.group.WORLD)


def recalibrate(rank: int, shares: str, size: int) -> Any:
    """Return the statistics of every batch norm, and how many images they were taken from."""
    model = network()
    count = recalibrate_batch_norm(model, share(rank, shares, size=size), across=dist.group.WORLD)
    return count, {name: buffer.tolist() for name, buffer in model.named_buffers()}


def recalibrate_what_adds_up_by_itself(rank: int) -> int:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    return recalibrate_batch_norm(model, share(rank), across=dist.group.WORLD)


def find_scores_of_sizes(rank: int, sizes: tuple[int, int]) -> Any:
    inputs = torch.randn(8, 3, sizes[rank], sizes[rank])
    return collect_scores(network(), [inputs], "variance", across=dist.group.WORLD)


def find_scores_by_different_options(rank: int) -> Any:
    rule = criterion("di", rho=0.1 + rank, batch_size=8)
    return collect_scores(network(), share(rank), rule, across=dist.group.WORLD)


def find_scores_of_a_layer_that_one_has(rank: int) -> Any:
    layers = ["stem" if rank == 0 else "nosuch"]
    return collect_scores(network(), share(rank), layers=layers, across=dist.group.WORLD)


class Last:
    """A criterion whose state, the last map, does not add up."""

    name, needs_labels, batch_size, samples, accepts_vectors = "last", False, None, 100, False

    def init(self, channels: int) -> Tensor:
        return torch.zeros(channels, dtype=torch.float64)

    def update(
        self,
        state: Tensor,
        feature_maps: Tensor,
        labels: Tensor | None,  # noqa: ARG002  # callers pass labels to every criterion alike
    ) -> Tensor:
        return 0 * state + feature_maps[-1].double().mean((1, 2))

    def compute(self, state: Tensor) -> Tensor:
        return state


def find_scores_by_what_does_not_add_up(rank: int) -> Any:
    return collect_scores(network(), share(rank), Last(), across=dist.group.WORLD)


def search(rank: int, shares: str) -> dict[str, Any]:
    return plan_of([relabelled(inputs) for inputs, _ in share(rank, shares)], across=dist.group.WORLD)


def search_and_let_go(rank: int) -> bool:
    """Return whether a group of its own is gone once it was searched with and destroyed, without garbage collection."""
    group = dist.new_group()
    there = weakref.ref(group)
    gc.collect()
    gc.disable()
    try:
        plan_of([relabelled(inputs) for inputs, _ in share(rank)], across=group)
        dist.destroy_process_group(group)
        del group
        return there() is None
    finally:
        gc.enable()


def searched() -> nn.Module:
    """Three layers to cut, channels of different ranks, and classes that all occur."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(*pair, 3, padding=1), nn.ReLU()) for pair in itertools.pairwise((3, 8, 8, 8))]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    with torch.no_grad():
        for layer in layers:
            layer[0].weight *= 2.5  # which keeps the signal strong
        model[-1].bias -= model(images()[0]).mean(0)
    return model


def relabelled(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs with the classes that the network gives them that is searched."""
    with torch.no_grad():
        return inputs, searched()(inputs).argmax(1)


def plan_of(batches: list[tuple[Tensor, Tensor]], *, across: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """A whole greedy search: groups, scores, cost, evaluation and plan."""
    model, (inputs, _) = searched(), images()
    groups = channel_groups(model, inputs[:2])
    scores = collect_scores(model, batches, "hrank", layers=list(groups), across=across)
    evaluate = MaskedAccuracy(model, groups, batches, across=across)
    cost = MacsCost(model, inputs[:1], groups)
    return greedy_plan(groups, scores, cost, "50%", evaluate, delta=0.02, round_to=1).to_json()


# Training

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
