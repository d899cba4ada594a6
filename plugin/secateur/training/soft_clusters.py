"""Soft cluster pruning: filters that are alike become equal while they train, and equal ones are one filter.

After each epoch the filters of a layer are put into clusters, fewer each time, and all filters of a cluster become its
mean; none is removed, so that filters can still part in the next epoch. At the end those of a cluster are equal, and
the layer that reads them can read one of them with the sum of their weights: exactly the same network, smaller.

Of the published system only this is known here: it clusters in each epoch, replaces filters by the mean, goes on
training them, removes at a rate that grows ever more slowly, and adds up inputs at the end. Ours are: k-means from
points that lie far apart (`secateur.criteria.clustering`), the cubic schedule of [Zhu2018]_, that batch norms are
averaged like the filters before them (or equal filters would not give equal maps), and the treatment of layers that a
shortcut joins: they share their clusters.

.. [Zhu2018] M. Zhu, S. Gupta. To prune, or not to prune. ICLR workshop 2018, eq. (1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.batches import Batches, first_inputs
from secateur.channel_graph.surgery import check_groups
from secateur.criteria.clustering import clusters
from secateur.distributed import Across, local
from secateur.errors import ConfigError, DataError, NetworkError, PlanError
from secateur.modes import device_of, evaluating, own_copy
from secateur.precision import HALF, in_single_precision
from secateur.protocols import CostModel
from secateur.records import ChannelGroup, Member, PruningPlan
from secateur.records.groups import narrowed
from secateur.tf32 import without_tf32
from secateur.training.fine_tune import Epoch, History, fine_tune
from secateur.training.recipe import Recipe

Clusters = tuple[tuple[int, ...], ...]
SOFT = Recipe(epochs=10, learning_rate=0.01)


@dataclass(frozen=True)
class SoftClustered:
    """What soft cluster pruning leaves.

    Attributes:
        model: a copy of the dense network as it was trained, in which what reads a cluster reads its first channel
            alone: `apply_plan(model, plan)` computes the same.
        plan: the first channel of every cluster stays.
        clusters: group -> its clusters.
        history: of the training.
    """

    model: nn.Module
    plan: PruningPlan
    clusters: Mapping[str, Clusters]
    history: History


def prune_by_soft_clusters(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    cost: CostModel,
    train: Batches,
    *,
    keep: Mapping[str, int],
    recipe: Recipe = SOFT,
    teacher: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    across: Across = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> SoftClustered:
    """Train a copy of the network in which more and more filters are equal, and merge them without loss.

    Formula: after epoch e of E, group g of width W has W - round((W - keep_g) * (1 - (1 - e / E)^3)) clusters of its
    channels, by the weights of all layers that make them; the weights, biases and batch norms of a cluster's channels
    become their mean. At the end, for the channels j of a cluster c, the readers' weights are w_c <- sum of w_j.

    Args:
        model: the dense network; unchanged.
        groups: the channel groups by name.
        cost: what the plan's budget is counted in.
        train: yields `(inputs, labels)` anew each time it is iterated.
        keep: group -> how many channels stay, such as the widths of a plan for a budget; absent groups keep all.
        recipe: of the training, see `Recipe`; no moving average.
        teacher, checkpoint, across, on_epoch, on_step: see `fine_tune`. No epoch is chosen on validation images: before
            the last one there are more clusters than channels may stay.

    Raises:
        ConfigError: a width out of range, no epoch, or a moving average, in which equal filters are not equal.
        PlanError: an unknown group, or one whose channels are only masked.
        NetworkError: a layer whose channels cannot be merged, or one that mixes them on the way; it is named where it
            is known.
        DataError: an epoch of another number of batches than the length of `train` says. Other errors are those of
            `fine_tune`.

    Cost: that of training, and k-means of every group after each epoch.

    Example:
        >>> from secateur import MacsCost, apply_plan, channel_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 2))
        >>> batches = [(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)] * 4
        >>> groups = channel_groups(net, batches[0][0])
        >>> cost = MacsCost(net, batches[0][0], groups)
        >>> found = prune_by_soft_clusters(net, groups, cost, batches, keep={"0": 2}, recipe=Recipe(epochs=2))
        >>> apply_plan(found.model, found.plan)[0].out_channels, len(found.clusters["0"])
        (2, 2)
    """
    widths = _checked(model, groups, keep, recipe)
    network = copy.deepcopy(local(model))

    steps = per_epoch = 0

    def step(done: int, total: int) -> None:
        nonlocal steps, per_epoch
        steps, per_epoch = done, total // recipe.epochs
        if done % per_epoch == 0 and done <= total:
            rows = {name: _rows(network, groups[name]) for name in widths}
            if not all(bool(torch.isfinite(row).all()) for row in rows.values()):
                return  # for `fine_tune` to say
            for name, width in widths.items():
                count = clusters_after(done // per_epoch, recipe.epochs, groups[name].width, width)
                make_equal(network, groups[name], clusters(rows[name], count))
        if on_step is not None:
            on_step(done, total)

    def ended(epoch: Epoch) -> None:
        if steps and steps != epoch.number * per_epoch:
            raise DataError(
                f"the training images gave another number of batches in epoch {epoch.number} than their length says; "
                "filters become equal after the last one, which must be known beforehand"
            )
        if on_epoch is not None:
            on_epoch(epoch)

    history = fine_tune(
        *(network, train),
        recipe=recipe,
        teacher=teacher,
        checkpoint=checkpoint,
        across=across,
        on_epoch=ended,
        on_step=step,
    )
    found = {name: clusters(_rows(network, groups[name]), width) for name, width in widths.items()}
    inputs = first_inputs(train).to(device_of(network))
    inputs = inputs.float() if inputs.dtype in HALF else inputs
    with without_tf32(), in_single_precision(network), evaluating(network), torch.no_grad():
        before = network(own_copy(network, inputs))
        for name, own in found.items():
            _merge(network, groups[name], own)
        after = network(own_copy(network, inputs))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
        raise NetworkError("equal channels are not read alike: a layer mixes channels between those that share them")
    kept = {name: tuple(sorted(cluster[0] for cluster in own)) for name, own in found.items()}
    settings = {"search": "soft_clusters", "recipe": asdict(recipe) | {"milestones": list(recipe.milestones)}}
    settings["clusters"] = {name: [list(cluster) for cluster in own if len(cluster) > 1] for name, own in found.items()}
    plan = PruningPlan(tuple(groups.values()), kept, cost.name, cost({}), cost(widths), cost(widths), settings=settings)
    return SoftClustered(network, plan, found, history)


def clusters_after(epoch: int, epochs: int, width: int, keep: int) -> int:
    """Return how many clusters a group of `width` channels has after an epoch, of which `keep` are left at the end.

    Example:
        >>> [clusters_after(epoch, 4, 16, 8) for epoch in range(5)]
        [16, 11, 9, 8, 8]
    """
    return width - round((width - keep) * (1 - (1 - epoch / epochs) ** 3))


def check_mergeable(model: nn.Module, group: ChannelGroup) -> None:
    """Refuse a group whose channels cannot be averaged and added up.

    Raises:
        PlanError: its channels are only masked.
        NetworkError: a layer that is neither linear nor a plain convolution nor, on the way, a batch norm, or that has
            only some of the channels.

    Example:
        >>> own = ((0,), (1,))
        >>> group = ChannelGroup("0", 2, (Member("0", "producer", own), Member("1", "carrier", own)))
        >>> check_mergeable(nn.Sequential(nn.Linear(1, 2), nn.GroupNorm(2, 2)), group)
        Traceback (most recent call last):
        secateur.errors.NetworkError: equal channels of '0' cannot be merged behind '1' (GroupNorm); allowed: linear \
