"""Naive twins of what candidates are worth: loops anyone can check. They import nothing of secateur."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mean_cross_entropy(outputs: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """The mean of -log of the label's share of exp(output)."""
    total = 0.0
    for row, label in zip(outputs, labels, strict=True):
        total -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
    return total / len(labels)


def mean_divergence(right: Sequence[Sequence[float]], outputs: Sequence[Sequence[float]]) -> float:
    """The mean of sum_k p_k log(p_k / q_k), p of the outputs that are right and q of the others."""
    total = 0.0
    for rights, row in zip(right, outputs, strict=True):
        p = [math.exp(value) / sum(math.exp(other) for other in rights) for value in rights]
        q = [math.exp(value) / sum(math.exp(other) for other in row) for value in row]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(outputs)


def best_weights(
    U: Tensor, T: Tensor, weight: Tensor, kept: Sequence[int], *, ridge: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """The weights (D, O), zero but for `kept` columns, and the intercept (O,) that come closest to T = f(U).

    They minimise |U W + 1 b' - T|^2 + r |W - W0|^2 over the kept columns, r = ridge * the mean of their sums of
    squares, about the mean where there is an intercept: one least squares with extra rows for the ridge.
    """
    U, T, W0 = U[:, kept].double(), T.double(), weight.double()[kept]
    means = (U.mean(0), T.mean(0)) if intercept else (torch.zeros(len(kept)), torch.zeros(T.shape[1]))
    U, T = U - means[0], T - means[1]
    r = ridge * float(sum((column**2).sum() for column in U.T)) / len(kept)
    rows = torch.cat([U, math.sqrt(r) * torch.eye(len(kept), dtype=torch.float64)])
    found = torch.linalg.lstsq(rows, torch.cat([T, math.sqrt(r) * W0])).solution
    full = torch.zeros(weight.shape, dtype=torch.float64)
    full[kept] = found
    return full, means[1] - means[0] @ found
