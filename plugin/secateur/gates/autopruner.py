"""AutoPruner: which channels go is learnt while the network is trained.

.. [Luo2018] Luo, Wu: AutoPruner: An End-to-End Trainable Filter Pruning Method for Efficient Deep Model Inference.
   Pattern Recognition 107, 2020 (arXiv 1805.08941).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.batches import Batches
from secateur.channel_graph.surgery import check_groups
from secateur.distributed import Across, local
from secateur.errors import ConfigError, NetworkError
from secateur.gates.attached import Attached
from secateur.gates.learning import Learning
from secateur.gates.learnt import GateEpoch, Learnt
from secateur.gates.recipe import GateRecipe
from secateur.gates.resuming import GateCheckpoint, epoch_of
from secateur.modes import device_of
from secateur.protocols import CostModel
from secateur.records import ChannelGroup, PruningPlan
from secateur.records.groups import narrowed
from secateur.training.checking import check_data
from secateur.training.random_states import seed_generators

Widths = Mapping[str, int]


@dataclass(frozen=True)
class AutoPruned:
    """What AutoPruner leaves.

    Attributes:
        model: a copy of the dense network with the weights that were trained along; `apply_plan(model, plan)` cuts it.
        plan: the channels that stay; `settings` holds the recipe and what each gate kept.
        gates: group -> what its gate has learnt.
        epochs: what each epoch gave, stage after stage.
    """

    model: nn.Module
    plan: PruningPlan
    gates: Mapping[str, Learnt]
    epochs: tuple[GateEpoch, ...]


def autoprune(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    cost: CostModel,
    train: Batches,
    *,
    keep: float | Widths = 0.5,
    stages: Iterable[Sequence[str]] | None = None,
    project: bool = True,
    recipe: GateRecipe | None = None,
    checkpoint: str | Path | None = None,
    across: Across = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[GateEpoch], None] | None = None,
    **changes: Any,
) -> AutoPruned:
    """Train a copy of the network with a gate for each group of channels, and return it with the plan of its codes.

    Formula: the loss is the cross entropy + the sum over the gates of lambda * (mean of v - r)^2, with v the code of
    `ChannelGate`, r the share to keep, alpha of `AlphaSchedule` and lambda of `Penalty` [Luo2018]_. Every layer that
    reads a group's channels reads them times v, so that coupled layers share one code, and a channel whose v is zero
    can be removed exactly. A channel stays whose v was above one half in most of the last 20 steps.

    Args:
        model: the dense network; unchanged. Gives logits (N, classes).
        groups: the channel groups by name.
        cost: what the plan's budget is counted in.
        train: yields `(inputs, labels)` anew each time it is iterated. A batch of one image is left out.
        keep: the share of every group that should stay, in (0, 1); or widths by group, such as those of a plan for a
            budget. Absent groups take no gate and keep all.
        stages: groups whose gates are trained together, one stage after the other, `recipe.epochs` each, such as
            `[[name] for name in groups]` for layer by layer; None: all at once.
        project: keep exactly the share or the width asked for: of each group the channels kept in most of the last
            steps, then those of the largest v. False keeps what the codes say, but at least one channel.
        recipe: the numbers, see `GateRecipe`; `PRESETS` holds the authors'.
        changes: single numbers in place of the recipe's.
        checkpoint: a file, written after each epoch, from which the same call goes on after a stop, to the same numbers
            as without one (on CUDA as nearly as two trainings are the same, see `secateur.fine_tune`). It stays when
            the training is done, and then is its result.
        across: a process group of torch.distributed: each process gives its share of each batch. The code is made of
            the images of all, so that all have the same one, and the gradient is that of all images. Batch norm
            normalises by the images of its process, see `secateur.fine_tune`. None: this process alone.
        on_step: called after each step with the number of steps done and their total.
        on_epoch: called after each epoch; after a stop also with those that the checkpoint holds.

    Raises:
        ConfigError: `keep` is no share or width, an unknown number, stages that leave a group out or name one twice, a
            precision that the device does not compute in, or called under `torch.inference_mode`.
        PlanError: an unknown group, or one whose channels are only masked.
        NetworkError: a group's channels are read by no layer that could tell which are needed.
        DataError: no images, images of a second size that the gates cannot read, labels that are missing or do not
            fit, or a loss that is not finite, with its step; the checkpoint is then that of the last finished epoch.
        CheckpointError: the checkpoint is of another run (network, recipe, widths, stages, processes), or none at all.
        ProcessError: another process failed, ended, or has other weights; see `secateur.distributed`.

    Cost: that of training, `recipe.epochs` for each stage; a gate has C * C * h * w weights and is run once a batch.

    Example:
        >>> from secateur import MacsCost, apply_plan, channel_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 2))
        >>> batches = [(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)] * 40
        >>> groups = channel_groups(net, batches[0][0])
        >>> found = autoprune(net, groups, MacsCost(net, batches[0][0], groups), batches, keep=0.25)
        >>> len(found.plan["0"]), apply_plan(found.model, found.plan)[0].out_channels
        (2, 2)

    Deviations: the authors read VGG's maps before the max pool, here the layer behind it does. Channels of finished
    stages are multiplied by their zeros, not cut, until the end: the network computes the same. The share is met
    exactly by default; theirs drifts by some points. Of several GPUs, each of theirs has a code of its own, and their
    mean is made binary.
    """
    recipe = (recipe or GateRecipe()).changed(changes)
    widths = _widths(groups, keep)
    order = [list(widths)] if stages is None else [list(names) for names in stages]
    if sorted(name for names in order for name in names) != sorted(widths) or not all(order):
        raise ConfigError(f"the stages must name each group that is gated once: {', '.join(widths)}; found {order}")
    network = copy.deepcopy(local(model))
    check_groups(network, groups)
    example, answers, batches = check_data(network, train, None, precision=recipe.precision, across=across)
    attached = Attached(network, {name: groups[name] for name in widths}, example[:2], recipe)
    saved = GateCheckpoint(checkpoint, model, recipe, widths, order, project=project, across=across)
    learnt, entries = dict[str, Learnt](), saved.epochs

    def stay(gate: Learnt) -> tuple[int, ...]:
        return gate.channels(widths[gate.group] if project else None, parts=groups[gate.group].parts)

    steps, total = recipe.epochs * batches, recipe.epochs * batches * len(order)
    modes = [(module, module.training) for module in network.modules()]
    device = device_of(network)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        seed_generators(recipe.seed, device)
        saved.restore(attached, train)
        if on_epoch is not None:
            for entry in entries:
                on_epoch(epoch_of(entry))
        for stage, names in enumerate(order, 1):
            targets = {name: widths[name] / groups[name].width for name in names}
            learning = Learning(
                *(attached, [*learnt], targets, recipe),
                steps=steps,
                answers=answers,
                ran_on=example.shape[1:],
                across=across,
            )
            finished = [entry for entry in entries if entry["stage"] == stage]
            seen = (stage - 1) * recipe.epochs
            if finished and "learnt" not in finished[-1]:
                saved.restore_stage(learning)
            for number in range(len(finished) + 1, recipe.epochs + 1):
                counted = _counting(on_step, (stage - 1) * steps, total)
                found = learning.epoch(train, stage, number, seen=seen, on_step=counted)
                finished.append(asdict(found))
                if number == recipe.epochs:
                    finished[-1]["learnt"] = [gate.to_json() for gate in learning.learnt().values()]
                entries.append(finished[-1])
                saved.keep(learning, train, entries)
                if on_epoch is not None:
                    on_epoch(found)
            for gate in map(Learnt.from_json, finished[-1]["learnt"]):
                learnt[gate.group] = gate
                attached.gates[gate.group].settle(stay(gate))
    for module, training in modes:
        module.training = training
    network.zero_grad(set_to_none=True)
    kept = {name: stay(gate) for name, gate in learnt.items()}
    settings = {
        "search": "autopruner",
        "recipe": asdict(recipe) | {"alpha": list(recipe.alpha)},
        "project": project,
        "stages": order,
        "learnt": {name: {"kept": g.kept, "target": g.target, "binary": g.binary} for name, g in learnt.items()},
    }
    after = {name: len(channels) for name, channels in kept.items()}
    plan = PruningPlan(tuple(groups.values()), kept, cost.name, cost({}), cost(after), cost(widths), settings=settings)
    return AutoPruned(network, plan, learnt, tuple(map(epoch_of, entries)))


def _widths(groups: Mapping[str, ChannelGroup], keep: float | Widths) -> dict[str, int]:
    """Return how many channels each gated group should keep."""
    if not groups:
        raise NetworkError("the network has no channel group to prune")
    if not isinstance(keep, Mapping):
        if not 0 < keep < 1:
            raise ConfigError(f"keep must be a share in (0, 1) or widths by group; found {keep!r}")
        fewest = {name: min(group.width, len(group.parts)) for name, group in groups.items()}
        return {name: max(fewest[name], round(keep * group.width)) for name, group in groups.items()}
    return narrowed(groups, keep)


def _counting(on_step: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int], None]:
    return (lambda _: None) if on_step is None else (lambda step: on_step(done + step, total))
