"""What the tests of compensation share: plans of random scores, and errors measured by hooks of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from secateur import PruningPlan, apply_plan, channel_groups
from secateur.channel_graph import Residual


def random_plan(
    model: nn.Module, example: Tensor, *, keep: float = 0.6, residual: Residual = "joint", seed: int = 0
) -> PruningPlan:
    """Return a plan that keeps a share of the channels of every group, drawn at random."""
    groups = channel_groups(model, example, residual=residual)
    random = torch.Generator().manual_seed(seed)
    kept = {
        name: tuple(sorted(torch.randperm(group.width, generator=random)[: max(1, round(keep * group.width))].tolist()))
        for name, group in groups.items()
    }
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)


def plan_without(model: nn.Module, example: Tensor, removed: dict[str, Iterable[int]]) -> PruningPlan:
    """Return the plan that removes some channels of some groups."""
    groups = channel_groups(model, example)
    kept = {name: tuple(c for c in range(groups[name].width) if c not in gone) for name, gone in removed.items()}
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)


def pruned_by(model: nn.Module, plan: PruningPlan) -> tuple[nn.Module, nn.Module]:
    """Return the pruned network, and a copy of it to compare with."""
    pruned = apply_plan(model, plan).eval()
    return pruned, copy.deepcopy(pruned)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Return which tensors of a network are not what they were, bit for bit."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def error(model: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the squared error of a network's outputs, as a share of their variance over the images."""
    with torch.no_grad():
        wanted, found = model(images).double(), other(images).double()
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def randomise(model: nn.Module) -> nn.Module:
    """Give every norm and layer scale numbers of its own."""
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()
