"""Accuracy back without gradients: batch norm's running statistics, estimated anew on the pruned network.

The stored mean and variance describe feature maps of the dense network. Once channels are gone the maps have other
statistics, and much of the loss in accuracy is that mismatch. Averaging them anew needs some images, no labels and no
gradient [Li2020]_.

.. [Li2020] Li, Wu, Su, Wang: EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning. ECCV 2020,
   section 3.3 (adaptive batch normalization).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.batches import Batches, opened, rebatch, unpack
from secateur.counts import check_counts
from secateur.distributed import Across, Share, jointly, local, part_of, sum_of
from secateur.errors import ConfigError, DataError
from secateur.modes import check_changeable, evaluating, own_copy, reading

STATISTICS = ("running_mean", "running_var")


@dataclass
class _Sums:
    """What a batch norm has seen: how many batches, and the sums of their means and variances."""

    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, norm: _BatchNorm, *_: Any) -> None:
        for statistic in STATISTICS:
            found = norm.get_buffer(statistic).double()
            self.sums[statistic] = self.sums[statistic] + found if self.count else found.clone()
        self.count += 1

    def on_cpu(self) -> _Sums:
        return _Sums(self.count, {statistic: summed.cpu() for statistic, summed in self.sums.items()})


def recalibrate_batch_norm(model: nn.Module, batches: Batches, *, samples: int = 2000, across: Across = None) -> int:
    """Replace the running statistics of every batch norm by their mean over fresh batches; return the images used.

    Formula, for batches b = 1..B of equal size: running_mean = (1 / B) sum_b mean_b, and
    running_var = (1 / B) sum_b var_b, with var_b the unbiased variance over images and pixels of batch b. Every batch
    norm normalises by the batch meanwhile, as in training; all other modules (dropout) stay in eval mode. The sums are
    float64, also of networks in half precision. A batch norm that no batch reaches, such as that of an auxiliary head
    which runs in training alone, keeps what it had.

    Args:
        model: changed in place: the running statistics and nothing else.
        batches: yields inputs (N, ...), with or without labels, shuffled; training images, not those held out.
            Batches are made as large as the first; a rest that does not fill one is left out.
        samples: how many images to use at most.
        across: the processes that share the images, see `secateur.accuracy`: each reads at most its equal part of
            `samples` in batches of one size, and all get the mean over the batches of all, up to rounding; None for
            this process alone.

    Returns:
        The number of images used; 0, and no image is read, where no batch norm keeps running statistics. Those made
        with track_running_stats=False and frozen ones (torchvision's FrozenBatchNorm2d) have none to replace.

    Raises:
        ConfigError: samples < 2; with `across`, no process group, or a SyncBatchNorm, which waits for the other
            processes by itself.
        NetworkError: the network was made in inference mode, and cannot be changed outside of it.
        DataError: no images, a first batch of fewer than two, or statistics that are not finite. The old statistics
            are back then, as they are after any other error.
        ProcessError: another process failed, ended, or has other weights or settings; see `secateur.distributed`.

    Cost: one forward pass over `samples` images.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate_batch_norm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        4
        >>> norm.running_mean.item(), norm.running_var.item()
        (4.0, 2.0)

    Deviations: [Li2020]_ keeps the moving average with its momentum, so that the last batches weigh most and the dense
    network's statistics still shine through; here every batch weighs the same and nothing of the old remains.
    """
    check_counts(least=2, samples=samples)
    network = local(model)
    check_changeable(network)
    norms = {name: m for name, m in network.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not norms:
        return 0
    before = {
        name: (norm.momentum, {key: values.clone() for key, values in norm.named_buffers(recurse=False)})
        for name, norm in norms.items()
    }
    replaced: set[str] = set()
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = 1.0  # the statistics of the last batch alone
        parts = jointly(
            lambda: _observe(network, norms, batches, samples, across),
            across,
            what="the statistics of batch norm",
            network=network,
            settings={"samples": samples},
        )
        images, _ = sum_of([share for share, _ in parts], fixed=True)
        reached = _average(norms, [sums for _, sums in parts])
        _check(reached)
        replaced.update(reached)
    finally:
        for name, (momentum, buffers) in before.items():
            norms[name].momentum = momentum
            if name not in replaced:
                for key, values in buffers.items():
                    norms[name].get_buffer(key).copy_(values)
    return images


def _observe(
    network: nn.Module, norms: Mapping[str, _BatchNorm], batches: Batches, samples: int, across: Across
) -> tuple[Share, dict[str, _Sums]]:
    """Run this process's part of `samples` images through the network with the batch norms alone in train mode.

    Returns what was read, and the sums over its batches of each batch norm that they reach.
    """
    if across is not None and any(isinstance(norm, nn.SyncBatchNorm) for norm in norms.values()):
        raise ConfigError("a SyncBatchNorm adds up over processes by itself: turn it into a BatchNorm2d first")
    stream = opened(batches)
    first = next(stream, None)
    share, sums = Share(), {name: _Sums() for name in norms}
    size = 0 if first is None else len(unpack(first)[0])
    if first is not None and size < 2:
        raise DataError(f"batch norm needs batches of at least two images; the first batch holds {size}")
    size = min(size, samples)
    part = 0 if first is None else part_of(samples, across, batch_size=size)
    own = rebatch(itertools.chain([first], stream), size, samples=part) if part else ()
    with evaluating(network), torch.no_grad(), ExitStack() as stack:
        for name, norm in norms.items():
            norm.training = True  # not what it holds, such as a dropout
            stack.callback(norm.register_forward_hook(sums[name].add).remove)
        for inputs, _ in own:
            with reading(network, inputs):
                network(own_copy(network, inputs))
            share = share.with_batch(inputs)
    return share, {name: found.on_cpu() for name, found in sums.items() if found.count}


def _average(norms: Mapping[str, _BatchNorm], parts: list[dict[str, _Sums]]) -> dict[str, _BatchNorm]:
    """Give each batch norm that was reached the mean over the batches of all processes; return these norms."""
    reached = {name: norm for name, norm in norms.items() if any(name in sums for sums in parts)}
    for name, norm in reached.items():
        found = [sums[name] for sums in parts if name in sums]
        total = sum(each.count for each in found)
        for statistic in STATISTICS:
            summed = torch.stack([each.sums[statistic] for each in found]).sum(0)
            norm.get_buffer(statistic).copy_(summed / total)
        norm.get_buffer("num_batches_tracked").fill_(total)
    return reached


def _check(norms: Mapping[str, _BatchNorm]) -> None:
    for name, norm in norms.items():
        for statistic in STATISTICS:
            if not bool(torch.isfinite(norm.get_buffer(statistic)).all()):
                raise DataError(f"{statistic} of the batch norm {name!r} is not finite on these batches")
