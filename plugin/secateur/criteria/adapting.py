"""What a reader of channels gives, and how its best weights change as channels go.

For `secateur.criteria.reconstruction`. What a channel c costs, and what it leaves, is told by V = (U'U + r I)^-1 and
B = V U'T. With V_cc = R'R and Q = V[:, c] R^-1,

    loss_c = tr( B_c' (V_cc)^-1 B_c ),      B <- B - Q R'^-1 B_c,      V <- V - Q Q'        once c goes.

Two ways to hold V. A `Reading` has U'U and makes V of it, D x D numbers. A `RowReading` has the rows U (n, D)
themselves, fewer than columns, and makes the dual of it, n x n numbers:

    G = (U U' + r I)^-1,      V = (I - U'G U) / r,      B = U'G T,      |T|^2 - tr(T'U B) = r tr(T'G T),

where with q = R'^-1 (G U_c)' G becomes G + q'q / r once c goes. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secateur.criteria.ridge import block_losses
from secateur.errors import ConfigError
from secateur.index_maps import Indices

DELAY = 8  # an inverse is brought up to date once an eighth of its columns is gone


class Reader(Protocol):
    """What one reader of the channels gives: a `Reading` or a `RowReading`."""

    @property
    def owned(self) -> Indices: ...
    def adapting(self, ridge: float) -> Adapting: ...
    def in_order(self, order: Sequence[int], ridge: float) -> tuple[float, Tensor]: ...


@dataclass(frozen=True)
class Reading:
    """What one reader of the channels gives: U'U (D, D), U'T (D, O), |T|^2, and the columns of U that each owns.

    `owned` has one entry for each channel of the group: all entries that are not empty are of one length. A channel
    with an empty entry is not read by this layer; columns that no entry names belong to other channels, and stay.

    Example:
        >>> reading = Reading(torch.diag(torch.tensor([4.0, 1.0])), torch.ones(2, 1), 2.0, ((0,), (1,)))
        >>> error, losses = reading.in_order([1, 0], ridge=1e-9)
        >>> round(error, 3), [round(loss, 3) for loss in losses.tolist()]
        (0.75, [1.0, 0.25])
    """

    UU: Tensor
    UT: Tensor
    TT: float
    owned: Indices

    def adapting(self, ridge: float) -> Adapting:
        """Return the reader with the best weights for all channels."""
        factor = self._factor(torch.arange(len(self.UU), device=self.UU.device), ridge)
        Z = torch.linalg.solve_triangular(factor, self.UT.double(), upper=False)
        V, B = torch.cholesky_inverse(factor), torch.linalg.solve_triangular(factor.mT, Z, upper=True)
        del factor  # as large as V
        own = _columns(self.owned, V.device)
        return Adapting(self.owned, _Held(V[own[:, None], own]), B[own], ridge)

    def in_order(self, order: Sequence[int], ridge: float) -> tuple[float, Tensor]:
        """Return the error with all channels, and what each adds as it goes, in that order.

        With the columns that go first put last, U'U + r I = L L' and Z = L^-1 U'T, a channel adds |Z_c|^2.
        """
        owned = [self.owned[channel] for channel in reversed(order)]
        own = _columns(owned, self.UU.device)
        stay = torch.ones(len(self.UU), dtype=torch.bool, device=own.device).index_fill_(0, own, value=False)
        columns = torch.cat([stay.nonzero()[:, 0], own])
        Z = torch.linalg.solve_triangular(self._factor(columns, ridge), self.UT[columns].double(), upper=False)
        explained = Z.square().sum(1).cpu()
        parts = explained.split([int(stay.sum()), *map(len, owned)])
        losses = torch.stack([part.sum() for part in parts])[1:].flip(0)
        return max(0.0, self.TT - float(explained.sum())), losses

    def _factor(self, columns: Tensor, ridge: float) -> Tensor:
        """Return the lower factor of U'U + r I, its columns in this order."""
        H = self.UU[columns[:, None], columns].double()
        return _factor(H, _ridge(float(H.diagonal().mean()), ridge), ridge)


