"""NNI's own pruners on channel groups: their masks at stated widths, and the metrics by which they chose.

The pruner is NNI's, and so are its masks; what is said here is the config list (sparse ratios, ties, batch norm, see
`complete_config_list`) and, for pruners that train to collect, the training. It runs on a copy of the network, so that
a pruner that trains leaves the network that is pruned as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.batches import Batches, rebatch
from secateur.channel_graph.tracing import copy_of, differentiable
from secateur.errors import ConfigError, DataError, ScoreError
from secateur.modes import device_of, own_copy
from secateur.protocols import Kept
from secateur.records import ChannelGroup, ChannelGroups, ScoreTable
from secateur_nni.completion import Selection, completed, is_left
from secateur_nni.config_list import Setting
from secateur_nni.evaluators import torch_evaluator
from secateur_nni.host import own_pruner, traced_sgd
from secateur_nni.known_pruners import OWN_PRUNERS, READS_IMAGES, check_own_pruner
from secateur_nni.removal import plan_of_masks

TRACED = 2  # images that the network is traced with


@dataclass(frozen=True)
class OwnChoice:
    """What a pruner of NNI chose.

    Attributes:
        kept: group -> the channels that its masks leave; groups that it was not asked for are absent.
        metrics: layer -> the metric of each of its channels, larger = keep, with the settings criterion, options,
            samples (images really read) and skipped.
    """

    kept: Kept
    metrics: ScoreTable


def own_choice(
    model: nn.Module,
    groups: ChannelGroups,
    widths: Mapping[str, int],
    batches: Batches,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    samples: int = 1280,
) -> OwnChoice:
    """Return which channels a pruner of NNI leaves when each group is to keep a stated number.

    NNI masks int(sparse_ratio * C) channels of a layer, so the ratio that is handed over is (gone + 1/2) / C. Layers
    that fall together share a dependency group, over which NNI averages its metrics. Which of equal metrics go, NNI
    leaves to torch.

    "taylor" and "slim" train to collect. The training here has the learning rate 0 and the network in eval mode:
    Taylor's gradients are then those of the network that is pruned, one step a batch, and Slim learns its scaling
    factors alone, by NNI's own Adam and penalty, going through the images again until it has made its steps.

    Args:
        model: the network, not wrapped; left as it is.
        groups: what `channel_groups` found.
        widths: group -> how many channels stay; groups that keep all are not masked.
        batches: yields `(inputs, labels)`.
        name: a key of `OWN_PRUNERS`.
        options: of the pruner: `training_steps` (Taylor: one a batch; Slim: 50) and, for Slim, `regular_scale`.
        samples: images that are read, by those that read any; the others see two, which the network is traced with.

    Raises:
        ConfigError: as `check_own_pruner`; a width that a group cannot have; or nothing is to go.
        DataError: there are no images, or no labels where they are needed.
        ScoreError: the pruner cannot mask a group (with the reason), or NNI fails.
        PlanError: its masks cannot be removed.

    Cost: a copy of the network, NNI's masks, and a trace; for those that train the passes over the images.

    Example:
        >>> from secateur.channel_graph import channel_groups
        >>> net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), torch.rand(2, 1, 8, 8)
        >>> choice = own_choice(net, channel_groups(net, x), {"0": 3}, [(x, torch.arange(2))], "l1")
        >>> weakest = int(net[0].weight.abs().sum((1, 2, 3)).argmin())
        >>> choice.kept["0"] == tuple(c for c in range(4) if c != weakest)
        True
    """
    check_own_pruner(name, options or {})
    gone = _asked(groups, widths)
    reads = name in READS_IMAGES
    held = [batch for batch in rebatch(batches, None, samples=samples if reads else TRACED) if len(batch[0])]
    if not held:
        raise DataError("there is no image to trace the network with: the batches are empty")
    copied = differentiable(copy_of(model)).eval()
    entries = _entries(copied, gone, name)
    seen: dict[str, Tensor] = {}
    read: set[int] = set()
    try:
        with torch.enable_grad():
            masks = _masks(copied, entries, held, name, dict(options or {}), seen, read)
    except (DataError, ScoreError):
        raise
    except Exception as error:  # NNI's code, on any network
        raise ScoreError(f"{OWN_PRUNERS[name]} of NNI fails: {type(error).__name__}: {error}") from error
    example = held[0][0][:TRACED].to(device_of(model))
    plan = plan_of_masks(model, masks, example, groups=groups)
    images = sum(len(held[batch][0]) for batch in read)
    settings = {"criterion": f"nni:{name}", "options": dict(options or {}), "samples": images, "skipped": {}}
    return OwnChoice(dict(plan.kept), ScoreTable(_by_producer(gone, seen), settings=settings))


def _asked(groups: ChannelGroups, widths: Mapping[str, int]) -> dict[str, tuple[ChannelGroup, int]]:
    """Return the groups that are to lose channels, and how many."""
    gone = {}
    for name, width in widths.items():
        if name not in groups or not 1 <= width <= groups[name].width:
            full = groups[name].width if name in groups else "no"
            raise ConfigError(f"the group {name!r} is to keep {width} channels; it has {full}")
        if groups[name].masked:
            raise ScoreError(f"the channels of {name!r} would be masked layer by layer, which NNI's pruners cannot")
        if width < groups[name].width:
            gone[name] = groups[name], groups[name].width - width
    if not gone:
        raise ConfigError("no group is to lose a channel: NNI would mask nothing")
    return gone


def _entries(model: nn.Module, gone: Mapping[str, tuple[ChannelGroup, int]], name: str) -> list[dict[str, Any]]:
    """Return NNI's config list."""
    ratios = {group: (count + 0.5) / record.width for group, (record, count) in gone.items()}
    if name == "slim":
        return [entry for group, (record, _) in gone.items() for entry in _norms(model, record, ratios[group])]
    chosen = ChannelGroups([record for record, _ in gone.values()])
    entries = completed(model, Selection(chosen, {n: Setting(sparse_ratio=r) for n, r in ratios.items()}))
    named = {layer for entry in entries for layer in entry["op_names"]}
    left = [record.name for record, _ in gone.values() if not any(m.layer in named for m in record.producers)]
    if left:
        raise ScoreError(f"NNI does not know the type of the layers of {', '.join(left)}, and cannot mask them")
    return [entry for entry in entries if not is_left(entry)]


