"""Prune by any Torch-Pruning importance, with exact counts and nothing left out in silence.

Torch-Pruning's pruner decides well about which channels fall together, but some of its selections surprise: with global
ranking all channels that tie at the threshold go, and a layer that lies wholly below it stays dense; rounding can take
a layer to zero, which leaves it dense; `max_pruning_ratio` is looked at before a step and not after; a network with
frozen weights is not pruned at all; the network is left in eval mode; a bare tensor as example is first unpacked along
its batch. `prune` takes the graph and the surgery from Torch-Pruning and makes the selection itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor, nn

from secateur.channel_graph import Residual, apply_plan, channel_groups, importance_scores
from secateur.channel_graph.groups import named_layers
from secateur.channel_graph.narrowing import narrowed
from secateur.counts import check_counts
from secateur.errors import ConfigError, NetworkError
from secateur.records import ChannelGroup, PruningPlan
from secateur.search import allowed_widths, next_allowed, select, ties_at_cut


@dataclass(frozen=True)
class PruneResult:
    """What `prune` did.

    Attributes:
        model: the pruned network.
        plan: which channels of the dense network it keeps; the cost is the number of parameters.
        skipped: every group or layer that was not pruned, with the reason.
    """

    model: nn.Module
    plan: PruningPlan
    skipped: Mapping[str, str]


def prune(
    model: nn.Module,
    example_inputs: Any,
    importance: Callable[[Any], Tensor | None],
    *,
    pruning_ratio: float = 0.5,
    pruning_ratio_dict: Mapping[str | nn.Module | tuple[nn.Module, ...], float] | None = None,
    max_pruning_ratio: float = 1.0,
    global_pruning: bool = False,
    isomorphic: bool = False,
    iterative_steps: int = 1,
    round_to: int | None = 1,
    ignored_layers: Iterable[str | nn.Module] | None = (),
    residual: Residual = "joint",
    on_step: Callable[[nn.Module, int], None] | None = None,
) -> PruneResult:
    """Return a copy of `model` with a share of its channels removed, by an importance; `model` is left as it is.

    The names are Torch-Pruning's. Of the C channels of a scope floor(ratio * C) go, exactly: those with the lowest
    scores, the lower index first among equals. A scope is a channel group; with `global_pruning` all groups together;
    with `isomorphic` too, all groups of the same build. Every layer keeps at least one channel and every group at
    least (1 - max_pruning_ratio) of its own; what a group cannot give under global ranking, the next in it give.

    Args:
        example_inputs: a tensor or a tuple of the network's arguments.
        importance: a Torch-Pruning importance, ours or another: group -> scores, larger = keep.
        pruning_ratio: share of the channels that goes, 0..1.
        pruning_ratio_dict: ratios of their own for layers, by name or module; layers in a tuple are ranked together.
        max_pruning_ratio: the largest share that any group loses.
        global_pruning: rank the channels of all groups together; their scores must be comparable.
        isomorphic: with `global_pruning`: rank groups of the same build (types of layers) together.
        iterative_steps: reach the ratio in so many equal steps, scored afresh each time; groups that Torch-Pruning no
            longer recognises in the smaller network keep the scores that they had.
        round_to: widths become multiples of it, upwards, never zero; see `secateur.search.allowed_widths`. None: 1.
        ignored_layers: names or modules whose outputs stay, with all layers tied to them. None: no layer.
        residual: "joint" or "skip", see `channel_groups`.
        on_step: called with the network after each step and the step's number, to train it in place in between.

    Raises:
        ConfigError: a ratio outside 0..1, `iterative_steps` or `round_to` that is no whole number from 1 up, an
            `importance` that cannot be called, `residual` that is "mask", layers that share channels but have different
            ratios, or `isomorphic` without `global_pruning`, which Torch-Pruning would cut wrongly.
        NetworkError: a layer is not the network's, or nothing can be pruned.
        ScoreError: the importance gives no tensor, NaN or a wrong number of scores.

    Cost: for each step a trace and the importance; once, two forward passes on the example.

    Example:
        >>> import torch
        >>> import torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> result = prune(net, torch.randn(2, 3, 8, 8), tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.25)
        >>> result.model[0].out_channels, result.skipped
        (6, {'2': "its channels are the network's outputs"})
    """
    _check_shares({"pruning_ratio": pruning_ratio, "max_pruning_ratio": max_pruning_ratio})
    if isomorphic and not global_pruning:
        raise ConfigError("isomorphic ranks groups of the same build together: it needs global_pruning=True")
    if residual == "mask":
        raise ConfigError("residual is 'mask'; a step could not tell masked channels from others; allowed: joint, skip")
    if not callable(importance):
        raise ConfigError(f"importance must be a Torch-Pruning importance, group -> scores; found {importance!r}")
    round_to = 1 if round_to is None else round_to
    check_counts(iterative_steps=iterative_steps, round_to=round_to)
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    ignore = [_name_of(model, layer) for layer in ignored_layers or ()]
    dense = channel_groups(model, inputs, ignore=ignore, residual=residual)
    own = _own_ratios(model, dense, pruning_ratio_dict or {})
    scopes: dict[str, _Scope] = {}
    for name, group in dense.items():
        key, ratio = own.get(name, (_scope_name(model, group, global_pruning, isomorphic), pruning_ratio))
        scopes.setdefault(key, _Scope(ratio, [])).groups.append(name)

    kept = {name: tuple(range(group.width)) for name, group in dense.items()}
    scores: dict[str, Tensor] = {}
    skipped, ties, pruned = dict(dense.skipped), dict[str, int](), model
    for step in range(1, iterative_steps + 1):
        groups = narrowed(dense, kept)
        cuttable = {name: group for name, group in groups.items() if group.width > 1}
        scores |= importance_scores(pruned, inputs, importance, cuttable)
        decision: dict[str, tuple[int, ...]] = {}
        for scope in scopes.values():
            known = {name: scores[name] for name in scope.groups if name in scores}
            full = {name: dense[name].width for name in known}
            fewest = {name: len(groups[name].parts) for name in known}
            ratio = scope.ratio * step / iterative_steps
            for name, width in _widths(known, full, fewest, ratio, max_pruning_ratio).items():
                parts, round_own = groups[name].parts, groups[name].step(round_to)
                allowed = allowed_widths(len(known[name]), min_keep=fewest[name], round_to=round_own)
                decision[name] = select(known[name], next_allowed(width, allowed), parts=parts)
                ties[name] = ties_at_cut(known[name], len(decision[name]), parts=parts)
        pruned = apply_plan(pruned, PruningPlan(tuple(groups.values()), decision, "parameters", 0, 0, 0))
        for name, channels in decision.items():
            kept[name] = tuple(kept[name][c] for c in channels)
            scores[name] = scores[name][list(channels)]
        if on_step is not None:
            on_step(pruned, step)
    for name, group in dense.items():
        if name not in scores:
            skipped[name] = "the importance has no scores for it"
        elif len(kept[name]) == group.width:
            skipped[name] = "all of its channels stay, by the ranking, the ratio or the rounding"
    before, after = (float(sum(p.numel() for p in network.parameters())) for network in (model, pruned))
    settings = {
        "search": "ratio",
        "importance": type(importance).__name__,
        "pruning_ratio": pruning_ratio,
        "max_pruning_ratio": max_pruning_ratio,
        "global_pruning": global_pruning,
        "isomorphic": isomorphic,
        "iterative_steps": iterative_steps,
        "round_to": round_to,
    }
    ties = {name: count for name, count in ties.items() if count}
    plan = PruningPlan(tuple(dense.values()), kept, "parameters", before, after, after, ties, settings)
    return PruneResult(pruned, plan, skipped)


@dataclass(frozen=True)
class _Scope:
    ratio: float
    groups: list[str]


def _widths(
    scores: Mapping[str, Tensor],
    full: Mapping[str, int],
    fewest: Mapping[str, int],
    ratio: float,
    max_ratio: float,
) -> dict[str, int]:
    """Return how many channels each group of a scope keeps when `ratio` of the scope's channels has gone.

    All channels are walked through by score, ascending, then by group and index; each goes if its group can spare it.
    """
    widths = {name: len(values) for name, values in scores.items()}
    least = {name: max(fewest[name], width - math.floor(max_ratio * width + 1e-9)) for name, width in full.items()}
    goal = sum(full.values()) - math.floor(ratio * sum(full.values()) + 1e-9)
    order = sorted(
        (score, rank, idx, name) for rank, name in enumerate(scores) for idx, score in enumerate(scores[name].tolist())
    )
    for _, _, _, name in order:
        if sum(widths.values()) <= goal:
            break
        if widths[name] > least[name]:
            widths[name] -= 1
    return widths


def _scope_name(model: nn.Module, group: ChannelGroup, global_pruning: bool, isomorphic: bool) -> str:
    if not global_pruning:
        return f"group {group.name}"
    if not isomorphic:
        return "all groups"
    kinds = [
        f"{member.role} {'parameter' if member.axis is not None else type(model.get_submodule(member.layer)).__name__}"
        for member in group.members
    ]
    return f"build {', '.join(kinds)}"


def _own_ratios(
    model: nn.Module, groups: Mapping[str, ChannelGroup], given: Mapping[Any, float]
) -> dict[str, tuple[str, float]]:
    """Return, for each group with a ratio of its own, its scope and its ratio."""
    own: dict[str, tuple[str, float]] = {}
    for number, (key, ratio) in enumerate(given.items()):
        layers = [_name_of(model, layer) for layer in (key if isinstance(key, tuple) else (key,))]
        _check_shares({f"pruning_ratio_dict of {', '.join(layers)}": ratio})
        below = named_layers(model, layers)
        for name, group in groups.items():
            if not any(member.layer in below for member in group.producers):
                continue
            if name in own and own[name][1] != ratio:
                raise ConfigError(
                    f"layers that share the channels of {name!r} have the ratios {own[name][1]} and {ratio}"
                )
            own.setdefault(name, (f"own {number}" if isinstance(key, tuple) else f"own {number} {name}", ratio))
    return own


def _name_of(model: nn.Module, layer: str | nn.Module) -> str:
    """Return a layer's name; names are checked where they are used."""
    if isinstance(layer, str):
        return layer
    if not isinstance(layer, nn.Module):
        raise ConfigError(f"{layer!r} is no layer; layers are given by name or as modules, not by type")
    for name, module in model.named_modules():
        if module is layer:
            return str(name)
    raise NetworkError(f"a {type(layer).__name__} that was given is not a layer of the network")


def _check_shares(shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        if not isinstance(share, Real) or not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share!r}; it must be a share in 0..1")