@dataclass(frozen=True)
class RowReading:
    """What one reader of the channels gives where it has few rows: U (n, D) and T (n, O) themselves.

    `owned` as in `Reading`. Worth it where there are fewer rows than columns. For `adapting` V is a difference, which
    loses up to twice as many digits as the largest eigenvalue of U'U has more than r; in a given order none are lost.

    Cost, in float64: n^2 D operations in a given order; else n D d, for d columns owned by the channels. Memory: 8 n D
    bytes some seven times.

    Example:
        >>> reading = RowReading(torch.tensor([[2.0, 1.0, 3.0]]), torch.ones(1, 1), ((0,), (1,), (2,)))
        >>> error, losses = reading.in_order([0, 1, 2], ridge=3 / 14)  # r = 1, and error 1 / (1 + |U|^2)
        >>> [round(1 / e, 3) for e in (error, *(error + losses.cumsum(0)).tolist())]
        [15.0, 11.0, 10.0, 1.0]
    """

    U: Tensor
    T: Tensor
    owned: Indices

    def adapting(self, ridge: float) -> Adapting:
        """Return the reader with the best weights for all channels."""
        U, T, r = self._double(ridge)
        G, S = _dual(U, T, r, ridge)
        own = U[:, _columns(self.owned, U.device)]
        return Adapting(self.owned, _ByRows(own, G, r), own.mT @ S, ridge)

    def in_order(self, order: Sequence[int], ridge: float) -> tuple[float, Tensor]:
        """Return the error with all channels, and what each adds as it goes, in that order.

        From the last to the first they are put back, with root root' = I + X'G X, G becomes G - q'q: nothing cancels.
        """
        U, T, r = self._double(ridge)
        stay = torch.ones(U.shape[1], dtype=torch.bool, device=U.device)
        G, S = _dual(U[:, stay.index_fill_(0, _columns(self.owned, U.device), value=False)], T, r, ridge)
        losses = torch.zeros(len(order), dtype=torch.float64)
        for step, channel in reversed([*enumerate(order)]):
            X = U[:, list(self.owned[channel])]
            GX = G @ X
            root = _factor(X.mT @ GX, 1.0, ridge)
            q = torch.linalg.solve_triangular(root, GX.mT, upper=False)
            lost = torch.linalg.solve_triangular(root, X.mT @ S, upper=False)
            losses[step] = r * float(lost.square().sum())
            G.addmm_(q.mT, q, alpha=-1)
            S.addmm_(q.mT, lost, alpha=-1)
        return max(0.0, r * float((T * S).sum())), losses

    def _double(self, ridge: float) -> tuple[Tensor, Tensor, float]:
        """Return U, T and r; of T only T T' counts, so no more than n columns."""
        U, T = self.U.double(), self.T.double()
        if T.shape[1] > len(T):
            T = torch.linalg.qr(T.mT, mode="r").R.mT
        return U, T, _ridge(float(U.square().sum()) / U.shape[1], ridge)


class Adapting:
    """A reader's V and B, where they tell of the channels, as channels go.

    Columns that no channel owns adapt along, but what they become is never asked for. A loss asks for no more than B
    and the blocks V_cc, which are kept up after each removal.

    Attributes:
        channels: those that are left and read here, ascending.
    """

    def __init__(self, owned: Indices, inverse: _Held | _ByRows, B: Tensor, ridge: float) -> None:
        self.channels = torch.tensor([channel for channel, columns in enumerate(owned) if columns], dtype=torch.long)
        self._inverse, self._B, self._ridge = inverse, B, ridge
        size = max(map(len, owned), default=0)
        self._columns = torch.arange(len(B), device=B.device).view(len(self.channels), size)
        self._width = len(B)
        self._blocks = inverse.blocks(self._columns)

    def losses(self) -> Tensor:
        """Return tr(B_c' V_cc^-1 B_c) for the channels that are left."""
        try:
            return block_losses(self._blocks, self._B[self._columns])
        except ConfigError:
            raise _too_small(self._ridge) from None

    def remove(self, channel: int) -> None:
        """Take a channel away, where it is read here, and let the others adapt."""
        here = self.channels == channel
        if not bool(here.any()):
            return
        there = here.to(self._columns.device)
        S = self._columns[there][0]
        root = _root(self._blocks[there][0], self._ridge)
        Q = torch.linalg.solve_triangular(root, self._inverse.rows(S), upper=False).mT
        self._B.addmm_(Q, torch.linalg.solve_triangular(root, self._B[S], upper=False), alpha=-1)
        self._inverse.remove(S, Q, root)
        self.channels, self._columns = self.channels[~here], self._columns[~there]
        own = Q[self._columns]
        self._blocks = self._blocks[~there] - own @ own.mT
        if DELAY * (self._width - self._columns.numel()) >= self._width:
            self._settle()

    def _settle(self) -> None:
        """Drop the columns that are gone."""
        left = self._columns.flatten()
        self._inverse.keep(left)
        self._B, self._width = self._B[left], len(left)
        self._columns = torch.arange(len(left), device=left.device).view_as(self._columns)


