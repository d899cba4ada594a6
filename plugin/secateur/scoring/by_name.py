"""Any criterion by its name, whatever it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur.batches import Batches, opened, unpack
from secateur.criteria import (
    CRITERIA,
    GROUP_CRITERIA,
    WEIGHT_CRITERIA,
    criterion,
    gradient_criterion,
    group_criterion,
    known_criterion,
    options_of,
    weight_criterion,
)
from secateur.distributed import Across, jointly
from secateur.errors import ConfigError, DataError
from secateur.feature_maps import Tap, collect_scores
from secateur.modes import device_of
from secateur.records import ChannelGroup, ScoreTable
from secateur.scoring.gradients import gradient_scores
from secateur.scoring.reconstruction import reconstruction_scores
from secateur.scoring.weights import weight_scores


def scores_by_name(
    model: nn.Module,
    batches: Batches,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    tap: Tap = "act",
    samples: int | None = None,
    groups: Mapping[str, ChannelGroup] | None = None,
    across: Across = None,
) -> ScoreTable:
    """Return the scores of a network by the criterion called `name`: over feature maps, weights, gradients or groups.

    Args:
        model: the network; left as it is.
        batches: yields `(inputs, labels)`; criteria over weights read at most the first batch.
        name: a key of `CRITERIA`, `WEIGHT_CRITERIA`, `GRADIENT_CRITERIA` or `GROUP_CRITERIA` in `secateur.criteria`.
        options: keyword arguments of the criterion.
        tap: for criteria over feature maps, see `collect_scores`.
        samples: images to read; None for the criterion's own number.
        groups: what `channel_groups` found; only those in `GROUP_CRITERIA` ask for them.
        across: the processes that share the images, see `collect_scores`; None for this process alone.

    Raises:
        ConfigError: an unknown criterion or option, or groups that are missing.
        DataError, NetworkError: those of `collect_scores`, `weight_scores`, `gradient_scores` and
            `reconstruction_scores`.
        ProcessError: another process failed, ended, or has other weights or settings; see `secateur.distributed`.

    Cost: that of the function that reads what the criterion reads.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU())
        >>> _ = net[0].weight.data.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
        >>> scores_by_name(net, [torch.ones(4, 1, 5, 5)], "l1")["0"].tolist()
        [1.0, 2.0]
        >>> scores_by_name(net, [torch.ones(4, 1, 5, 5)], "mean_activation")["0"].tolist()
        [1.0, 0.0]
    """
    known_criterion(name, **(options or {}))
    given = dict(options or {})
    if name in GROUP_CRITERIA:
        if groups is None:
            raise ConfigError(f"the criterion {name!r} scores groups of channels: give groups=channel_groups(...)")
        own = options_of(group_criterion(name, **given)) | ({} if samples is None else {"samples": samples})
        return reconstruction_scores(model, groups, batches, **own, across=across)
    if name in CRITERIA:
        return collect_scores(model, batches, criterion(name, **given), tap=tap, samples=samples, across=across)
    if name in WEIGHT_CRITERIA:
        examples = jointly(lambda: _first_inputs(batches), across, what=f"scores by {name!r}", network=model)
        example = next((inputs for inputs in examples if inputs is not None), None)
        if example is None:
            raise DataError("there is no image to find the layers' batch norm with: the batches are empty")
        return weight_scores(model, weight_criterion(name, **given), example_inputs=example.to(device_of(model)))
    return gradient_scores(model, batches, gradient_criterion(name, **given), samples=samples, across=across)


def _first_inputs(batches: Batches) -> Tensor | None:
    """Return two inputs of the first batch; None where there is none."""
    first = next(opened(batches), None)
    return None if first is None else unpack(first)[0][:2].cpu()
