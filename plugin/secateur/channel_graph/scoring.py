"""What a Torch-Pruning importance says about each channel group: any importance, any group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.channel_graph.traced_groups import groups_of
from secateur.channel_graph.tracing import copy_of, differentiable, trace
from secateur.errors import ScoreError
from secateur.modes import own_copies
from secateur.records import ChannelGroup


@torch.inference_mode(False)
def importance_scores(
    model: nn.Module,
    inputs: tuple[Any, ...],
    importance: Callable[[Any], Tensor | None],
    groups: Mapping[str, ChannelGroup],
) -> dict[str, Tensor]:
    """Return the score of each channel of each group, (width,), by a Torch-Pruning importance; larger = keep.

    The importance sees the groups of a copy of the network, with its gradients, as Torch-Pruning's pruners show them.
    Where a grouped convolution ties channels together, their scores are averaged, as there. Groups that the importance
    passes by (it returns None) are left out, and so are masked ones, which Torch-Pruning does not have, and those to
    which it gives another width: a grouped convolution that is left with one output per block is depthwise to it.

    Args:
        model: the network; left as it is.
        inputs: the network's arguments, one batch.
        importance: group -> scores, one for each index of the group's root, or None.
        groups: the groups to score, by name.

    Raises:
        ScoreError: the importance returns no tensor, another number of scores than the group has channels, or NaN.

    Cost: a copy, a trace, and the importance.

    Example:
        >>> import torch_pruning as tp
        >>> from secateur.channel_graph import channel_groups
        >>> net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)
        >>> scores = importance_scores(net, (x,), tp.importance.RandomImportance(), channel_groups(net, x))
        >>> {name: len(values) for name, values in scores.items()}
        {'0': 8}
    """
    copied = differentiable(copy_of(model))
    for own, original in zip(copied.parameters(), model.parameters(), strict=True):
        own.grad = original.grad
    scores: dict[str, Tensor] = {}
    for group, record in groups_of(trace(copied, own_copies(model, inputs)), model):
        wanted = groups.get(record.name)
        if wanted is None or wanted.masked or wanted.width != record.width:
            continue
        with torch.no_grad():
            given = importance(group)
        if given is None:
            continue
        expected = len(group[0].idxs)
        if not isinstance(given, Tensor):
            raise ScoreError(
                f"{type(importance).__name__} must give a tensor of {expected} scores, or None, for the group "
                f"{record.name!r}; it gave a {type(given).__name__}"
            )
        if given.numel() != expected or not bool(torch.isfinite(given).all()):
            called = getattr(importance, "__name__", type(importance).__name__)
            raise ScoreError(
                f"{called} must give {expected} finite scores for the group {record.name!r}; "
                f"it gave {given.numel()}, {int((~torch.isfinite(given)).sum())} of them NaN or infinite"
            )
        scores[record.name] = given.detach().to("cpu", torch.float64).reshape(-1, record.width).mean(0)
    return scores