class _Held:
    """V itself, (d, d). It lacks the removals in `late`; given many at a time, they are multiplied fast."""

    def __init__(self, V: Tensor) -> None:
        self._V, self._late = V, V[:, :0]

    def blocks(self, columns: Tensor) -> Tensor:
        """Return V_cc for the columns (C, K) of each channel: (C, K, K); before anything is removed."""
        return self._V[columns[:, :, None], columns[:, None, :]]

    def rows(self, S: Tensor) -> Tensor:
        """Return V[S], (K, d)."""
        return self._V[S] - self._late[S] @ self._late.mT

    def remove(self, _S: Tensor, Q: Tensor, _root: Tensor) -> None:
        """Take Q Q' away."""
        self._late = torch.cat([self._late, Q], dim=1)

    def keep(self, left: Tensor) -> None:
        """Drop all columns but these."""
        late = self._late[left]
        self._V = self._V[left[:, None], left].addmm_(late, late.mT, alpha=-1)
        self._late = self._V[:, :0]


class _ByRows:
    """V by the dual: (I - U'G U) / r, with U (n, d) and G (n, n). Methods as in `_Held`."""

    def __init__(self, U: Tensor, G: Tensor, r: float) -> None:
        self._U, self._G, self._r = U, G, r

    def blocks(self, columns: Tensor) -> Tensor:
        whole = self._G @ self._U
        X, GX = (M[:, columns].movedim(0, 1) for M in (self._U, whole))
        return (torch.eye(columns.shape[1], dtype=X.dtype, device=X.device) - X.mT @ GX) / self._r

    def rows(self, S: Tensor) -> Tensor:
        found = (self._G @ self._U[:, S]).mT @ self._U / -self._r
        found[torch.arange(len(S), device=S.device), S] += 1 / self._r
        return found

    def remove(self, S: Tensor, _Q: Tensor, root: Tensor) -> None:
        q = torch.linalg.solve_triangular(root, (self._G @ self._U[:, S]).mT, upper=False)
        self._G.addmm_(q.mT, q, alpha=1 / self._r)
        self._U[:, S] = 0.0

    def keep(self, left: Tensor) -> None:
        self._U = self._U[:, left]


def check_ridge(ridge: float) -> None:
    """Raise ConfigError for a ridge that leaves the weights undefined."""
    if not 0 < ridge < float("inf"):
        raise ConfigError(f"ridge is {ridge}; it must be a positive number (without it the weights are not defined)")


def _columns(owned: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor([column for columns in owned for column in columns], dtype=torch.long, device=device)


def _ridge(mean: float, ridge: float) -> float:
    """Return r from the mean of the diagonal of U'U: 1 for a reader of nothing but zeros."""
    return ridge * mean or 1.0


def _factor(H: Tensor, r: float, ridge: float) -> Tensor:
    """Return the lower factor of H + r I; H is changed."""
    H.diagonal().add_(r)
    return _root(H, ridge)


def _dual(U: Tensor, T: Tensor, r: float, ridge: float) -> tuple[Tensor, Tensor]:
    """Return G = (U U' + r I)^-1 and G T."""
    factor = _factor(U @ U.mT, r, ridge)
    return torch.cholesky_inverse(factor), torch.cholesky_solve(T, factor)


def _root(M: Tensor, ridge: float) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(M)
    if bool(failed):
        raise _too_small(ridge)
    return factor


def _too_small(ridge: float) -> ConfigError:
    return ConfigError(f"ridge {ridge} is too small: float64 cannot tell a reader's products from a singular matrix")
