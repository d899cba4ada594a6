"""Searches that are told more than scores and a budget: stated rates, a shallow network's plan, all weights at once.

None of them evaluates. They are found out about before any work is done, with scores that mean nothing, and again with
the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.channel_map import with_channel_maps
from secateur.cost import LayerRecord, record_layers
from secateur.errors import ConfigError, NetworkError, PlanError
from secateur.protocols import CostModel
from secateur.records import ChannelGroup, ChannelGroups, PruningPlan, ScoreTable
from secateur.scoring.weights import as_rows, weight_of
from secateur.search import (
    PUBLISHED_RATES,
    Stage,
    convolution_cost,
    cross_layer_plan,
    distilled_plan,
    rate_plan,
    stages_of,
)
from secateur_cli.inputs.sources import network_factory
from secateur_cli.plan_file import read_plan
from secateur_cli.settings.config import resolve
from secateur_cli.settings.plan_schema import PlanConfig, Search, ShallowConfig
from secateur_cli.settings.schema import NetworkConfig

PRESCRIBED: tuple[Search, ...] = ("rates", "distilled", "cross_layer")


@dataclass(frozen=True)
class Shallow:
    """The plan of a shallow network, and where in that network its groups stand."""

    plan: PruningPlan
    stages: Mapping[str, Stage]


def read_shallow_plan(config: ShallowConfig, folder: Path) -> PruningPlan:
    """Return the plan of a shallow network. Raises PlanError: there is none, or it is malformed."""
    try:
        return read_plan(resolve(config.plan, folder))
    except PlanError as error:
        raise PlanError(f"plan.shallow.plan: {error}") from error


def read_shallow(config: PlanConfig, example: Tensor, folder: Path) -> Shallow | None:
    """Return what a search is to distil; None where it has nothing to.

    Args:
        config: the section `plan` of the configuration.
        example: a batch (N, C, H, W) that the shallow network runs on as well.
        folder: relative paths and modules are looked up there.

    Raises:
        PlanError: there is no plan, it is malformed, or it is another network's than the one that is built.
        ConfigError, NetworkError: that network cannot be built, or does not run on the example.
    """
    if config.shallow is None:
        return None
    plan = read_shallow_plan(config.shallow, folder)
    settings = NetworkConfig(build=config.shallow.build, arguments=config.shallow.arguments)
    network = network_factory(settings, folder)().eval()
    try:
        layers = record_layers(network, example)
    except NetworkError as error:
        raise NetworkError(f"plan.shallow.build: {error}") from error
    modules = dict(with_channel_maps(network, example).named_modules())
    foreign = [member.layer for group in plan.groups for member in group.producers if member.layer not in modules]
    if foreign:
        raise PlanError(
            f"plan.shallow: the plan {config.shallow.plan} prunes {foreign[0]!r}, which {config.shallow.build} does "
            "not have: they are not of one network"
        )
    return Shallow(plan, stages_of({group.name: group for group in plan.groups}, layers))


@dataclass(frozen=True)
class Setting:
    """What these searches read beside the scores: the network, its groups, the costs with their budgets, a seed."""

    model: nn.Module
    example: Tensor
    groups: ChannelGroups
    costs: Sequence[CostModel]
    budgets: Mapping[str, str | float]
    shallow: Shallow | None
    seed: int = 0


def prescribed_plan(search: Search, config: PlanConfig, scores: ScoreTable, given: Setting) -> PruningPlan:
    """Return the plan of one of the searches `PRESCRIBED`.

    Rates are never rounded to `round_to`: they state the widths. Those with a name round as the published code does.
    By cross_layer each group is a unit, with the weights of the layers that make its channels, and their cost or, by
    `unit_cost: block`, also that of the layers that read them.

    Raises:
        SecateurError: as the search; errors about its own keys begin with their names.
    """
    if search == "rates":
        return _by_rates(config, scores, given)
    layers = record_layers(given.model, given.example)
    arguments = (given.groups, scores, given.costs, given.budgets)
    if search == "distilled":
        if given.shallow is None:
            raise ConfigError("search: distilled needs the key plan.shallow")
        try:
            return distilled_plan(
                *arguments,
                teacher=given.shallow.plan,
                stages=stages_of(given.groups, layers),
                teacher_stages=given.shallow.stages,
                round_to=config.round_to,
                min_keep=config.min_keep,
            )
        except PlanError as error:
            raise PlanError(f"plan.shallow: {error}") from error
    return cross_layer_plan(
        *arguments,
        weights={name: _weights(given.model, group) for name, group in given.groups.items()},
        unit_costs={name: _cost(given.model, group, layers, config) for name, group in given.groups.items()},
        exponent=config.exponent,
        round_to=config.round_to,
        min_keep=config.min_keep,
    )


def _by_rates(config: PlanConfig, scores: ScoreTable, given: Setting) -> PruningPlan:
    rates = config.rates or {}
    published = PUBLISHED_RATES.get(rates) if isinstance(rates, str) else None
    try:
        return rate_plan(
            given.groups,
            scores,
            given.costs,
            rates if published is None else published.rates,
            budget=given.budgets,
            mode="secateur" if published is None else "hrank",
            min_keep=config.min_keep,
            variant=config.variant[0],
            seed=given.seed,
        )
    except ConfigError as error:
        raise ConfigError(f"plan.rates: {error}") from error


def _cost(model: nn.Module, group: ChannelGroup, layers: Mapping[str, LayerRecord], config: PlanConfig) -> float:
    """Return what a group's unit costs, by `convolution_cost`."""
    members = {member.layer for member in group.producers}
    if config.unit_cost == "block":
        members |= {member.layer for member in group.members if member.role == "consumer"}
    return sum(
        convolution_cost(
            layer.inputs // layer.groups,
            layer.outputs,
            kernel=layer.kernel,
            positions=round(layer.positions),
            bias=model.get_submodule(layer.name).bias is not None,
        )
        for layer in (layers[name] for name in sorted(members))
    )


def _weights(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Return the weights of the layers that make a group's channels, side by side: (width, ...)."""
    rows = []
    for member in group.producers:
        module = model.get_submodule(member.layer)
        weight = as_rows(module, weight_of(module)).detach().flatten(1)
        owned = [weight[list(positions)].flatten() for positions in member.indices]
        if len({len(row) for row in owned}) > 1:
            raise ConfigError(
                f"the channels of the group {group.name!r} own different numbers of the filters of {member.layer!r}, "
                "so that their weights cannot be ranked together; plan.ignore leaves the layer as it is"
            )
        rows.append(torch.stack(owned))
    return torch.cat(rows, 1)
