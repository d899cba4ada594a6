"""The rows that a layer reads and what its outputs are there, kept as they are: for layers with few of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from secateur.regression.equations import varying
from secateur.regression.layer_rows import Layout


class FewRows:
    """The rows U (G, n, D) and outputs E (G, n, O) themselves, in float64; all of them.

    Example:
        >>> few = FewRows(Layout(1, 3, 1))
        >>> few.add(torch.eye(3)[None, :2], torch.ones(1, 2, 1))
        >>> few.joined(few).rows, few.about_means(intercept=True)[0][0].tolist()
        (4, [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]])
    """

    def __init__(self, layout: Layout, *, device: torch.device | None = None) -> None:
        sizes = [(layout.blocks, 0, width) for width in (layout.unknowns, layout.outputs)]
        U, E = (torch.zeros(size, dtype=torch.float64, device=device) for size in sizes)
        self.rows = 0
        self._held: list[tuple[Tensor, Tensor]] = [(U, E)]

    @staticmethod
    def bytes_for(layout: Layout, rows: int) -> int:
        """Return what so many rows take; as much again while they are put together."""
        return 2 * 8 * layout.blocks * rows * (layout.unknowns + layout.outputs)

    def add(self, U: Tensor, E: Tensor) -> None:
        """Add rows U (G, n, D) and their outputs E (G, n, O)."""
        self._held.append((U.double(), E.double()))
        self.rows += U.shape[1]

    def joined(self, other: FewRows) -> FewRows:
        """Return the rows of both."""
        both = copy.copy(self)
        both._held, both.rows = self._held + other._held, self.rows + other.rows
        return both

    def to(self, device: torch.device) -> FewRows:
        """Return the rows on a device."""
        moved = copy.copy(self)
        moved._held = [(U.to(device), E.to(device)) for U, E in self._held]
        return moved

    def about_means(self, *, intercept: bool) -> tuple[Tensor, Tensor]:
        """Return U and E about their means with an intercept, as they are without.

        An input that is constant but for rounding counts as zero about its mean.
        """
        U, E = (torch.cat(parts, dim=1) for parts in zip(*self._held, strict=True))
        if intercept:
            squares = U.square().sum(1)
            U, E = U - U.mean(1, keepdim=True), E - E.mean(1, keepdim=True)
            U = U * varying(U.square().sum(1), squares)[:, None]
        return U, E
