"""One average of the images of several processes, through which gradients find their way to all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.distributed import Across, add_up


class _Sum(torch.autograd.Function):
    """y = the sum of x over the processes; since all of them go on from y, x's gradient is the sum of y's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, across: Across) -> Tensor:
        ctx.across = across
        total = x.detach().clone()
        add_up(total, across, what="the average of the feature maps")
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        add_up(total, ctx.across, what="the gradient of the average")
        return total, None


def average_of_all(mean: Tensor, share: float, across: Across) -> Tensor:
    """Return the mean over the images of all processes, from the mean over this process's.

    Formula: the sum over the processes p of share_p * mean_p, share_p = N_p / N.

    Args:
        mean: of this process, any shape.
        share: how many of all images are this process's.
        across: the processes; None for this one alone.

    Raises:
        ProcessError: another process has ended or does not come.

    Cost: one exchange forwards and one backwards; each process must come to both in the same order.

    Example:
        >>> average_of_all(torch.ones(2), 1.0, None)
        tensor([1., 1.])
    """
    if across is None:
        return mean
    found: Tensor = _Sum.apply(share * mean, across)
    return found
