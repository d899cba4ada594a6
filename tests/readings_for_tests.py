"""What readers read of a group's channels, drawn at random: few channels and many shapes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from secateur.criteria.adapting import Reading, RowReading

Owned = tuple[tuple[int, ...], ...]


class Reader(NamedTuple):
    """Rows U (n, D), outputs T (n, O), and the columns of each channel."""

    U: Tensor
    T: Tensor
    owned: Owned

    def reading(self) -> Reading:
        return Reading(self.U.T @ self.U, self.U.T @ self.T, float(self.T.square().sum()), self.owned)

    def by_rows(self) -> RowReading:
        return RowReading(self.U, self.T, self.owned)

    def held(self, kind: str) -> Reading | RowReading:
        return self.reading() if kind == "products" else self.by_rows()


def reader(seed: int, n: int, D: int, O: int, owned: Owned) -> Reader:  # noqa: E741  # the number of outputs
    """Draw a reader's rows and outputs."""
    generator = torch.Generator().manual_seed(seed)
    U = torch.randn(n, D, generator=generator, dtype=torch.float64) @ torch.randn(D, D, generator=generator).double()
    return Reader(U, torch.randn(n, O, generator=generator, dtype=torch.float64), owned)


def blocks(channels: int, size: int, first: int = 0) -> Owned:
    """Return the columns of channels that own so many each, one after another."""
    return tuple(tuple(range(first + c * size, first + (c + 1) * size)) for c in range(channels))


CASES = {
    "single columns": [reader(0, 20, 5, 2, blocks(5, 1))],
    "blocks": [reader(1, 30, 8, 3, blocks(4, 2))],
    "interleaved blocks": [reader(2, 30, 8, 3, tuple((c, c + 4) for c in range(4)))],
    "two readers": [reader(3, 20, 4, 2, blocks(4, 1)), reader(4, 25, 8, 1, blocks(4, 2))],
    "not read everywhere": [
        reader(5, 20, 3, 2, ((0,), (), (2,), (1,))),
        reader(6, 20, 4, 2, ((), (0, 1), (), (2, 3))),
    ],
    "read by none": [reader(12, 20, 2, 2, ((0,), (), (1,)))],
    "columns of others": [reader(7, 20, 7, 2, blocks(2, 2, first=1))],
    "fewer rows than columns": [reader(8, 4, 6, 2, blocks(3, 2))],
    "many outputs": [reader(13, 30, 8, 9, blocks(4, 2))],
    "seven channels": [reader(9, 40, 7, 2, blocks(7, 1))],
}
