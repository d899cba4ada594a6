"""AutoPruner: which channels go is learnt while the network is trained.

.. [Luo2018] Luo, Wu: AutoPruner: An End-to-End Trainable Filter Pruning Method for Efficient Deep Model Inference.
   Pattern Recognition 107, 2020 (arXiv 1805.08941).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.batches import Batches, check_repeatable, first_inputs, unpack
from secateur.errors import ConfigError, DataError, NetworkError, PlanError
from secateur.evaluation import check_labels
from secateur.gates.attached import Attached
from secateur.gates.recipe import GateRecipe
from secateur.gates.schedule import SETTLED, AlphaSchedule, Penalty, is_binary
from secateur.modes import device_of
from secateur.protocols import CostModel
from secateur.records import ChannelGroup, PruningPlan

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Learnt:
    """What a gate has learnt.

    Attributes:
        group: whose gate.
        shares: (C,), in which share of the last 20 steps each channel was kept.
        code: (C,), the last v.
        alpha: its scale at the end.
        target: the share of channels asked for.
        kept: the share that the code keeps before any projection.
        binary: whether at least 90% of v lie outside [0.1, 0.9].
    """

    group: str
    shares: Tensor
    code: Tensor
    alpha: float
    target: float
    kept: float
    binary: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "shares": self.shares.tolist(), "code": self.code.tolist()}


@dataclass(frozen=True)
class AutoPruned:
    """What AutoPruner leaves.

    Attributes:
        model: a copy of the dense network with the weights that were trained along; `apply_plan(model, plan)` cuts it.
        plan: the channels that stay; `settings` holds the recipe and what each gate kept.
        gates: group -> what its gate has learnt.
        losses: the mean cross entropy of each epoch, stage after stage, in nats.
    """

    model: nn.Module
    plan: PruningPlan
    gates: Mapping[str, Learnt]
    losses: tuple[float, ...]


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
    on_step: Callable[[int, int], None] | None = None,
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
        on_step: called after each step with the number of steps done and their total.

    Raises:
        ConfigError: `keep` is no share or width, an unknown number, or stages that leave a group out or name one twice.
        PlanError: an unknown group, or one whose channels are only masked.
        NetworkError: a group's channels are read by no layer that could tell which are needed.
        DataError: no images, labels that are missing or do not fit, or a loss that is not finite, with its step.

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
    exactly by default; theirs drifts by some points.
    """
    recipe = (recipe or GateRecipe()).changed(changes)
    widths = _widths(groups, keep)
    order = [list(widths)] if stages is None else [list(names) for names in stages]
    if sorted(name for names in order for name in names) != sorted(widths):
        raise ConfigError(f"the stages must name each group that is gated once: {', '.join(widths)}; found {order}")
    check_repeatable(train)
    network = copy.deepcopy(model)
    attached = Attached(network, {name: groups[name] for name in widths}, first_inputs(train)[:2], recipe)
    learnt, kept, losses = dict[str, Learnt](), dict[str, tuple[int, ...]](), list[float]()
    steps = recipe.epochs * (len(train) if isinstance(train, Sized) else sum(1 for _ in train))
    modes = [(module, module.training) for module in network.modules()]
    with torch.enable_grad():
        for number, names in enumerate(order):
            targets = {name: widths[name] / groups[name].width for name in names}
            stage = _Stage(attached, [*learnt, *names], targets, recipe, steps=steps)
            done, total = number * steps, steps * len(order)
            for _ in range(recipe.epochs):
                losses.append(stage.epoch(train, None if on_step is None else _shifted(on_step, done, total)))
            for name, found in stage.learnt().items():
                learnt[name] = found
                kept[name] = _chosen(found, widths[name] if project else None)
                attached.gates[name].settle(kept[name])
    for module, training in modes:
        module.training = training
    network.zero_grad(set_to_none=True)
    settings = {
        "search": "autopruner",
        "recipe": asdict(recipe) | {"alpha": list(recipe.alpha)},
        "project": project,
        "stages": order,
        "learnt": {name: {"kept": g.kept, "target": g.target, "binary": g.binary} for name, g in learnt.items()},
    }
    after = {name: len(channels) for name, channels in kept.items()}
    plan = PruningPlan(tuple(groups.values()), kept, cost.name, cost({}), cost(after), cost(widths), settings=settings)
    return AutoPruned(network, plan, learnt, tuple(losses))


