"""The certificate of `secateur.criteria.rank_certificate`, compiled by numba: map after map, on several threads.

Each map is factored where it lies in the first-level cache, its dead rows and columns left out, so small maps (8 x 8)
cost a fifth of a microsecond. The same certificate is written with torch in `certified_rank`; the two may leave
different maps open (they round differently), never give different ranks.

The functions below are compiled when first called (about three seconds, kept on disk where the installation or the
user's cache folder can be written). They hold no Python lock while they run, and start no threads of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.criteria.rank_certificate import OPEN, ROUNDING, SCALES, UNIT, bounds

Function = TypeVar("Function", bound=Callable[..., Any])
Matrix = NDArray[np.float64]

PART = 2**16  # numbers that a thread takes at a time: 0.1 ms of work, which pays for waking it
SUMS = {"contract", "reassoc"}  # what the compiler may do: fuse, and sum in another order. NaN and infinity stay


def compiled(function: Function) -> Function:
    """Compile without the Python lock; sums may be taken in any order, which the certificate allows for."""
    try:
        return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMS)(function))
    except RuntimeError:  # no folder in which the machine code could be kept
        return cast(Function, numba.njit(nogil=True, error_model="numpy", fastmath=SUMS)(function))


@compiled
def gram(rows: Matrix, m: int, out: Matrix) -> tuple[float, float]:
    """Write the upper triangle of G = B B^T, B the first m rows; return its trace and its squared Frobenius norm."""
    trace = squares = 0.0
    for i in range(m):
        a = rows[i]
        for j in range(i, m):
            b = rows[j]
            dot = 0.0
            for k in range(len(a)):
                dot += a[k] * b[k]
            out[i, j] = dot
            squares += 2.0 * dot * dot
        trace += out[i, i]
        squares -= out[i, i] * out[i, i]
    return trace, squares


@compiled
def positive(G: Matrix, m: int, shift: float, work: Matrix, inverse: Matrix) -> tuple[int, float]:
    """Factor G - shift I = U^T D^-1 U; return how many pivots are positive, and the trace of |U^T| |D^-1| |U|.

    The rows of U are made one by one; four earlier rows are subtracted at a time.
    """
    count, growth = 0, 0.0
    for i in range(m):
        row, given = work[i, i:m], G[i, i:m]
        for j in range(len(row)):
            row[j] = given[j]
        row[0] -= shift
        k = 0
        while k + 4 <= i:
            a, b, c, d = work[k, i], work[k + 1, i], work[k + 2, i], work[k + 3, i]
            e, f, g, h = a * inverse[k], b * inverse[k + 1], c * inverse[k + 2], d * inverse[k + 3]
            growth += abs(a * e) + abs(b * f) + abs(c * g) + abs(d * h)
            p, q, r, s = work[k, i:m], work[k + 1, i:m], work[k + 2, i:m], work[k + 3, i:m]
            for j in range(len(row)):
                row[j] -= e * p[j] + f * q[j] + g * r[j] + h * s[j]
            k += 4
        while k < i:
            a, p = work[k, i], work[k, i:m]
            e = a * inverse[k]
            growth += abs(a * e)
            for j in range(len(row)):
                row[j] -= e * p[j]
            k += 1
        pivot = row[0]
        if pivot == 0.0:
            return count, np.inf
        count += int(pivot > 0.0)
        growth += abs(pivot)
        inverse[i] = 1.0 / pivot
    return count, growth


@compiled
def live_rows(matrix: NDArray[np.float32], rows: Matrix, marks: NDArray[np.bool_]) -> int:
    """Copy what is not zero to the first rows of `rows`: the map's rows, or its columns if fewer of them live.

    Returns how many there are. `rows` must have one row more than that at most, and zeros beyond max(H, W).
    """
    H, W = matrix.shape
    height = width = 0
    marks[:] = False
    for i in range(H):
        alive = False
        for j in range(W):
            mark = matrix[i, j] != 0.0
            marks[j] |= mark
            alive |= mark
        height += int(alive)
    for j in range(W):
        width += int(marks[j])
    m = 0
    if height <= width:
        for i in range(H):
            row, given, alive = rows[m], matrix[i], False
            for j in range(W):
                row[j] = given[j]
                alive |= given[j] != 0.0
            row[W:] = 0.0
            m += int(alive)
        return m
    for j in range(W):
        if marks[j]:
            for i in range(H):
                rows[m, i] = matrix[i, j]
            rows[m, H:] = 0.0
            m += 1
    return m


@compiled
def bounded_below(G: Matrix, m: int, trace: float, squares: float, x: Matrix, y: Matrix) -> float:
    """Return a number that the largest eigenvalue of G reaches: |G x| / |x| after three steps of the power method."""
    best = squares / trace
    x[:m] = 1.0
    for _ in range(3):
        y[:m] = 0.0
        for i in range(m):
            a, dot = x[i], 0.0
            for j in range(i + 1, m):
                dot += G[i, j] * x[j]
                y[j] += G[i, j] * a
            y[i] += dot + G[i, i] * a
        before = after = 0.0
        for i in range(m):
            before += x[i] * x[i]
            after += y[i] * y[i]
        if after == 0.0:  # the rows add up to zero
            return best
        stretch = np.sqrt(after / before)
        best = max(best, stretch)
        for i in range(m):
            x[i] = y[i] / stretch
    return best


@compiled
def certify(
    matrices: NDArray[np.float32], ranks: NDArray[np.int64], below: float, above: float, scales: tuple[float, float]
) -> None:
    """Write the rank of each matrix (M, H, W) to `ranks` (M,), or OPEN; `below` and `above` are `bounds(H, W)`."""
    M, H, W = matrices.shape
    side, p = min(H, W), 8 * ((max(H, W) + 7) // 8)
    rows, marks = np.zeros((side + 1, p)), np.zeros(W, np.bool_)
    G, work = np.zeros((side, side)), np.zeros((side, side))
    x, y = np.zeros(side), np.zeros(side)
    for index in range(M):
        ranks[index] = OPEN
        m = live_rows(matrices[index], rows, marks)
        if m == 0:
            ranks[index] = 0
            continue
        trace, squares = gram(rows, m, G)
        if not scales[0] <= trace <= scales[1]:
            continue
        shift = above * np.sqrt(squares)
        at_least, growth = positive(G, m, (1.0 + ROUNDING) * shift, work, x)
        if 2 * UNIT * ((p + 1) * trace + (m + 1) * growth) > ROUNDING * shift:
            continue
        if at_least < m:
            shift = below * bounded_below(G, m, trace, squares, x, y)
            at_most, growth = positive(G, m, (1.0 - ROUNDING) * shift, work, x)
            if at_most > at_least or 2 * UNIT * ((p + 1) * trace + (m + 1) * growth) > ROUNDING * shift:
                continue
        ranks[index] = at_least


def certified_ranks(matrices: Tensor) -> Tensor:
    """Return the ranks of the matrices (M, H, W) on the processor, (M,) int64, OPEN where they are not certain."""
    M, H, W = matrices.shape
    numbers = matrices.contiguous().numpy()
    ranks = np.empty(M, np.int64)
    below, above = bounds(H, W)
    size = max(1, PART // (H * W))
    starts = iter(range(0, M, size))  # threads take the next part when they are free

    def work() -> None:
        for i in starts:
            certify(numbers[i : i + size], ranks[i : i + size], below, above, SCALES)

    # Half of torch's threads: after a convolution the others' cores are busy waiting for the next, for milliseconds.
    helpers = min(torch.get_num_threads() // 2, -(-M // size)) - 1
    if helpers < 1:
        work()
    else:
        with ThreadPoolExecutor(helpers) as pool:
            waiting = [pool.submit(work) for _ in range(helpers)]
            work()
        for helper in waiting:
            helper.result()
    return torch.from_numpy(ranks)
