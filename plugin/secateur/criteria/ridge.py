"""Ridge regression from the channels of a layer to targets, and what each channel is worth to it.

Flatten every image's feature maps to one row of X (N, D), D = C*H*W, centre X and the targets Y (N, L) over the
images, and let

    V = (X'X + rho I)^-1,       F = V X'Y       (D, L)

be the regression of Y on X with a free intercept. It explains

    E = tr(Y'X F) = |Y|^2 - min over F of ( |X F - Y|^2 + rho |F|^2 ),       0 <= E <= |Y|^2.

Channel c owns the block of P = H*W features S_c. Two answers to what it is worth:

    mask_derivatives:   dE/dm_c at m = 1, where m_c multiplies the block    = 2 rho |F[S_c]|^2
    removal_losses:     E with all channels - E without channel c           = tr( F[S_c]' (V[S_c, S_c])^-1 F[S_c] )

The second is exact; the first needs one product. Always removal_losses >= mask_derivatives / 2.

Everything is solved in float64 by Cholesky factors of the smaller matrix: X'X (primal, D <= N) or XX' (dual, D > N).
With A = (XX' + rho I)^-1 Y the dual reads F = X'A, and because rho V[S_c, S_c] = I - H_c with
H_c = X_c' (XX' + rho I)^-1 X_c, the loss is rho tr( F_c' (I - H_c)^-1 F_c ); where a block has more features than there
are images it is

    rho ( |F_c|^2 + tr( R' (XX' + rho I - X_c X_c')^-1 R ) ),       R = X_c F_c,

which holds nothing larger than N x N, loses no digits to a difference and is exactly zero for a dead channel.

The dual's two products, XX' and X'A, are nearly all of the work (`secateur.criteria.map_products`). In "mixed"
precision `mask_derivatives` makes them in float32. Rounding then moves XX' by about e |Z|^2, e = 2^-23, where Z are the
numbers multiplied, and hence F by no more than about

    e |A| |Z| ( 1 + |Z| |(XX' + rho I)^-1|^(1/2) )        beside        |F|^2 = tr(A' XX' A),

which the small matrices tell. Where their quotient is above `ROUNDING` (images that repeat, hardly more features than
images, enormous numbers), everything is multiplied again in float64. Real rounding stays some hundred times below the
bound.

The targets are class indicators in discriminant information; they may be anything else, such as the outputs of the
layer that reads the channels.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from secateur.criteria.inputs import as_feature_maps, is_finite
from secateur.criteria.map_products import block_norms, blocks, channels_at_once, float32_products_are_whole, gram
from secateur.errors import ConfigError, DataError

Form = Literal["auto", "primal", "dual"]
Precision = Literal["mixed", "double"]
ROUNDING = 2e-3  # the largest bound on how much, relatively, float32 may move F; common networks stay below 1.2e-3
SMALL = 2**18  # numbers of the maps whose products cost next to nothing, in float64 too
MEMORY = 2**31  # bytes


def explained_variation(
    feature_maps: Tensor, targets: Tensor, *, rho: float, form: Form = "auto", memory: int = MEMORY
) -> Tensor:
    """Return E, how much of the targets' variation the feature maps explain: a scalar, float64, 0 <= E <= |Y|^2.

    Args and errors as in `mask_derivatives`. Cost: one pass over the maps, in float64.

    Example:
        >>> explained_variation(torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-1.0]]), rho=2.0)
        tensor(1., dtype=torch.float64)
    """
    work = _prepare(feature_maps, targets, rho, form, memory)
    if work.primal:
        X, _, F = _primal(work)
        return ((X.mT @ work.Y) * F).sum()
    G, _, A, _ = _dual(work, "double")
    return (work.Y * (G @ A)).sum()


def mask_derivatives(
    feature_maps: Tensor,
    targets: Tensor,
    *,
    rho: float,
    form: Form = "auto",
    precision: Precision = "mixed",
    memory: int = MEMORY,
) -> Tensor:
    """Return dE/dm_c = 2 rho |F[S_c]|^2 for every channel: (C,), float64, >= 0, zero for a channel that never changes.

    Args:
        feature_maps: (N, C, H, W), or (N, C) taken as maps of one pixel; any floating type.
        targets: (N, L), centred here.
        rho: the ridge, > 0, in the unit of X'X (a sum over images of squared activations).
        form: "primal", "dual", or "auto" for the smaller of the two; the answer is the same.
        precision: of the dual's products, "double", or "mixed": float32 for float32 maps of at least `SMALL` numbers
            whose bound on rounding (see the module) allows it. The answers, which go by the square of F, are within
            twice that bound, 4e-3, of the largest of those in double precision; 1e-6 on the maps of common networks.
        memory: bytes that may be held beside the maps; fewer channels are multiplied at a time to keep to it.

    Raises:
        ConfigError: rho is not a positive number, or is so small beside X'X that float64 cannot solve; unknown form or
            precision; too little memory for a single channel.
        DataError: feature maps or targets cannot be used.

    Cost: dual N^2 D + 2 N D L operations and O(N^3), two passes over the maps, memory O(N^2) and some 20 MiB or what
    one channel needs, about 32 (N + L) H W bytes; primal O(N D^2 + D^3), memory that of the maps in float64. Nothing
    of the size D x D is made where D > N.

    Example:
        >>> maps, targets = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0], [-1.0]])
        >>> mask_derivatives(maps, targets, rho=2.0)
        tensor([1., 0.], dtype=torch.float64)
    """
    if precision not in ("mixed", "double"):
        raise ConfigError(f"unknown precision {precision!r}; allowed: mixed, double")
    work = _prepare(feature_maps, targets, rho, form, memory)
    if work.primal:
        _, _, F = _primal(work)
        return 2 * rho * F.view(work.maps.shape[1], -1, F.shape[1]).square().sum((1, 2))
    _, _, A, dtype = _dual(work, precision)
    return 2 * rho * block_norms(work.maps, A, work.channels, dtype)


def removal_losses(
    feature_maps: Tensor, targets: Tensor, *, rho: float, form: Form = "auto", memory: int = MEMORY
) -> Tensor:
    """Return E - E(without channel c) for every channel: (C,), float64, >= 0, zero for a channel that never changes.

    Each loss is that of removing this channel alone: of two equal channels both lose next to nothing, because the other
    stays. To remove several, remove one and ask again.

    Args and errors as in `mask_derivatives`; all of it is float64. Cost: beyond the one told there,
    O(C K^3 + C N P min(N, P)) with K = min(N, P) in the dual, O(D^3 + D P^2) in the primal; 48 K^2 bytes more for each
    channel that is worked on at a time.

    Example:
        >>> maps, targets = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0], [-1.0]])
        >>> removal_losses(maps, targets, rho=2.0)
        tensor([1., 0.], dtype=torch.float64)
    """
    work = _prepare(feature_maps, targets, rho, form, memory)
    N, C, H, W = work.maps.shape
    P = H * W
    if work.primal:
        _, factor, F = _primal(work)
        V = torch.cholesky_inverse(factor).view(C, P, C, P).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return block_losses(V, F.view(C, P, -1))
    G, factor, A, _ = _dual(work, "double")
    losses = []
    for Z in blocks(work.maps, work.channels, torch.float64):
        X = (Z - Z.mean(0)).transpose(0, 1)
        F = X.mT @ A
        if N < P:
            losses.append(F.square().sum((1, 2)) + block_losses(_add_ridge(G - X @ X.mT, rho), X @ F))
        else:
            solved = torch.linalg.solve_triangular(factor, X, upper=False)
            losses.append(block_losses(_add_ridge(-solved.mT @ solved, 1.0), F))
    return rho * torch.cat(losses)


def total_variation(feature_maps: Tensor, *, memory: int = MEMORY) -> float:
    """Return |X|^2, the summed squares of the centred feature maps (N, C, H, W), in float64: the trace of X'X.

    Example:
        >>> total_variation(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        2.0
    """
    maps = as_feature_maps(feature_maps)
    channels = channels_at_once(maps, columns=0, memory=memory)
    return sum(float((Z - Z.mean(0)).square().sum()) for Z in blocks(maps, channels, torch.float64))


class _Work(NamedTuple):
    """What there is to solve: maps (N, C, H, W), targets Y (N, L) centred in float64, how many channels at a time."""

    maps: Tensor
    Y: Tensor
    rho: float
    primal: bool
    channels: int


def _prepare(feature_maps: Tensor, targets: Tensor, rho: float, form: Form, memory: int) -> _Work:
    if not (math.isfinite(rho) and rho > 0):
        raise ConfigError(f"rho is {rho}; it must be a positive number (without it the regression is not defined)")
    if form not in ("auto", "primal", "dual"):
        raise ConfigError(f"unknown form {form!r}; allowed: auto, primal, dual")
    maps = as_feature_maps(feature_maps)
    N, D = len(maps), maps[0].numel()
    if targets.ndim != 2 or len(targets) != N or not targets.numel() or not is_finite(targets):
        raise DataError(
            f"targets must be finite numbers (N, L) with one row for each of {N} images; "
            f"they have the shape {tuple(targets.shape)}"
        )
    Y = targets.detach().to(maps.device, torch.float64)
    Y = Y - Y.mean(0)  # centring the maps alone would do, but loses digits where rho is small
    if Y.shape[1] > N:
        Y = torch.linalg.qr(Y.mT, mode="r").R.mT  # every answer depends on YY' alone
    channels = channels_at_once(maps, columns=Y.shape[1], memory=memory)
    return _Work(maps, Y, rho, form == "primal" or (form == "auto" and D <= N), channels)


def _primal(work: _Work) -> tuple[Tensor, Tensor, Tensor]:
    """Return X (N, D), the factor of X'X + rho I, and F (D, L)."""
    Z = torch.cat([block.flatten(1) for block in blocks(work.maps, work.channels, torch.float64)], dim=1)
    X = Z - Z.mean(0)
    factor = _cholesky(_add_ridge(X.mT @ X, work.rho))
    return X, factor, torch.cholesky_solve(X.mT @ work.Y, factor)


def _dual(work: _Work, precision: Precision) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
    """Return G = XX' (N, N), a factor of G + rho I, A (N, L), and the type in which products may be made.

    G is singular along the vector of ones, which no target sees; there the matrix gets the mean eigenvalue beside rho,
    lest its inverse be large for that alone.
    """
    wide = work.maps.dtype == torch.float64 or work.maps.numel() < SMALL
    if precision == "mixed" and not wide and float32_products_are_whole():
        G, energy = gram(work.maps, work.channels, torch.float32)
        factor, failed = torch.linalg.cholesky_ex(_add_ridge(G, work.rho) + G.trace() / len(G) ** 2)
        A = torch.cholesky_solve(work.Y, factor)
        if not bool(failed) and _rounding(G, factor, A, energy) <= ROUNDING:
            return G, factor, A, torch.float32
    G, _ = gram(work.maps, work.channels, torch.float64)
    factor = _cholesky(_add_ridge(G, work.rho) + G.trace() / len(G) ** 2)
    return G, factor, torch.cholesky_solve(work.Y, factor), torch.float64


def _rounding(G: Tensor, factor: Tensor, A: Tensor, energy: float) -> float:
    """Return the bound on |change of F| / |F| when products are made in float32 (NaN where F is 0); see the module."""
    root: Tensor = torch.linalg.solve_triangular(factor, torch.eye(len(G), dtype=G.dtype, device=G.device), upper=False)
    inverse = float(root.abs().sum(0).max() * root.abs().sum(1).max())  # at least the inverse's largest eigenvalue
    spread = torch.finfo(torch.float32).eps * math.sqrt(energy) * (1 + math.sqrt(energy * inverse))
    return float(spread * A.norm() / (A * (G @ A)).sum().sqrt())


def block_losses(M: Tensor, R: Tensor) -> Tensor:
    """Return tr(R_c' M_c^-1 R_c), (c,), of positive definite matrices M (c, K, K) and R (c, K, L): eq. (5).

    Raises:
        ConfigError: a matrix is not positive definite in float64.

    Example:
        >>> block_losses(torch.tensor([[[4.0]]]), torch.tensor([[[6.0]]]))
        tensor([9.])
    """
    factor = _cholesky(M)
    if R.shape[2] > 2 * R.shape[1]:  # RR' is smaller
        return torch.cholesky_solve(R @ R.mT, factor).diagonal(dim1=1, dim2=2).sum(1)
    Z: Tensor = torch.linalg.solve_triangular(factor, R, upper=False)
    return Z.square().sum((1, 2))


def _add_ridge(M: Tensor, rho: float) -> Tensor:
    return M + rho * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)


def _cholesky(M: Tensor) -> Tensor:
    factor: Tensor
    info: Tensor
    factor, info = torch.linalg.cholesky_ex(M)
    if bool((info != 0).any()):
        raise ConfigError(
            "rho is too small beside the feature maps: float64 cannot tell their Gram matrix from a singular one; "
            "use a larger rho, or rho_mode='relative'"
        )
    return factor
