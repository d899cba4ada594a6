"""The moving average of the weights along a training run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of `model` that follows it; `update_parameters(model)` takes the next step, `.module` is the copy.

    Formula, for the weights and buffers w_t after step t = 1, 2, ...: a_1 = w_1, and
    a_t = d_t * a_(t-1) + (1 - d_t) * w_t with d_t = min(decay, t / (t + 9)), which lets go of the first steps early.
    Whole numbers and truth values have no average: a_t = w_t.

    Args:
        model: left as it is.
        decay: in [0, 1).

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = moving_average(net, 0.9)
        >>> for value in (1.0, 2.0):
        ...     _ = nn.init.constant_(net.weight, value)
        ...     average.update_parameters(net)
        >>> round(average.module.weight.item(), 4)  # 2/11 of the first, 9/11 of the second
        1.8182
    """

    @torch.no_grad()
    def follow(averages: Tensors, weights: Tensors, done: Tensor | int) -> None:
        step = int(done) + 1
        if averages[0].is_floating_point() or averages[0].is_complex():  # all that are given at once are of one kind
            get_ema_multi_avg_fn(min(decay, step / (step + 9)))(averages, weights, done)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        else:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(weight)

    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