layers, convolutions without groups, batch norms
    """
    if group.masked:
        raise PlanError(f"the channels of {group.name!r} are only masked, never removed: they cannot be merged")
    for member in group.members:
        if not all(member.indices):
            raise NetworkError(
                f"channels of {group.name!r} cannot be merged: {member.layer!r} has only some of them, so that they do "
                "not come from the same layers"
            )
        module = model.get_submodule(member.layer) if member.axis is None else None
        plain = isinstance(module, nn.Linear) or (
            isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and module.groups == 1
        )
        if not (plain if member.role != "carrier" else isinstance(module, _BatchNorm)):
            kind = "a parameter" if module is None else type(module).__name__
            raise NetworkError(
                f"equal channels of {group.name!r} cannot be merged behind {member.layer!r} ({kind}); allowed: linear "
                "layers, convolutions without groups, batch norms"
            )


def make_equal(model: nn.Module, group: ChannelGroup, own: Clusters) -> None:
    """Give the channels of each cluster their mean, in place: weights, biases, and all that a batch norm holds of them.

    Example:
        >>> net, own = nn.Linear(1, 2), ((0,), (1,))
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [3.0]]))
        >>> make_equal(nn.Sequential(net), ChannelGroup("0", 2, (Member("0", "producer", own),)), ((0, 1),))
        >>> net.weight.flatten().tolist()
        [2.0, 2.0]
    """
    for member in group.members:
        if member.role == "consumer":
            continue
        module = model.get_submodule(member.layer)
        held = [module.weight, module.bias, getattr(module, "running_mean", None), getattr(module, "running_var", None)]
        for tensor in (t.detach() for t in held if isinstance(t, Tensor)):
            for places in _places(member, own):
                positions = torch.tensor(places, device=tensor.device)
                tensor[positions] = tensor[positions].mean(0)


def _merge(model: nn.Module, group: ChannelGroup, own: Clusters) -> None:
    """Let what reads a cluster read its first channel alone, with the sum of the weights, in place."""
    for member in group.members:
        if member.role != "consumer":
            continue
        weight = model.get_submodule(member.layer).weight
        if not isinstance(weight, Tensor):
            continue
        for places in _places(member, own):
            positions = torch.tensor(places, device=weight.device)
            total = weight.detach()[:, positions].sum(1)
            weight.detach()[:, positions] = 0.0
            weight.detach()[:, places[0]] = total


def _places(member: Member, own: Clusters) -> list[list[int]]:
    """Return, for each cluster of several channels, the positions in a layer that become equal, one by one."""
    found = []
    for cluster in own:
        rows = [member.indices[channel] for channel in cluster]
        found += [list(places) for places in zip(*rows, strict=True)] if len(cluster) > 1 else []
    return found


def _rows(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Return the weights of all layers that make a group's channels, side by side, (width, D)."""
    rows: list[Sequence[Tensor]] = []
    for member in group.producers:
        weight = model.get_submodule(member.layer).weight
        if isinstance(weight, Tensor):
            flat = weight.detach().flatten(1)
            rows.append([flat[list(positions)].flatten() for positions in member.indices])
    return torch.stack([torch.cat(parts) for parts in zip(*rows, strict=True)])


def _checked(
    model: nn.Module, groups: Mapping[str, ChannelGroup], keep: Mapping[str, int], recipe: Recipe
) -> dict[str, int]:
    if recipe.epochs < 1 or recipe.average:
        raise ConfigError(
            f"soft clusters take at least one epoch, and no moving average, where equal filters are not equal; found "
            f"{recipe.epochs} epochs, average {recipe.average}"
        )
    check_groups(local(model), groups)
    widths = narrowed(groups, keep)
    for name in widths:
        check_mergeable(local(model), groups[name])
    return widths
