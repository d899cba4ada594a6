"""Ranks that are certain by `secateur.criteria.rank_certificate`, by compiled code or by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.rank_certificate import OPEN, ROUNDING, SCALES, UNIT, bounds

CHUNK = 2**16  # numbers that the torch path works on at a time, on the processor: they fit its second-level cache


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
