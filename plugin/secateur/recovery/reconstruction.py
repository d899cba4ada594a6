"""Which channels go, chosen when the layer that reads them comes to its turn, and the best weights for those that stay.

`compensate` mends a choice that was made on the dense network. Here the choice is made on the network as it has become:
layers are walked through in the order in which they run, and where one reads channels of which the plan removes some,
those go without which it can best do (`secateur.criteria.reconstruction`), judged on what it now reads and on what its
target still lacks. Then its weights are solved for, as in `secateur.recovery.compensation`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from secateur.batches import Batches, hold
from secateur.channel_graph import apply_plan
from secateur.channel_graph.masks import silence
from secateur.channel_graph.surgery import check_fits, zero_masked
from secateur.criteria.reconstruction import cheapest_first
from secateur.modes import device_of, unwrapped
from secateur.records import ChannelGroup, Member, PruningPlan
from secateur.recovery.affected import layers_to_solve
from secateur.recovery.compensation import check_settings
from secateur.recovery.fits import Compensation, LayerFit, fit_of
from secateur.recovery.walk import OnLayer, Step, walk
from secateur.regression import (
    At,
    NormalEquations,
    Target,
    layout_of,
    readings_of,
    warn_of_few_rows,
    weight_rows,
)
from secateur.regression.live import drop, spread, unknowns_of


@dataclass(frozen=True)
class Reconstructed:
    """A pruned network, the plan that tells what it kept, and what solving for its layers brought."""

    model: nn.Module
    plan: PruningPlan
    compensation: Compensation


def reconstruct(
    model: nn.Module,
    plan: PruningPlan,
    batches: Batches,
    *,
    samples: int = 1000,
    rows: int = 80_000,
    ridge: float = 1e-2,
    target: At = "sum",
    memory: int = 2**31,
    on_layer: OnLayer | None = None,
) -> Reconstructed:
    """Prune `model` to the widths of `plan`, choosing the channels layer by layer, and compensate on the way.

    Formula: `secateur.criteria.reconstruction` for the choice, with the targets of `compensate` and errors weighted by
    the gain of the batch norm behind; then W' of `compensate` for what is left.

    Chosen anew are the channels that a single layer reads. Those that several layers read (residual streams,
    concatenations), or one whose D x D equations do not fit in memory, stay as the plan has them: how the later readers
    will look is not known yet when the first comes to its turn. The last channel that a layer has does not go.

    Args:
        model: the dense network; left as it is.
        plan: how many channels each group keeps, and which of those that are not chosen anew.
        batches, samples, rows, ridge, target, memory, on_layer: as in `compensate`.

    Returns:
        The pruned network, its plan (with setting "selection": "reconstruction" and no ties in the groups that were
        chosen anew), and the layers' errors.

    Raises:
        ConfigError, PlanError, DataError: as `compensate`.

    Warns:
        SecateurWarning: a layer has fewer rows than unknowns.

    Cost: that of `compensate` on the dense network, and D^3 operations for each layer that chooses.

    Example:
        >>> from secateur import ParameterCost, ScoreTable, channel_groups, uniform_plan
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(8, 3, 12, 12)
        >>> groups = channel_groups(net, images)
        >>> scores, cost = ScoreTable({"0": torch.arange(8.0)}), ParameterCost(net, groups)
        >>> plan = uniform_plan(groups, scores, cost, "70%", round_to=1)
        >>> done = reconstruct(net, plan, [images])
        >>> done.model[0].out_channels == done.plan.widths["0"] == plan.widths["0"]
        True

    Deviations: a normalisation over channels (layer norm, group norm) sees the removed channels until all are chosen.
    """
    check_settings(samples, rows, ridge)
    model = unwrapped(model)
    check_fits(model, plan)
    images, _ = hold(batches, samples=samples, memory=memory)
    room = memory - sum(batch.nbytes for batch in images)
    work = copy.deepcopy(model)
    todo, left = layers_to_solve(work, plan, images[0][:2].to(device_of(work)), target, "all")
    groups = {group.name: group for group in plan.groups}
    kept = {name: plan[name] for name in groups}
    readers = {name: reader for name, group in groups.items() if (reader := _only_reader(group, plan, todo))}
    live = {name: torch.ones(layout_of(work.get_submodule(name))[:2], dtype=torch.bool) for name in todo}
    for name in groups.keys() - readers.keys():
        _remove(work, groups[name], kept[name], live)
    fits: list[LayerFit] = []
    for step in walk(model, work, todo, images, rows=rows, memory=room, on_layer=on_layer):
        module = work.get_submodule(step.layer)
        before = weight_rows(module)
        for name in (name for name, reader in readers.items() if reader.layer == step.layer):
            if isinstance(step.equations, NormalEquations):
                equations = step.equations.shifted(before)  # of all that its outputs should be
                kept[name] = _choose(
                    equations,
                    step.target,
                    module,
                    readers[name],
                    len(kept[name]),
                    live[step.layer],
                    ridge,
                    groups[name].parts,
                )
            else:
                left[name] = "its reader's equations do not fit in memory: its channels are those of the plan"
            _remove(work, groups[name], kept[name], live)
        _solve(step, module, before - weight_rows(module), live[step.layer], ridge, fits)
        zero_masked(work, plan)
    warn_of_few_rows({fit.layer: (fit.rows, fit.unknowns) for fit in fits})
    done = replace(
        plan,
        kept=kept,
        ties={name: ties for name, ties in plan.ties.items() if kept[name] == plan[name]},
        settings={**plan.settings, "selection": "reconstruction"},
    )
    return Reconstructed(apply_plan(work, done), done, Compensation(tuple(fits), left, sum(map(len, images))))


def _only_reader(group: ChannelGroup, plan: PruningPlan, todo: Mapping[str, Target]) -> Member | None:
    """Return the one layer that reads the channels of a group, if it can choose among them."""
    readers = [member for member in group.members if member.role == "consumer"]
    enough = len(group.parts) <= len(plan[group.name]) < group.width
    return readers[0] if len(readers) == 1 and readers[0].layer in todo and enough else None


def _choose(
    equations: NormalEquations,
    target: Target,
    module: nn.Module,
    reader: Member,
    keep: int,
    live: Tensor,
    ridge: float,
    parts: Collection[Collection[int]],
) -> tuple[int, ...]:
    """Return the channels that a layer had best keep, by the equations of what its outputs should be."""
    readings = readings_of(equations, module, target, reader, live=live)
    gone = cheapest_first(readings, ridge=ridge, keep=keep, parts=parts)
    return tuple(sorted({*range(len(reader.indices))} - {*gone}))


def _remove(network: nn.Module, group: ChannelGroup, kept: Sequence[int], live: Mapping[str, Tensor]) -> None:
    """Make the readers of a group deaf to the channels that are not kept, and note which unknowns are gone."""
    silence(network, {group.name: group}, {group.name: kept})
    gone = {*range(group.width)} - {*kept}
    for member in group.members:
        if member.role == "consumer" and member.layer in live:
            drop(live[member.layer], network.get_submodule(member.layer), member, gone)


def _solve(step: Step, module: nn.Module, lost: Tensor, live: Tensor, ridge: float, fits: list[LayerFit]) -> None:
    """Give a layer the best weights for its live unknowns, in place, now that `lost` has been taken from them."""
    unknowns = unknowns_of(live).to(lost.device)
    found = step.solve(module, ridge=ridge, equations=step.equations.shifted(lost).taking(unknowns))
    if bool(found.before.any()):
        step.put(module, spread(found.weight, unknowns, lost), found.intercept)
    fits.append(fit_of(step, found))
