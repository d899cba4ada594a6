"""The two ways in which HRank's authors train: layer after layer, each with its channels gone, or once at the end.

The paper's code masks one layer, trains the whole network, masks the next one, and so on [Lin2020]_. Its successor
removes everything at once and trains a single time [HRankPlus]_: `fine_tune(apply_plan(model, plan), ...)` with
`HRANK_PLUS`, after `restart_batch_norm` to be true to it.

.. [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, and its published code.
.. [HRankPlus] The code published later by the authors of [Lin2020]_ as HRankPlus.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.batches import Batches
from secateur.channel_graph import apply_plan
from secateur.channel_graph.masks import silence
from secateur.channel_graph.surgery import check_fits
from secateur.distributed import local
from secateur.errors import PlanError
from secateur.records import PruningPlan
from secateur.training.fine_tune import History, fine_tune
from secateur.training.recipe import Recipe

_PLAIN: dict[str, Any] = {"nesterov": False, "schedule": "steps"}
HRANK = Recipe(epochs=30, learning_rate=0.01, weight_decay=5e-4, milestones=(5, 10), **_PLAIN)
"""One round of the layer-by-layer schedule, for CIFAR-10 in batches of 128; the script's own default is 15 epochs."""
HRANK_PLUS = Recipe(epochs=150, learning_rate=0.01, weight_decay=5e-4, milestones=(50, 100), **_PLAIN)
"""HRankPlus's single training for CIFAR-10, in batches of 256."""
HRANK_PLUS_IMAGENET = Recipe(
    epochs=90,
    learning_rate=0.1,
    weight_decay=1e-4,
    label_smoothing=0.1,
    warmup_epochs=5,
    milestones=(30, 60, 80),
    **_PLAIN,
)
"""HRankPlus's single training for ImageNet, in batches of 64."""
CLR_RNF = HRANK_PLUS.revised({"weight_decay": 5e-3})
"""CLR-RNF's training for CIFAR-10, in batches of 256: ten times the weight decay of the others."""
FILTER_SKETCH = HRANK_PLUS
"""FilterSketch's training for CIFAR-10, in batches of 128."""
AUTOPRUNER = Recipe(epochs=30, learning_rate=0.001, weight_decay=1e-4, milestones=(10, 20), **_PLAIN)
"""What follows AutoPruner's gates in VGG-16 and ResNet-50 on ImageNet, in batches of 256."""


@dataclass(frozen=True)
class Round:
    """One training of the layer-by-layer schedule: the groups whose channels went before it, and what it did."""

    groups: tuple[str, ...]
    history: History


def prune_layer_by_layer(
    model: nn.Module,
    plan: PruningPlan,
    train: Batches,
    validate: Batches | None = None,
    *,
    recipe: Recipe = HRANK,
    rounds: Sequence[Sequence[str]] | None = None,
    checkpoints: str | Path | None = None,
    on_round: Callable[[Round], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    **options: Any,
) -> tuple[nn.Module, tuple[Round, ...]]:
    """Return the pruned network, trained after each group of channels that it loses, and what each training did.

    Rule: for each round, mask the channels of its groups that go, train the whole network with a new optimizer while
    all masks so far are put on again after each step, and go on from the best epoch. At last the masked channels are
    removed, which changes nothing any more.

    Args:
        model: the dense network, which is left as it is.
        plan: which channels go; scores are not made anew in between.
        train, validate: as in `fine_tune`; the epoch of each round is chosen on validation images.
        recipe: of each round, its seed raised by one from round to round.
        rounds: the groups that each round masks; None: one a round, those that lose channels, in the plan's order.
            The published schedule for ResNet-50 masks the three convolutions of a block before it trains.
        checkpoints: a folder with a checkpoint of each round, from which the same call goes on after a stop.
        on_round: called after each round.
        on_step: called after each step of a round with the number of its steps done and their total.
        options: further arguments of `fine_tune`: teacher, across.

    Raises:
        PlanError: a round names no group of the plan, or one a second time, or groups that lose channels are in none;
            or see `apply_plan`. Other errors are those of `fine_tune`.

    Cost: as many trainings as there are rounds; masking costs little. With `checkpoints` a file a round.

    Example:
        >>> import torch
        >>> from secateur.channel_graph import channel_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> groups = channel_groups(net, torch.zeros(2, 1, 8, 8))
        >>> plan = PruningPlan(tuple(groups.values()), {"0": (1, 2)}, "macs", 1.0, 0.5, 0.5)
        >>> images = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]
        >>> pruned, rounds = prune_layer_by_layer(net, plan, images, recipe=Recipe(epochs=1))
        >>> pruned[0].out_channels, [done.groups for done in rounds]
        (2, [('0',)])

    Deviations from the code of [Lin2020]_: the best epoch is chosen on validation images, not on the test images; the
    mask lies on the layers that read a channel (of masked groups, on those that write it), not on its filter and batch
    norm, and is there before the first step; the rounds go by channel groups.
    """
    groups = {group.name: group for group in plan.groups}
    losing = [name for name in groups if plan.removed(name)]
    steps = [(name,) for name in losing] if rounds is None else [tuple(names) for names in rounds]
    check_fits(local(model), plan)
    _check_rounds([name for names in steps for name in names], losing, groups)
    network = copy.deepcopy(local(model))
    masked: dict[str, tuple[int, ...]] = {}
    done: list[Round] = []

    def mask(*step: int) -> None:
        silence(network, groups, masked)
        if step and on_step is not None:
            on_step(step[0], step[1])

    for number, names in enumerate(steps):
        masked.update({name: plan[name] for name in names})
        mask()
        history = fine_tune(
            *(network, train, validate),
            recipe=recipe.revised({"seed": recipe.seed + number}),
            checkpoint=None if checkpoints is None else Path(checkpoints) / f"round-{number + 1:03}.safetensors",
            on_step=mask,
            **options,
        )
        done.append(Round(names, history))
        if on_round is not None:
            on_round(done[-1])
    return apply_plan(network, plan), tuple(done)


def _check_rounds(named: list[str], losing: list[str], known: Any) -> None:
    for name in named:
        if name not in known:
            raise PlanError(f"rounds name the group {name!r}, which the plan does not have; it has {', '.join(known)}")
        if named.count(name) > 1:
            raise PlanError(f"rounds name the group {name!r} more than once")
    if left := [name for name in losing if name not in named]:
        raise PlanError(f"the plan removes channels of {', '.join(left)}, which are in no round")


def restart_batch_norm(model: nn.Module) -> int:
    """Give every batch norm in `model` its initial scale, shift and statistics, in place; return how many there are.

    HRankPlus trains so: it copies filters into the pruned network and no batch norm. Everything else in secateur copies
    them exactly.

    Args:
        model: about to be trained.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(2))
        >>> _ = nn.init.constant_(net[0].weight, 3.0)
        >>> restart_batch_norm(net), net[0].weight.tolist()
        (1, [1.0, 1.0])
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_parameters()
    return len(norms)
