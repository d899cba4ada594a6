"""What several processes do together in each step: read a batch each, add up, share statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.batches import unpack
from secateur.distributed import Across, add_up, jointly
from secateur.errors import DataError
from secateur.evaluation import check_labels


def next_batch(batches: Iterator[Any], answers: Tensor, across: Across) -> tuple[Tensor | None, Tensor, int] | None:
    """Return this process's next inputs and labels, and how many images all processes have in theirs.

    Args:
        batches: of this process.
        answers: (N, classes), what the network gives: labels must fit.
        across: the processes; None for this one alone.

    Returns:
        None behind the last batch. The inputs are None where a process has fewer than two images: batch norm cannot
        train on one.

    Raises:
        DataError: labels that are missing or do not fit, or processes with different numbers of batches.

    Example:
        >>> batches = iter([(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))])
        >>> inputs, labels, count = next_batch(batches, torch.zeros(1, 3), None)
        >>> count, next_batch(batches, torch.zeros(1, 3), None)
        (4, None)
    """
    held: list[tuple[Tensor, Tensor]] = []

    def read() -> int | None:
        batch = next(batches, None)
        if batch is None:
            return None
        inputs, labels = unpack(batch)
        held.append((inputs, check_labels(labels, answers)))
        return len(inputs)

    counts = [count for count in jointly(read, across, what="a batch to train on") if count is not None]
    if not counts:
        return None
    if across is not None and len(counts) < across.size():
        raise DataError("the processes have different numbers of batches; give all of them as many")
    inputs, labels = held[0]
    return (inputs if min(counts) > 1 else None), labels, sum(counts)


def sum_of_numbers(value: float, across: Across, *, device: torch.device) -> float:
    """Return the sum of the processes' numbers."""
    if across is None:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    add_up(summed, across, what="the loss")
    return float(summed)


def add_up_all(tensors: Sequence[Tensor], across: Across) -> None:
    """Give all processes the sum of theirs, in place: one exchange for each type of number.

    DistributedDataParallel cannot serve: it takes gradients to lie as the kernels did when it was made, and
    `secateur.modes.laid_out` moves them.
    """
    for dtype in {tensor.dtype: None for tensor in tensors} if across is not None else ():
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        summed = torch.cat([tensor.detach().reshape(-1) for tensor in same])
        add_up(summed, across, what="the gradients")
        for tensor, part in zip(same, torch.split(summed, [tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))


def share_buffers(networks: Sequence[nn.Module], across: Across) -> None:
    """Give all processes the mean of their running statistics."""
    if across is None:
        return
    buffers = [b for network in networks for b in network.buffers() if b.is_floating_point()]
    add_up_all(buffers, across)
    for buffer in buffers:
        buffer /= across.size()
