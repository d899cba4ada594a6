"""What two processes are asked to do where sums over all images are needed: scores, batch norm, searches."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from processes_for_tests import images, network, share
from secateur import (
    MacsCost,
    MaskedAccuracy,
    channel_groups,
    collect_scores,
    greedy_plan,
    recalibrate_batch_norm,
    reconstruction_scores,
)
from secateur.criteria import criterion
from secateur.scoring import scores_by_name


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
