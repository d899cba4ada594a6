"""Naive twins of the closed-form recovery: loops anyone can check. They import nothing of secateur."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

PLACE = {
    "zeros": lambda place, size: place if 0 <= place < size else None,
    "reflect": lambda place, size: -place if place < 0 else 2 * (size - 1) - place if place >= size else place,
    "replicate": lambda place, size: min(max(place, 0), size - 1),
    "circular": lambda place, size: place % size,
}


def rows_of_convolution(
    inputs: Tensor,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    mode: str,
    sizes: Sequence[int],
) -> Tensor:
    """The inputs (N, C, ...) under the kernel at each output position, images first: (positions, C, kernel numbers)."""
    rows = []
    for image in inputs:
        for where in itertools.product(*map(range, sizes)):
            row = []
            for channel in image:
                for tap in itertools.product(*map(range, kernel)):
                    places = [
                        PLACE[mode](w * s + t * d - p, size)
                        for w, s, t, d, p, size in zip(
                            where, stride, tap, dilation, padding, channel.shape, strict=True
                        )
                    ]
                    row.append(0.0 if None in places else float(channel[tuple(places)]))
            rows.append(row)
    count = len(list(itertools.product(*map(range, kernel))))
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), inputs.shape[1], count)


def ridge_change(U: Tensor, E: Tensor, ridge: float, *, intercept: bool) -> tuple[Tensor, Tensor]:
    """The change (D, O) and intercept (O,) that minimise |U D + 1 b' - E|^2 + r |D|^2: least squares with extra rows.

    r = ridge * mean(diag(U'U)), of U about its mean where there is an intercept.
    """
    U, E = U.double(), E.double()
    n, D = U.shape
    total = 0.0
    for d in range(D):
        about = sum(float(u) for u in U[:, d]) / n if intercept else 0.0
        total += sum((float(u) - about) ** 2 for u in U[:, d])
    r = ridge * total / D
    if r == 0:
        return torch.zeros(D, E.shape[1]).double(), E.mean(0) if intercept else torch.zeros(E.shape[1]).double()
    ones = torch.ones(n, 1).double() if intercept else torch.zeros(n, 0).double()
    pull = torch.cat([r**0.5 * torch.eye(D).double(), torch.zeros(D, ones.shape[1]).double()], 1)
    design = torch.cat([torch.cat([U, ones], 1), pull])
    wanted = torch.cat([E, torch.zeros(D, E.shape[1]).double()])
    found = torch.linalg.lstsq(design, wanted, driver="gelsd").solution
    return found[:D], found[D] if intercept else torch.zeros(E.shape[1]).double()


def squared_error(U: Tensor, E: Tensor, change: Tensor, shift: Tensor) -> list[float]:
    """|E - U change - 1 shift'|^2 of each output, row by row."""
    sums = [0.0] * E.shape[1]
    for u, e in zip(U.double(), E.double(), strict=True):
        for o in range(E.shape[1]):
            sums[o] += float(e[o] - u @ change[:, o] - shift[o]) ** 2
    return sums
