"""Which layers a pruning plan leaves with other inputs than they had, and which outputs it leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.errors import PlanError
from secateur.records import PruningPlan
from secateur.regression import At, Target, layout_of, reason_against, targets_of

Layers = Literal["all", "consumers"]


def layers_to_solve(
    network: nn.Module, plan: PruningPlan, example: Tensor, at: At, layers: Layers
) -> tuple[dict[str, Target], dict[str, str]]:
    """Return the layers to solve for, in the order in which they run, and the consumers that must stay, and why."""
    consumers = consumers_of(network, plan)
    modules = dict(network.named_modules())
    left = {name: why for name in consumers if (why := _reason(name, modules))}
    solvable = [name for name, module in modules.items() if not reason_against(module)]
    targets = targets_of(network, example, solvable, at=at)
    owners: dict[int, str] = {}
    for name in targets:
        weight = modules[name].weight
        first = owners.setdefault(id(weight), name)
        if first != name:
            left[name] = left[first] = f"{first} and {name} share their weights"
    left |= {
        name: "no forward pass calls it as a layer" for name in consumers if name not in targets and name not in left
    }
    order = list(targets)
    begin = next((place for place, name in enumerate(order) if name in consumers), len(order))
    todo = {n: targets[n] for n in order[begin:] if n not in left and (layers == "all" or n in consumers)}
    return todo, left


def consumers_of(network: nn.Module, plan: PruningPlan) -> list[str]:
    """Return the layers that read channels which the plan removes: consumers, and grouped convolutions on the way."""
    found: dict[str, None] = {}
    for group in plan.groups:
        if not plan.removed(group.name):
            continue
        for member in group.members:
            module = None if member.axis is not None else network.get_submodule(member.layer)
            grouped = isinstance(module, _ConvNd) and module.groups > 1
            if member.role == "consumer" or (member.role == "producer" and grouped):
                found[member.layer] = None
    return list(found)


def kept_outputs(model: nn.Module, pruned: nn.Module, plan: PruningPlan) -> dict[str, Tensor]:
    """Return for each layer that lost outputs which of them it kept."""
    removed: dict[str, set[int]] = {}
    for group in plan.groups:
        channels = plan.removed(group.name)
        for member in group.producers if channels else ():
            removed.setdefault(member.layer, set()).update(member.positions(channels))
    kept = {}
    for name, gone in removed.items():
        size = outputs_of(model.get_submodule(name))
        kept[name] = torch.tensor([place for place in range(size) if place not in gone])
        found = outputs_of(pruned.get_submodule(name))
        if found != len(kept[name]):
            raise PlanError(
                f"the plan leaves {len(kept[name])} channels of {name!r}, the pruned network has {found}: "
                "it was not pruned by this plan"
            )
    return kept


def outputs_of(module: nn.Module) -> int:
    """Return how many outputs a convolution or linear layer has."""
    layout = layout_of(module)
    return layout.blocks * layout.outputs


def _reason(name: str, modules: Mapping[str, nn.Module]) -> str:
    return reason_against(modules[name]) if name in modules else "a lone parameter is no layer"
