"""Labelled images in batches, in an order that a seed decides."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator, Tensor

from secateur_cli.inputs.images import Images

Batch = tuple[Tensor, Tensor]


def generator(seed: int, *names: str | int) -> Generator:
    """Return a generator of its own for each seed and purpose: other names, other numbers.

    Example:
        >>> torch.equal(torch.rand(3, generator=generator(0, "a")), torch.rand(3, generator=generator(0, "a")))
        True
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def seed_everything(seed: int) -> None:
    """Let the generators of torch, numpy and Python begin from a seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the one that users' augmentations read
    torch.manual_seed(seed)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """In the block, the generators of torch, numpy and Python begin from a seed; afterwards they are as before.

    Example:
        >>> before = torch.get_rng_state()
        >>> with drawing_from(1):
        ...     _ = torch.rand(2)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    states = random.getstate(), np.random.get_state()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch gives it no types
    devices = range(torch.cuda.device_count()) if in_use else ()
    try:
        with torch.random.fork_rng(devices):
            seed_everything(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def pick(labels: Tensor, count: int, *, random: Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` positions so that each class keeps its share (within one image); return them and the rest.

    Both are in random order. Rule: positions in random order, sorted by class, of which every n/count-th is taken; of
    more than half, what is left is found so, since steps of hardly more than one are lost in rounding.

    Example:
        >>> taken, rest = pick(torch.tensor([0, 0, 0, 0, 1, 1]), 3, random=generator(0, "example"))
        >>> len(taken), len(rest)
        (3, 3)
    """
    shuffled = torch.randperm(len(labels), generator=random)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    fewer = min(count, len(labels) - count)
    apart = by_class[((torch.arange(fewer) + 0.5) * len(labels) / max(fewer, 1)).long()]
    is_taken = torch.full((len(labels),), count > fewer)
    is_taken[apart] = count == fewer
    return shuffled[is_taken[shuffled]], shuffled[~is_taken[shuffled]]


@dataclass(eq=False)
class Epochs:
    """Batches `(inputs, labels)` of labelled images: (N, C, H, W) float32, normalised, and (N,) int64.

    Iterate as often as you like. With `training`, each iteration is the next epoch: another order, other crops, both
    decided by the seed and the number of the epoch alone; `fresh` starts again with the first. A rest of a single
    image is then left out, since batch norm cannot learn from it. Without, all iterations are the same.

    Attributes:
        images: the labelled images, in the order of the batches.
        batch_size: images in a batch; the last may have fewer.
        mean, std: per channel, of the normalisation (x - mean) / std.
        seed: decides order and augmentation; read with `training` only.
        training: whether each iteration is another epoch.
        augment: whether images are cropped and mirrored at random.
    """

    images: Images
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int = 0
    training: bool = False
    augment: bool = False
    _epoch: int = field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        """Return the number of batches in one iteration."""
        count = len(self.images)
        leaves_one_out = self.training and count > 1 and count % self.batch_size == 1
        return math.ceil(count / self.batch_size) - leaves_one_out

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        self._epoch += 1
        return self._batches(epoch)

    def set_epoch(self, number: int) -> None:
        """Let the next iteration be that epoch, counted from 0."""
        self._epoch = number

    def fresh(self) -> Epochs:
        """Return the same batches from the first epoch on."""
        return replace(self)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        random = generator(self.seed, "epoch", epoch)
        count = len(self.images)
        order = torch.randperm(count, generator=random) if self.training else torch.arange(count)
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            idx = order[start : start + self.batch_size]
            inputs = self.images.read(idx, augment=random if self.augment else None)
            yield (inputs - mean) / std, self.images.labels[idx]
