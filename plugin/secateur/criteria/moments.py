"""Counts, means and squared deviations that can be added up without losing digits.

Of a set of numbers hold the count n, the mean m and the summed squared deviations from it, S. Two sets join by

    n = n1 + n2,    m = m1 + (n2 / n) (m2 - m1),    S = S1 + S2 + (n1 n2 / n) (m2 - m1)^2                   [Chan1983]_

in which nothing is subtracted that could cancel: a channel that sits at 1000 and varies by 0.001 keeps its variance,
which sums of squares would lose. Everything is float64.

.. [Chan1983] T. F. Chan, G. H. Golub, R. J. LeVeque. Algorithms for computing the sample variance: analysis and
   recommendations. The American Statistician 37(3), 1983.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**23  # float64 numbers made at a time from the maps: 64 MiB


@dataclass(frozen=True, eq=False)
class Moments:
    """Of many sets of numbers: `count`, `mean` and `deviations` (summed squares about the mean), float64.

    The three have shapes that broadcast. Sets of no number have zeros everywhere.

    Example:
        >>> pair = Moments.of(torch.tensor([[1.0, 3.0]]), dim=1)
        >>> both = pair.joined(Moments.of(torch.tensor([[8.0]]), dim=1))
        >>> both.count.item(), both.mean.item(), both.deviations.item()
        (3.0, 4.0, 26.0)
    """

    count: Tensor
    mean: Tensor
    deviations: Tensor

    @classmethod
    def none(cls, *shape: int) -> Moments:
        """Return the moments of empty sets."""
        zeros = torch.zeros(shape, dtype=torch.float64)
        return cls(zeros, zeros, zeros)

    @classmethod
    def of(cls, numbers: Tensor, *, dim: int) -> Moments:
        """Return the moments over one dimension of `numbers`, floating of any type."""
        values = numbers.to(torch.float64)
        mean = values.mean(dim, keepdim=True)
        deviations = (values - mean).square().sum(dim)
        return cls(torch.full_like(deviations, values.shape[dim]), mean.squeeze(dim), deviations)

    @property
    def variance(self) -> Tensor:
        """The population variance, S / n; zero for empty sets."""
        return self.deviations / self.count.clamp(min=1)

    def joined(self, other: Moments) -> Moments:
        """Return the moments of the sets joined, one by one."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + share * gap,
            self.deviations + other.deviations + self.count * share * gap.square(),
        )

    def summed(self, members: Tensor, sets: int) -> Moments:
        """Return the moments of `sets` unions, (sets, ...): row i of this one joins union `members[i]`."""

        def total(rows: Tensor) -> Tensor:
            return rows.new_zeros(sets, *rows.shape[1:]).index_add_(0, members, rows)

        count = total(self.count)
        mean = total(self.count * self.mean) / count.clamp(min=1)
        between = total(self.count * (self.mean - mean[members]).square())
        return Moments(count, mean, total(self.deviations) + between)


def image_moments(maps: Tensor) -> Moments:
    """Return the moments of every map over its pixels: (N, C, H, W) -> (N, C), on the processor.

    Cost: two passes over the maps in float64, a few images (64 MiB) at a time.

    Example:
        >>> image_moments(torch.tensor([[[[1.0, 3.0]]]])).variance
        tensor([[1.]], dtype=torch.float64)
    """
    images = max(1, CHUNK // maps[0].numel())
    return _gathered([Moments.of(part.flatten(2), dim=2) for part in torch.split(maps, images)])


def position_moments(maps: Tensor) -> Moments:
    """Return the moments of every position over the images: (N, C, ...) -> (C, ...), on the processor.

    Cost: two passes over the maps in float64, a few channels (64 MiB) at a time.

    Example:
        >>> position_moments(torch.tensor([[[1.0, 3.0]], [[1.0, 5.0]]])).variance
        tensor([[0., 1.]], dtype=torch.float64)
    """
    channels = max(1, CHUNK // maps[:, 0].numel())
    return _gathered([Moments.of(part, dim=0) for part in torch.split(maps, channels, dim=1)])


def _gathered(parts: list[Moments]) -> Moments:
    """Return the rows of all parts, one below the other."""
    return Moments(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in vars(parts[0])))
