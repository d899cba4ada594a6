"""Which channels fall together: Torch-Pruning's dependency graph, traced once and kept as records."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.channel_graph.streams import masked_group, writers_of
from secateur.channel_graph.surgery import layer_size, trouble_with
from secateur.channel_graph.traced_groups import (
    blocks_of,
    groups_behind_splits,
    groups_of,
    layers_sharing_weights,
    reaches_outputs,
    unmet,
)
from secateur.channel_graph.tracing import copy_of, differentiable, trace
from secateur.channel_graph.trials import Trials
from secateur.channel_graph.verify import check_leaves
from secateur.channel_map import ChannelMap
from secateur.errors import ConfigError, NetworkError
from secateur.modes import own_copies
from secateur.records import ChannelGroup, ChannelGroups, Member

Residual = Literal["joint", "skip", "mask"]
ASKED = "asked to be left as it is"
UNMET = "the trace, which follows gradients, does not meet it: it is not called, or runs without gradients"


@torch.inference_mode(False)
def channel_groups(
    model: nn.Module,
    example_inputs: Any,
    *,
    ignore: Iterable[str] = (),
    residual: Residual = "joint",
    check: bool = True,
) -> ChannelGroups:
    """Return the groups of channels that can be pruned, and why the other layers cannot.

    Torch-Pruning traces a copy of the network once. Each of its groups becomes a record: which positions of which
    layers belong to channel 0, 1, 2, ... Channels that a grouped convolution, the heads of attention or a split into
    equal parts tie to an offset count as one. Left out, with the reason in `.skipped`: the network's outputs, the
    layers named in `ignore`, groups of one channel, those of transposed convolutions in groups, which Torch-Pruning
    cannot cut, those of layers that share their weights, layers that the trace does not meet, and groups that
    Torch-Pruning cannot follow or maps wrongly (channel shuffles, permuted flattens): each group is tried on the
    example inputs, removed against masked, before it is believed; in half precision by a copy in float32, and where a
    weight multiplies a branch by zero by a copy in which it does not. Zero-padded shortcuts can be pruned as
    `ChannelMap`s; see `secateur.channel_map.with_channel_maps`.

    Args:
        model: the network; neither weights nor modes are changed.
        example_inputs: a tensor or a tuple of the network's arguments, copied to where it lies; real images make the
            check sharper.
        ignore: names of layers, or of modules that contain them, whose outputs must stay as they are.
        residual: "joint" prunes the layers that a shortcut sums together, as the DI paper does; "skip" leaves residual
            streams as they are, so that only channels inside the blocks are pruned; "mask" gives each layer that writes
            a stream a group of its own, whose channels become zero where they are and make nothing smaller, as HRank's
            code does.
        check: whether to try the groups. Those that pass through a normalisation over channels are tried with this made
            one that is not (see `secateur.channel_graph.unmixed`); of those that attention reads it can only be seen
            whether the network still runs without them.

    Raises:
        ConfigError: `residual` is not one of these.
        NetworkError: the network cannot be copied or traced, is wrapped, compiled, scripted or prepared for
            quantization, a layer's weights are computed by a parametrization or a hook, a name in `ignore` does not
            exist, nothing can be pruned, it returns detections, it changes its own inputs in place (but for what does
            nothing the second time), or the outputs are random, NaN or none, so that no group can be checked.

    Cost: a trace, and two forward passes on the example, one more and a copy where a weight is zero throughout; two
    more for each group only where something is wrong, and for each of its layers where it is split on its way.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> groups = channel_groups(net, torch.randn(2, 3, 8, 8))
        >>> [(g.name, g.width, [m.layer for m in g.members]) for g in groups.values()]
        [('0', 8, ['0', '1', '3'])]
        >>> dict(groups.skipped)
        {'3': "its channels are the network's outputs"}
    """
    example_inputs = own_copies(model, example_inputs)
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if residual not in get_args(Residual):
        raise ConfigError(f"unknown residual {residual!r}; allowed: {', '.join(get_args(Residual))}")
    ignored = named_layers(model, ignore)
    traced = differentiable(copy_of(model))
    graph = trace(traced, inputs)
    if any(tensor._version for tensor in tree_leaves(inputs) if isinstance(tensor, Tensor)):
        check_leaves(traced, inputs)
    sharing = layers_sharing_weights(traced)

    def reason_to_skip(group: Any, record: ChannelGroup) -> str:
        reason = _reason_to_skip(traced, group, record, ignored, sharing)
        writers = writers_of(traced, record) if residual != "joint" else []
        if not reason and len(writers) > 1:
            reason = f"a residual stream, summed with {', '.join(w for w in writers if w != record.name)}"
        return reason

    found: list[ChannelGroup] = []
    skipped: dict[str, str] = {}
    for group, record in groups_of(graph, model, failed=skipped):
        writers = writers_of(traced, record) if residual == "mask" else []
        if len(writers) > 1 and not reaches_outputs(group):
            alone = _masked_groups(graph, traced, writers, ignored)
            found += [mask for mask in alone.values() if isinstance(mask, ChannelGroup)]
            skipped |= {name: why for name, why in alone.items() if isinstance(why, str)}
            continue
        if reason := reason_to_skip(group, record):
            skipped[record.name] = reason
        else:
            found.append(record)
    skipped |= dict.fromkeys(unmet(graph), UNMET)
    order = [name for name, _ in model.named_modules()]
    found.sort(key=lambda group: order.index(group.name))
    if check:
        trials, tried = Trials(model, inputs), found
        wrong = trials.wrong(tried)
        found = [group for group in tried if group.name not in wrong]
        skipped |= wrong
        for record in tried:
            behind = groups_behind_splits(graph, traced, record) if record.name in skipped else ()
            allowed = (each for group, each in behind if not reason_to_skip(group, each))
            apart = (each for each in allowed if _makers([each]).isdisjoint(_makers(found)))
            tied = next((each for each in apart if not trials.wrong([each])), None)
            if tied is not None:
                found.append(tied)
                skipped = {name: why for name, why in skipped.items() if name not in _makers([tied])}
        found.sort(key=lambda group: order.index(group.name))
    if not found:
        reasons = (
            "; ".join(f"{layer}: {reason}" for layer, reason in skipped.items())
            or "it has no convolution or linear layer"
        )
        raise NetworkError(f"nothing in this network can be pruned ({reasons})")
    return ChannelGroups(found, skipped=skipped)


def _reason_to_skip(
    model: nn.Module,
    group: Any,
    record: ChannelGroup,
    ignored: frozenset[str],
    sharing: Mapping[str, Sequence[str]],
) -> str:
    if reaches_outputs(group):
        return "its channels are the network's outputs"
    for member in record.producers:
        if member.layer in ignored:
            return ASKED if member.layer == record.name else f"tied to {member.layer}, which is ignored"
    if record.width < 2:
        return _why_one(model, record)
    for member in record.members:
        size = layer_size(model, member)
        positions = [p for owned in member.indices for p in owned]
        if size is None or not positions or max(positions) >= size or len(set(positions)) < len(positions):
            return f"Torch-Pruning maps its channels wrongly onto {member.layer}"
        if member.axis is None and (trouble := trouble_with(model.get_submodule(member.layer), member.role)):
            return f"{member.layer} is {trouble}"
        blocks = 1 if member.axis is not None else blocks_of(model.get_submodule(member.layer))
        if not _alike_in(blocks, member, size):
            return f"{member.layer} divides what it reads into {blocks} blocks, in which its channels do not lie alike"
        if shared := [name for name in sharing.get(member.layer, ()) if name != member.layer]:
            return f"{member.layer} shares its weights with {', '.join(shared)}, which would no longer be so"
    return ""


def _alike_in(blocks: int, member: Member, size: int) -> bool:
    """Return whether each channel owns the same places in every block, so that blocks stay equal when it goes."""
    length = size // blocks
    for owned in member.indices:
        places = [sorted(p % length for p in owned if p // length == block) for block in range(blocks)]
        if any(own != places[0] for own in places):
            return False
    return True


def _why_one(model: nn.Module, record: ChannelGroup) -> str:
    """Return why a group has a single channel, which cannot go."""
    own = next((member for member in record.producers if member.layer == record.name), record.members[0])
    if layer_size(model, own) == 1:
        return "it has only one channel"
    for member in record.members:
        module = model.get_submodule(member.layer) if member.axis is None else None
        kinds = ("groups", "num_groups", "num_heads")
        blocks = next((int(getattr(module, kind)) for kind in kinds if hasattr(module, kind)), 1)
        if blocks > 1:
            return (
                f"each of its channels stands for one in every of the {blocks} groups of {member.layer}: there is one"
            )
    tied = next((m.layer for m in record.members if layer_size(model, m) == 1), record.members[-1].layer)
    return f"Torch-Pruning takes its channels for the only one of {tied}"


def _masked_groups(
    graph: tp.DependencyGraph, model: nn.Module, writers: Sequence[str], ignored: frozenset[str]
) -> dict[str, ChannelGroup | str]:
    """Return, for each layer that writes a stream, the group that masks it by itself, or why it stays as it is."""
    layers = [name for name in writers if not isinstance(model.get_submodule(name), ChannelMap)]
    return {name: ASKED if name in ignored else masked_group(graph, model, name) for name in layers}


def _makers(groups: Iterable[ChannelGroup]) -> set[str]:
    """Return the layers that make the channels of some groups."""
    return {member.layer for group in groups for member in group.producers}


def named_layers(model: nn.Module, names: Iterable[str]) -> frozenset[str]:
    """Return the names and all names below them. Raises NetworkError for a name that does not exist."""
    known = dict(model.named_modules())
    layers: set[str] = set()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise NetworkError(f"the network has no layer {name!r}{hint}")
        layers.update(".".join(filter(None, (name, below))) for below, _ in known[name].named_modules())
    return frozenset(layers)