def _norms(model: nn.Module, group: ChannelGroup, ratio: float) -> list[dict[str, Any]]:
    """Return the entries for the batch norms of a group, which Slim masks."""
    norms = []
    for member in group.members:
        module = model.get_submodule(member.layer) if member.axis is None else None
        whole = all(owned == (c,) for c, owned in enumerate(member.indices))
        if isinstance(module, _BatchNorm) and module.affine and whole and module.num_features == group.width:
            norms.append(member.layer)
    if not norms:
        raise ScoreError(f"NNI's SlimPruner masks by batch norm, and {group.name!r} has none of its own")
    tied = {"dependency_group_id": group.name} if len(norms) > 1 else {}
    return [{"op_names": [norm], "sparse_ratio": ratio, **tied} for norm in norms]


def _masks(
    network: nn.Module,
    entries: list[dict[str, Any]],
    held: list[Any],
    name: str,
    options: dict[str, Any],
    seen: dict[str, Tensor],
    read: set[int],
) -> dict[str, dict[str, Tensor | None]]:
    """Return NNI's masks.

    The metrics that it makes them of are put into `seen`, layer -> (C,), and which batches it reads into `read`.
    """
    arguments: dict[str, Any] = {}
    if name in READS_IMAGES:
        if any(labels is None for _, labels in held):
            raise DataError(f"{OWN_PRUNERS[name]} of NNI reads gradients of a loss: the images need labels")
        steps = {"training_steps": len(held) if name == "taylor" else 50}
        arguments = {"evaluator": _evaluator(network, held, read), **steps, **options}
    pruner = own_pruner(OWN_PRUNERS[name])(network, entries, **arguments)
    masks_of = pruner._generate_sparsity

    def watched(metrics: Mapping[str, Mapping[str, Tensor]]) -> Any:
        for layer, targets in metrics.items():
            seen[layer] = targets["weight"].detach().flatten().to("cpu", torch.float64)
        return masks_of(metrics)

    pruner._generate_sparsity = watched
    _, masks = pruner.compress()
    return {layer: dict(targets) for layer, targets in masks.items()}


def _evaluator(network: nn.Module, held: list[Any], read: set[int]) -> Any:
    """Return an evaluator whose training goes through the images and changes no weight of the network.

    The batches that it has gone through are put into `read`.
    """
    device = device_of(network)

    def train(
        model: nn.Module,
        optimizer: Any,
        training_step: Callable[..., Tensor],
        _schedulers: Any,
        max_steps: int | None,
        _max_epochs: int | None,
    ) -> None:
        model.eval()
        for step in range(max_steps or 0):
            optimizer.zero_grad()
            read.add(step % len(held))
            training_step(held[step % len(held)], model).backward()  # type: ignore[no-untyped-call]  # torch's, no types
            optimizer.step()

    def loss(batch: Any, model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(own_copy(model, batch[0])), batch[1].to(device, torch.int64))

    return torch_evaluator(train, traced_sgd(network.parameters(), lr=0.0), loss)


def _by_producer(gone: Mapping[str, tuple[ChannelGroup, int]], seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics under the names of layers that make the channels: Slim's are those of batch norms."""
    found = dict[str, Tensor]()
    for group, _ in gone.values():
        own = {member.layer: seen[member.layer] for member in group.producers if member.layer in seen}
        carried = [seen[member.layer] for member in group.members if member.layer in seen and member.role == "carrier"]
        if not own and carried:
            own = {group.name: torch.stack(carried).mean(0)}
        found |= own
    return found
