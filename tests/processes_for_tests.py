"""Two processes of one gloo group, their shares of the images, and what they are asked to do together in the tests.

A process of its own must be able to import what it runs: so it stands here, not in the tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from networks_for_tests import Residual
from secateur import accuracy, collect_scores
from secateur.distributed import jointly, part_of
from started_for_tests import forkserver

IMAGES = 48


class Processes:
    """Processes that stay, one worker pool each, joined by a file in a folder; `run` runs a function in all of them."""

    def __init__(self, folder: Path, *, size: int = 2) -> None:
        forks, meeting = forkserver(), f"file://{folder / 'meet'}"
        self._pools = [
            ProcessPoolExecutor(1, mp_context=forks, initializer=_join, initargs=(rank, size, meeting))
            for rank in range(size)
        ]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what `function(rank, *arguments)` gives in each process, or the exception that it raises."""
        futures = [pool.submit(function, rank, *arguments) for rank, pool in enumerate(self._pools)]
        return [future.exception(timeout=60) or future.result() for future in futures]


def _join(rank: int, size: int, meeting: str) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=timeout)


def network(*, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Residual().eval()


def images() -> tuple[Tensor, Tensor]:
    """Images, and labels that the network gives to most of them."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(IMAGES, 3, 8, 8, generator=generator)
    with torch.no_grad():
        labels = network()(inputs).argmax(1)
    labels[::5] = torch.arange(len(labels[::5])) % 5
    return inputs, labels


def share(rank: int, shares: str = "even", *, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    """The batches of one of two processes: every second image, or one in eight and the others, or none and all."""
    inputs, labels = images()
    everything = torch.arange(IMAGES)
    own = {
        "even": everything % 2 == rank,
        "uneven": (everything % 8 == 0) == (rank == 0),
        "empty": torch.full((IMAGES,), rank == 0),
        "halves": everything // (IMAGES // 2) == rank,
        "none": torch.full((IMAGES,), False),
    }[shares]
    return list(zip(inputs[own].split(size), labels[own].split(size), strict=True)) if own.any() else []


def find_accuracy(rank: int, shares: str) -> float:
    return accuracy(network(), share(rank, shares), across=dist.group.WORLD)


def find_accuracy_of_wrapped(rank: int, shares: str) -> float:
    wrapped = nn.parallel.DistributedDataParallel(network())
    return accuracy(wrapped, share(rank, shares), across=dist.group.WORLD)


def find_accuracy_of_different_networks(rank: int) -> float:
    return accuracy(network(seed=rank), share(rank), across=dist.group.WORLD)


def find_accuracy_of_different_structures(rank: int) -> float:
    return accuracy(nn.Sequential(network(), nn.Linear(5, 5 + rank)), share(rank), across=dist.group.WORLD)


def fail_and_go_on(rank: int) -> tuple[str, float]:
    """Process 1 has a label that no output belongs to; then all is well."""
    inputs, labels = images()
    if rank == 1:
        labels[3] = 77
    try:
        accuracy(network(), [(inputs, labels)], across=dist.group.WORLD)
    except Exception as error:
        return f"{type(error).__name__}: {error}", find_accuracy(rank, "even")
    return "nothing", 0.0


def find_something_else(rank: int) -> Any:
    if rank == 0:
        return accuracy(network(), share(rank), across=dist.group.WORLD)
    return collect_scores(network(), share(rank), across=dist.group.WORLD)


def die(rank: int) -> list[int]:
    if rank == 1:
        os._exit(1)
    return jointly(lambda: rank, dist.group.WORLD, what="the ranks")


def dawdle(rank: int) -> list[int]:
    impatient = dist.new_group(timeout=timedelta(seconds=1))
    if rank == 1:
        time.sleep(3)
        return []
    return jointly(lambda: rank, impatient, what="the ranks")


def find_ranks(rank: int) -> list[int]:
    return jointly(lambda: 10 * rank, dist.group.WORLD, what="the ranks")


def send_what_cannot_be_sent(rank: int) -> list[Any]:
    return jointly(lambda: (lambda: None) if rank == 1 else rank, dist.group.WORLD, what="functions")


def ask_a_group_of_others(rank: int) -> list[int]:
    others = dist.new_group([0])
    return jointly(lambda: rank, others, what="the ranks")


def find_parts(rank: int, samples: int, batch_size: int | None) -> int:
    return part_of(samples, dist.group.WORLD, batch_size=batch_size)
