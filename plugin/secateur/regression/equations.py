"""What should be added to a layer's weights: ridge regression of an error on the rows that the layer reads.

With the rows U (n, D) of a layer and the error E (n, O) that its outputs should lose, the change D of its weights is

    D = argmin |U D + 1 b' - E|^2 + r |D|^2 = (U'U + r I)^-1 U'E,        r = ridge * mean(diag(U'U)),

U and E centred where there is an intercept b. The ridge pulls towards the weights that the layer has, not towards zero:
no error, no change; and |E - U D - 1 b'|^2 <= |E|^2 always, on these rows.

Two ways to hold it. `NormalEquations` adds up U'U and U'E (streaming, D x D numbers); `Rows` keeps some rows and solves
D = U' (U U' + r I)^-1 E, for layers whose D x D numbers would not fit. Both take G blocks side by side (the groups of a
convolution) and compute in float64.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.errors import ConfigError, DataError, SecateurWarning
from secateur.regression.layer_rows import Layout

DOUBLE = 8  # bytes
CONSTANT = 1e-10  # a variance so far below the square of the mean is rounding
CHUNK = 2**23  # numbers of U that are made float64 at a time
STRIPS = 8  # into which U'U is cut, to multiply out no more than 9 / 16 of it
STRIP = 64  # columns of a strip, and half of the rows, from which on that pays
NAMED = 8  # layers that a warning names before it counts them


class Solution(NamedTuple):
    """The change of the weights (G, D, O) and of the intercept (G, O), and |E|^2 of each output before and after.

    Example:
        >>> one = torch.ones(1, 1)
        >>> Solution(weight=one[None], intercept=one, before=4 * one, after=one).after.item()
        1.0
    """

    weight: Tensor
    intercept: Tensor
    before: Tensor
    after: Tensor


def regression(layout: Layout, *, device: torch.device, memory: int) -> NormalEquations | Rows:
    """Return empty equations of a `layout` on a `device`: `NormalEquations`, or `Rows` where those exceed `memory`.

    `memory` counts bytes.

    Raises:
        DataError: not even a few rows fit.

    Example:
        >>> cpu = torch.device("cpu")
        >>> [type(regression(Layout(1, 100, 10), device=cpu, memory=m)).__name__ for m in (2**20, 2**16)]
        ['NormalEquations', 'Rows']
    """
    if NormalEquations.bytes_for(layout) <= memory:
        return NormalEquations(layout, device=device)
    return Rows(layout, memory=memory)


def rows_that_fit(layout: Layout, *, memory: int) -> int | None:
    """Return how many rows the equations of a `layout` take in at most, None for no limit; see `regression`.

    `memory` counts bytes.

    Example:
        >>> [rows_that_fit(Layout(1, 100, 10), memory=m) for m in (2**20, 2**16)]
        [None, 27]
    """
    return None if NormalEquations.bytes_for(layout) <= memory else Rows(layout, memory=memory).room


class NormalEquations:
    """U'U (G, D, D), U'E (G, D, O), |E|^2 (G, O) and the sums of U and E, over the rows added so far.

    Example:
        >>> equations = NormalEquations(Layout(1, 1, 1))
        >>> equations.add(torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[[2.0], [-2.0]]]))
        >>> found = equations.solve(ridge=1e-9)
        >>> round(found.weight.item(), 6), found.before.item(), round(found.after.item(), 6)
        (2.0, 8.0, 0.0)
    """

    def __init__(self, layout: Layout, *, device: torch.device | None = None) -> None:
        blocks, unknowns, outputs = layout

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(blocks, *shape, dtype=torch.float64, device=device)

        self.rows = 0
        self.inputs, self.errors, self.EE = zeros(unknowns), zeros(outputs), zeros(outputs)
        self.UU, self.UE = zeros(unknowns, unknowns), zeros(unknowns, outputs)

    @staticmethod
    def bytes_for(layout: Layout) -> int:
        """Return what adding up and solving holds at once: U'U, its copy with the ridge, and the factor."""
        return 3 * DOUBLE * layout.blocks * layout.unknowns * (layout.unknowns + layout.outputs)

    def add(self, U: Tensor, E: Tensor) -> None:
        """Add rows U (G, n, D) and their errors E (G, n, O)."""
        step = max(1, CHUNK // (U.shape[0] * U.shape[2]))
        for start in range(0, U.shape[1], step):
            u, e = (rows[:, start : start + step].double() for rows in (U, E))
            self.rows += u.shape[1]
            self.inputs += u.sum(1)
            self.errors += e.sum(1)
            _add_squares(self.UU, u)
            self.UE.baddbmm_(u.mT, e)
            self.EE += e.square().sum(1)

    def joined(self, other: NormalEquations) -> NormalEquations:
        """Return the equations of the rows of both."""
        both = self._with(
            self.inputs + other.inputs,
            self.errors + other.errors,
            self.UU + other.UU,
            self.UE + other.UE,
            self.EE + other.EE,
        )
        both.rows = self.rows + other.rows
        return both

    def to(self, device: torch.device) -> NormalEquations:
        """Return the equations on a device."""
        return self._with(*(part.to(device) for part in (self.inputs, self.errors, self.UU, self.UE, self.EE)))

    def shifted(self, change: Tensor) -> NormalEquations:
        """Return the equations for the errors E + U `change`, (G, D, O): what is missing once that is taken away."""
        product = self.UU @ change
        return self._with(
            self.inputs,
            self.errors + (self.inputs[:, None] @ change)[:, 0],
            self.UU,
            self.UE + product,
            self.EE + (change * (2 * self.UE + product)).sum(1),
        )

    def taking(self, unknowns: Tensor) -> NormalEquations:
        """Return the equations of the layer that reads only some of its inputs: those at `unknowns` (G, d)."""
        rows = unknowns[:, :, None]
        UU = self.UU.gather(1, rows.expand(-1, -1, self.UU.shape[2])).gather(
            2, unknowns[:, None].expand(-1, unknowns.shape[1], -1)
        )
        UE = self.UE.gather(1, rows.expand(-1, -1, self.UE.shape[2]))
        return self._with(self.inputs.gather(1, unknowns), self.errors, UU, UE, self.EE)

    def moments(self, *, intercept: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return U'U, U'E and |E|^2 about the means with an intercept, as they are without.

        An input that is constant but for rounding counts as zero about its mean.
        """
        if not intercept:
            return self.UU, self.UE, self.EE
        mean = self.inputs / self.rows
        UU = self.UU - mean[:, :, None] * self.inputs[:, None]
        varies = varying(_diagonal(UU), _diagonal(self.UU))
        return (
            UU * varies[:, :, None] * varies[:, None],
            (self.UE - mean[:, :, None] * self.errors[:, None]) * varies[:, :, None],
            self.EE - self.errors.square() / self.rows,
        )

    def solve(self, *, ridge: float, intercept: bool = True) -> Solution:
        """Return the change of the weights that takes most of the errors away; see the module."""
        UU, UE, EE = self.moments(intercept=intercept)
        W = _solve(UU, UE, ridge)
        after = EE - (W * (2 * UE - UU @ W)).sum(1)
        b = (self.errors - (self.inputs[:, None] @ W)[:, 0]) / self.rows if intercept else torch.zeros_like(self.errors)
        return Solution(W, b, self.EE, torch.minimum(after.clamp(min=0), self.EE))

    def _with(self, inputs: Tensor, errors: Tensor, UU: Tensor, UE: Tensor, EE: Tensor) -> NormalEquations:
        other = copy.copy(self)
        other.inputs, other.errors, other.UU, other.UE, other.EE = inputs, errors, UU, UE, EE
        return other


class Rows:
    """The rows U (G, n, D) and errors E (G, n, O) themselves, as many as fit; later ones are left out.

    Example:
        >>> rows = Rows(Layout(1, 3, 1), memory=2**10)
        >>> rows.add(torch.eye(3)[None], torch.ones(1, 3, 1))
        >>> found = rows.solve(ridge=1e-9, intercept=False)
        >>> [round(w, 6) for w in found.weight.flatten().tolist()]
        [1.0, 1.0, 1.0]
    """

    def __init__(self, layout: Layout, *, memory: int) -> None:
        self.rows = 0
        # U and E twice while they are put together, U U', its copy and its factor: 8 G (2 n (D + O) + 3 n^2) bytes
        width = 2 * (layout.unknowns + layout.outputs)
        self.room = int((math.sqrt(width**2 + 12 * memory / (DOUBLE * layout.blocks)) - width) / 6)
        if self.room < 2:
            raise DataError(
                f"{memory / 2**20:,.1f} MiB do not hold two rows of a layer with {layout.blocks * layout.unknowns:,} "
                "inputs: allow more memory"
            )
        self._held: list[tuple[Tensor, Tensor]] = []

    def add(self, U: Tensor, E: Tensor) -> None:
        """Add rows U (G, n, D) and their errors E (G, n, O), until there is no room."""
        left = self.room - self.rows
        if left > 0:
            self._held.append((U[:, :left].double(), E[:, :left].double()))
            self.rows += self._held[-1][0].shape[1]

    def shifted(self, change: Tensor) -> Rows:
        """Return the rows with the errors E + U `change`; see `NormalEquations.shifted`."""
        return self._with([(U, E + U @ change) for U, E in self._held])

    def taking(self, unknowns: Tensor) -> Rows:
        """Return the rows of the inputs at `unknowns` (G, d) alone; see `NormalEquations.taking`."""
        return self._with([(U.gather(2, unknowns[:, None].expand(-1, U.shape[1], -1)), E) for U, E in self._held])

    def solve(self, *, ridge: float, intercept: bool = True) -> Solution:
        """Return the change of the weights that takes most of the errors away; see the module."""
        U, E = (torch.cat(parts, dim=1) for parts in zip(*self._held, strict=True))
        means = U.mean(1, keepdim=True), E.mean(1, keepdim=True)
        before = E.square().sum(1)
        if intercept:
            squares = U.square().sum(1)
            U, E = U - means[0], E - means[1]
            U = U * varying(U.square().sum(1), squares)[:, None]
        K = U @ U.mT
        r = ridge * _diagonal(K).sum(1) / U.shape[2]
        W = U.mT @ _regularised(K, r, E)
        after = (E - U @ W).square().sum(1)
        b = (means[1] - means[0] @ W)[:, 0] if intercept else torch.zeros_like(E[:, 0])
        return Solution(W, b, before, after)

    def _with(self, held: list[tuple[Tensor, Tensor]]) -> Rows:
        other = copy.copy(self)
        other._held = held
        return other


def warn_of_few_rows(sizes: Mapping[str, tuple[int, int]]) -> None:
    """Warn the caller's caller, with their names, of layers with fewer rows than unknowns.

    Args:
        sizes: layer -> (rows, unknowns).

    Example:
        >>> warn_of_few_rows({"conv1": (100, 27)})  # enough of them
    """
    few = [f"{name} ({rows:,} for {unknowns:,})" for name, (rows, unknowns) in sizes.items() if rows < unknowns]
    if few:
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        warnings.warn(
            f"fewer rows than unknowns, so that the ridge decides, in {', '.join(few[:NAMED])}{more}: "
            "more images would serve better",
            SecateurWarning,
            stacklevel=3,
        )


def _add_squares(UU: Tensor, U: Tensor) -> None:
    """Add U'U to `UU` (G, D, D), in place: what lies below the diagonal is copied from above where that costs less."""
    unknowns = UU.shape[1]
    pays = U.shape[1] >= 2 * STRIP and unknowns >= STRIPS * STRIP
    width = -(-unknowns // STRIPS) if pays else unknowns
    for first in range(0, unknowns, width):
        strip = slice(first, first + width)
        UU[:, strip, first:].baddbmm_(U[:, :, strip].mT, U[:, :, first:])
        UU[:, first + width :, strip] = UU[:, strip, first + width :].mT


def _solve(UU: Tensor, UE: Tensor, ridge: float) -> Tensor:
    return _regularised(UU, ridge * _diagonal(UU).mean(1), UE)


def _diagonal(M: Tensor) -> Tensor:
    return M.diagonal(dim1=1, dim2=2)


def varying(about_mean: Tensor, about_zero: Tensor) -> Tensor:
    """Say of which inputs the sum of squares about the mean is more than what rounding leaves of a constant."""
    return about_mean > CONSTANT * about_zero


def _regularised(M: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """Return (M + ridge I)^-1 right for each block; with 1 for the ridge where M is 0, and U with it."""
    H = M.clone()
    _diagonal(H).add_(torch.where(ridge == 0, 1.0, ridge)[:, None])
    factor, failed = torch.linalg.cholesky_ex(H)
    if bool((failed != 0).any()):
        raise ConfigError("the ridge is too small: float64 cannot tell the rows' products from a singular matrix")
    return torch.cholesky_solve(right, factor)
