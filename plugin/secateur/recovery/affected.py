"""Which layers a pruning plan leaves with other inputs than they had, and which outputs it leaves them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.channel_graph.surgery import layer_size
from secateur.errors import PlanError
from secateur.modes import evaluating, own_copy
from secateur.records import PruningPlan
from secateur.regression import LEFT_OUT, At, Target, layout_of, reason_against, targets_of

Layers = Literal["all", "consumers"]


def layers_to_solve(
    network: nn.Module, plan: PruningPlan, example: Tensor, at: At, layers: Layers
) -> tuple[dict[str, Target], dict[str, str]]:
    """Return the layers to solve for, in the order in which they run, and the consumers that must stay, and why."""
    consumers = consumers_of(network, plan)
    modules = dict(network.named_modules())
    left = {name: why for name in consumers if (why := _reason(network, name))}
    solvable = [name for name, module in modules.items() if not reason_against(module)]
    targets = targets_of(network, example, solvable, at=at)
    owners: dict[int, str] = {}
    for path, parameter in network.named_parameters(remove_duplicate=False):
        name = path.rpartition(".")[0]
        first = owners.setdefault(id(parameter), name)
        if network.get_submodule(first) is not network.get_submodule(name):
            left |= {tied: f"{first} and {name} share their weights" for tied in (first, name) if tied in targets}
    left |= {name: LEFT_OUT for name in consumers if name in solvable and name not in targets and name not in left}
    order = _order_of_calls(network, example, {*targets, *consumers})
    begin = next((place for place, name in enumerate(order) if name in consumers), len(order))
    behind = set(order[begin:]) - set(left)
    todo = {n: t for n, t in targets.items() if n in behind and (layers == "all" or n in consumers)}
    return todo, left


def consumers_of(network: nn.Module, plan: PruningPlan) -> list[str]:
    """Return the layers that read channels which the plan removes.

    Consumers, and what mixes channels on the way: grouped convolutions, attention, recurrent layers.
    """
    found: dict[str, None] = {}
    for group in plan.groups:
        if not plan.removed(group.name):
            continue
        for member in group.members:
            module = None if member.axis is not None else network.get_submodule(member.layer)
            grouped = isinstance(module, _ConvNd) and module.groups > 1
            mixes = (member.role == "producer" and grouped) or isinstance(module, (nn.MultiheadAttention, nn.RNNBase))
            if member.role == "consumer" or mixes:
                found[member.layer] = None
    return list(found)


def kept_outputs(model: nn.Module, pruned: nn.Module, plan: PruningPlan) -> dict[str, Tensor]:
    """Return for each layer that lost outputs which of them it kept."""
    removed: dict[str, set[int]] = {}
    producers = {}
    for group in plan.groups:
        channels = plan.removed(group.name)
        for member in group.members:
            if layer_size(pruned, member) is None:
                raise PlanError(f"the pruned network has no layer {member.layer!r}, of which the plan speaks")
            if member.role == "producer" and channels:
                producers[member.layer] = member
                removed.setdefault(member.layer, set()).update(member.positions(channels))
    kept = {}
    for name, member in producers.items():
        size, found = layer_size(model, member), layer_size(pruned, member)
        kept[name] = torch.tensor([place for place in range(size or 0) if place not in removed[name]])
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


def _order_of_calls(network: nn.Module, example: Tensor, names: Collection[str]) -> list[str]:
    """Return the modules of these names in the order in which they are first called."""
    called: dict[str, None] = {}
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name in names:
                hook = module.register_forward_pre_hook(lambda *_, name=name: called.setdefault(name))
                stack.callback(hook.remove)
        stack.enter_context(evaluating(network))
        stack.enter_context(torch.no_grad())
        network(own_copy(network, example))
    return list(called)


def _reason(network: nn.Module, consumer: str) -> str:
    """Return why a consumer cannot be solved for; the empty string also for what has nothing that could be."""
    modules = dict(network.named_modules())
    if consumer not in modules:
        return "a lone parameter is no layer"
    has_weights = next(modules[consumer].parameters(), None) is not None
    return reason_against(modules[consumer]) if has_weights else ""