class _Stage:
    """Some gates in training, together with the network, and the gates that are done."""

    def __init__(
        self, attached: Attached, active: Sequence[str], targets: Mapping[str, float], recipe: GateRecipe, *, steps: int
    ) -> None:
        self._attached, self._active, self._recipe, self._steps, self._step = attached, active, recipe, steps, 0
        self._targets = targets
        self._alphas = {name: AlphaSchedule(recipe, steps=steps, keep=r) for name, r in targets.items()}
        self._penalties = {name: Penalty(recipe, keep=r) for name, r in targets.items()}
        self._network, self._device = attached.network, device_of(attached.network)
        gates = [p for name in targets for p in attached.gates[name].parameters()]
        self._parameters = [p for p in self._network.parameters() if p.requires_grad] + gates
        self._optimizer = torch.optim.SGD(
            self._parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

    def epoch(self, train: Batches, on_step: Callable[[int], None] | None) -> float:
        """Take a step on each batch; return the mean cross entropy over the images."""
        total, images = 0.0, 0
        self._network.train()
        with self._attached.attached(self._active):
            for batch in train:
                inputs, labels = unpack(batch)
                if len(inputs) > 1:
                    total += self._update(inputs.to(self._device), labels) * len(inputs)
                    images += len(inputs)
                self._step += 1
                if on_step is not None:
                    on_step(self._step)
        if not images:
            raise DataError("there is no batch of at least two images to train on")
        return total / images

    def _update(self, inputs: Tensor, labels: Tensor | None) -> float:
        recipe, gates = self._recipe, self._attached.gates
        late = self._step >= self._steps * 2 / 3
        for settings in self._optimizer.param_groups:
            settings["lr"] = recipe.learning_rate / (10 if late else 1)
        for name, alpha in self._alphas.items():
            gates[name].alpha = alpha(self._step)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            outputs = self._network(inputs)
        outputs = outputs.float()
        entropy = functional.cross_entropy(outputs, check_labels(labels, outputs))
        codes = {name: self._attached.codes[name] for name in self._targets}
        loss = entropy + torch.stack([self._penalties[name](code) for name, code in codes.items()]).sum()
        value = entropy.item()
        if not math.isfinite(loss.item()):
            raise DataError(
                f"the loss is {loss.item()} at step {self._step + 1} of {self._steps}: training diverged; a learning "
                f"rate below {recipe.learning_rate} may help"
            )
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._look_back({name: code.detach() for name, code in codes.items()})
        return value

    def _look_back(self, codes: Mapping[str, Tensor]) -> None:
        """Let the schedules see the codes of this step."""
        last_epoch = self._step >= self._steps * (1 - 1 / self._recipe.epochs)
        unsettled = last_epoch and any(not is_binary(code, *SETTLED) for code in codes.values())
        for name, code in codes.items():
            penalty, alpha = self._penalties[name], self._alphas[name]
            penalty.remember(self._step, code)
            alpha.watch(self._step, code, penalty.kept)
            if unsettled:
                alpha.hurry()

    def learnt(self) -> dict[str, Learnt]:
        """Return what the gates of this stage have learnt."""
        found = {}
        for name, target in self._targets.items():
            penalty, code = self._penalties[name], self._attached.codes[name].detach()
            mean = code.view(-1, code.shape[-1]).mean(0).cpu()
            alpha = self._attached.gates[name].alpha
            found[name] = Learnt(name, penalty.shares.cpu(), mean, alpha, target, penalty.kept, is_binary(code))
        return found


def _widths(groups: Mapping[str, ChannelGroup], keep: float | Widths) -> dict[str, int]:
    """Return how many channels each gated group should keep."""
    if not groups:
        raise NetworkError("the network has no channel group to prune")
    if not isinstance(keep, Mapping):
        if not 0 < keep < 1:
            raise ConfigError(f"keep must be a share in (0, 1) or widths by group; found {keep!r}")
        return {name: max(1, round(keep * group.width)) for name, group in groups.items()}
    for name, width in keep.items():
        if name not in groups:
            raise PlanError(f"no channel group {name!r}; known: {', '.join(groups)}")
        if not 1 <= width <= groups[name].width:
            raise ConfigError(f"the group {name!r} has {groups[name].width} channels; asked to keep {width}")
    narrower = {name: width for name, width in keep.items() if width < groups[name].width}
    if not narrower:
        raise ConfigError("keep leaves every group as wide as it is: there is nothing to learn")
    return narrower


def _chosen(found: Learnt, width: int | None) -> tuple[int, ...]:
    """Return the channels that stay: what the code says, at least one, or exactly `width` of the most often kept."""
    count = max(1, int((found.shares > 0.5).sum())) if width is None else width
    by_code = torch.argsort(found.code, descending=True, stable=True)
    best = by_code[torch.argsort(found.shares[by_code], descending=True, stable=True)]
    return tuple(sorted(best[:count].tolist()))


def _shifted(on_step: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    return lambda step: on_step(done + step, total)
