"""Ranks that are certain, by counting eigenvalues instead of computing them; the few that are not are left open.

`torch.linalg.matrix_rank` counts the singular values of a float32 map A that are larger than

    tol = sigma_1 max(H, W) eps,                eps = 2^-23

and finds all of them first. To count is cheaper. With G = A A^T in float64 (or A^T A, whichever is smaller, without the
rows and columns of zeros), Sylvester's law of inertia says: in any factorization G - s I = L D L^T as many entries of D
are positive as singular values of A lie above sqrt(s). Two counts, at an s below tol^2 and at one above, that agree are
the rank. If the upper count is full, which it is for five maps of six, there is no need for the lower.

What makes the count certain:

* *sigma_1 is bounded, not computed.* sigma_1^2 is the largest eigenvalue of G: at most its Frobenius norm, at least
  |G x| / |x| for any x.
* *Rounding in float64 is bounded afterwards.* The products that make G are wrong by at most (p + 1) u tr(G), p numbers
  a product, u = 2^-53; the factors belong to a matrix that differs from G - s I by at most
  (m + 1) u tr(|L| |D| |L^T|), which is known once they are made ([Higham2002]_, theorems 3.5 and 10.3, without second
  order). If twice their sum is more than a sixteenth of s the map is left open, and s is moved by that sixteenth to the
  safe side. No pivoting is needed for that.
* *The rounding of the definition is left room.* A float32 singular value decomposition is itself wrong, by a few times
  2^-24 sigma_1, and no theorem about LAPACK is as narrow as tol. So maps are left open that have a singular value
  within a quarter of tol from it, or within 8 x 2^-24 sigma_1 if that is more. In all that was tried, real maps and
  matrices made for it, decompositions of singular values near tol were wrong by at most half of that. Left open are
  also maps whose norm comes near the ends of float32's range, where tol itself is lost.

Of a million feature maps of a trained ResNet-56 some 1,700 stay open. Whoever asks has them decomposed.

.. [Higham2002] N. J. Higham. Accuracy and stability of numerical algorithms, 2nd edition. SIAM 2002.
"""

from __future__ import annotations

import torch
from torch import Tensor

OPEN = -1  # in place of a rank: not certain
ROUNDING = 1 / 16  # share of a shift that is kept for rounding in float64
UNIT = 2.0**-53  # float64's unit roundoff
SCALES = (1e-24, 1e24)  # squared Frobenius norms between which float32 neither over- nor underflows on the way
CHUNK = 2**16  # numbers that the torch path works on at a time, on the processor: they fit its second-level cache


def bounds(height: int, width: int) -> tuple[float, float]:
    """Return (below, above): the squares of the tolerance without and with its margin, for sigma_1 = 1.

    `below` is 0 for maps with at most four rows and columns, where 8 x 2^-24 is all of the tolerance.

    Example:
        >>> below, above = bounds(32, 32)
        >>> round((below / above) ** 0.5, 3), bounds(4, 3)[0]
        (0.6, 0.0)
    """
    side = max(height, width)
    tolerance, margin = side * 2.0**-23, max(1 / 4, 4 / side)
    return (tolerance * max(0.0, 1 - margin)) ** 2, (tolerance * (1 + margin)) ** 2


def certified_ranks(matrices: Tensor) -> Tensor:
    """Return the rank of each matrix where it is certain: (M, H, W) float32 -> (M,) int64, else `OPEN`.

    Matrices that hold NaN or infinity stay open.

    On the processor numba's machine code is used where numba can be imported (`pip install secateur[fast]`), otherwise
    batched torch functions; the ranks given are the same, which maps stay open may differ.

    Cost: about H W min(H, W) (1/2 + 1/6) multiply-accumulates a map, 2 us for 32 x 32 and 0.2 us for 8 x 8 on one core,
    on half of the threads that torch may use; several times that without numba.

    Example:
        >>> certified_ranks(torch.stack([torch.zeros(8, 8), torch.eye(8), torch.ones(8, 8)])).tolist()
        [0, 8, 1]
    """
    if matrices.device.type != "cpu":
        return ranks_by_torch(matrices)
    try:
        from secateur.criteria import compiled_rank  # here, because numba takes a second to import
    except ImportError:  # no numba, or one that does not go with this numpy
        return ranks_by_torch(matrices)
    return compiled_rank.certified_ranks(matrices)


def ranks_by_torch(matrices: Tensor) -> Tensor:
    """Do what `certified_ranks` does with batched torch functions, on any device."""
    matrices = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    size = CHUNK if matrices.device.type == "cpu" else 64 * CHUNK
    chunks = torch.split(matrices, max(1, size // matrices[0].numel()))
    return torch.cat([_ranks_of_chunk(chunk) for chunk in chunks])


def _ranks_of_chunk(matrices: Tensor) -> Tensor:
    """Certify one chunk, H <= W: by a Cholesky factor where the rank is the number of live rows, else by eigenvalues.

    Eigenvalues of G are as good as two counts of pivots: their error too is a small multiple of u tr(G). Dead rows get
    a positive diagonal number, so that the live rows decide whether there is a Cholesky factor.
    """
    _, H, W = matrices.shape
    below, above = bounds(H, W)
    numbers = matrices.double()
    G = numbers @ numbers.mT
    diagonal = G.diagonal(dim1=1, dim2=2)
    trace, norm = diagonal.sum(1), G.flatten(1).norm(dim=1)
    shift = above * norm
    error = 2 * UNIT * (W + H + 2) * trace
    usable = (trace >= SCALES[0]) & (trace <= SCALES[1]) & (error <= ROUNDING * shift)
    moved = torch.where(diagonal > 0, (-1 - ROUNDING) * shift[:, None], trace[:, None])
    full = usable & (torch.linalg.cholesky_ex(G + torch.diag_embed(moved)).info == 0)
    alive = (matrices != 0).any(2).sum(1)
    ranks = torch.where(alive == 0, 0, torch.where(full, alive, OPEN))
    rest = (usable & ~full).nonzero()[:, 0]
    if below > 0 and len(rest):
        values, slack = torch.linalg.eigvalsh(G[rest]), error[rest][:, None]
        at_least = (values - slack > above * values[:, -1:]).sum(1)
        at_most = (values + slack > below * values[:, -1:]).sum(1)
        ranks[rest] = torch.where(at_least == at_most, at_least, OPEN)
    return ranks
