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

Everything is solved in float64 by Cholesky factors of the smaller matrix: X'X (primal, D <= N) or XX' (dual, D > N),
whose products are collected over channels, a few at a time. With A = (XX' + rho I)^-1 Y the dual reads F = X'A, and
because rho V[S_c, S_c] = I - H_c with H_c = X_c' (XX' + rho I)^-1 X_c, the loss is rho tr( F_c' (I - H_c)^-1 F_c );
where a block has more features than there are images it is

    rho ( |F_c|^2 + tr( R' (XX' + rho I - X_c X_c')^-1 R ) ),       R = X_c F_c,

which holds nothing larger than N x N, loses no digits to a difference and is exactly zero for a dead channel.

The targets are class indicators in discriminant information; they may be anything else, such as the outputs of the
layer that reads the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from secateur.criteria.inputs import as_feature_maps, is_finite
from secateur.errors import ConfigError, DataError

Form = Literal["auto", "primal", "dual"]
CHUNK = 2**23  # float64 numbers made at a time from the maps: 64 MiB, more only where a single channel needs more


def explained_variation(feature_maps: Tensor, targets: Tensor, *, rho: float, form: Form = "auto") -> Tensor:
    """Return E, how much of the targets' variation the feature maps explain: a scalar, float64, 0 <= E <= |Y|^2.

    Args and errors as in `mask_derivatives`. Cost: one pass over the maps.

    Example:
        >>> explained_variation(torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-1.0]]), rho=2.0)
        tensor(1., dtype=torch.float64)
    """
    maps, Y = _prepare(feature_maps, targets, rho)
    if _is_primal(maps, form):
        X, _, F = _primal(maps, Y, rho)
        return ((X.mT @ Y) * F).sum()
    G, _, A = _dual(maps, Y, rho)
    return (Y * (G @ A)).sum()


def mask_derivatives(feature_maps: Tensor, targets: Tensor, *, rho: float, form: Form = "auto") -> Tensor:
    """Return dE/dm_c = 2 rho |F[S_c]|^2 for every channel: (C,), float64, >= 0, zero for a channel that never changes.

    Args:
        feature_maps: (N, C, H, W), or (N, C) taken as maps of one pixel; any floating type.
        targets: (N, L), centred here.
        rho: the ridge, > 0, in the unit of X'X (a sum over images of squared activations).
        form: "primal", "dual", or "auto" for the smaller of the two; the answer is the same.

    Raises:
        ConfigError: rho is not a positive number, or is so small beside X'X that float64 cannot solve; unknown form.
        DataError: feature maps or targets cannot be used.

    Cost: dual O(N^2 D + N^3 + N D L), two passes over the maps, memory N^2 and about 200 MiB; primal O(N D^2 + D^3),
    memory that of the maps in float64. Nothing of the size D x D is made where D > N.

    Example:
        >>> maps, targets = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0], [-1.0]])
        >>> mask_derivatives(maps, targets, rho=2.0)
        tensor([1., 0.], dtype=torch.float64)
    """
    maps, Y = _prepare(feature_maps, targets, rho)
    if _is_primal(maps, form):
        _, _, F = _primal(maps, Y, rho)
        return 2 * rho * F.view(maps.shape[1], -1, Y.shape[1]).square().sum((1, 2))
    _, _, A = _dual(maps, Y, rho)
    return 2 * rho * torch.cat([(X.mT @ A).square().sum((1, 2)) for X in _blocks(maps)])


def removal_losses(feature_maps: Tensor, targets: Tensor, *, rho: float, form: Form = "auto") -> Tensor:
    """Return E - E(without channel c) for every channel: (C,), float64, >= 0, zero for a channel that never changes.

    Each loss is that of removing this channel alone: of two equal channels both lose next to nothing, because the other
    stays. To remove several, remove one and ask again.

    Args and errors as in `mask_derivatives`. Cost: beyond the one told there, O(C K^3 + C N P min(N, P)) with
    K = min(N, P) in the dual, O(D^3 + D P^2) in the primal.

    Example:
        >>> maps, targets = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0], [-1.0]])
        >>> removal_losses(maps, targets, rho=2.0)
        tensor([1., 0.], dtype=torch.float64)
    """
    maps, Y = _prepare(feature_maps, targets, rho)
    C, P = maps.shape[1], maps.shape[2] * maps.shape[3]
    if _is_primal(maps, form):
        _, factor, F = _primal(maps, Y, rho)
        V = torch.cholesky_inverse(factor).view(C, P, C, P).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return _quadratic(V, F.view(C, P, -1))
    G, factor, A = _dual(maps, Y, rho)
    losses = []
    for X in _blocks(maps):
        F = X.mT @ A
        if len(Y) < P:
            losses.append(F.square().sum((1, 2)) + _quadratic(_add_ridge(G - X @ X.mT, rho), X @ F))
        else:
            Z = torch.linalg.solve_triangular(factor, X, upper=False)
            losses.append(_quadratic(_add_ridge(-Z.mT @ Z, 1.0), F))
    return rho * torch.cat(losses)


def total_variation(feature_maps: Tensor) -> float:
    """Return |X|^2, the summed squares of the centred feature maps (N, C, H, W), in float64: the trace of X'X.

    Example:
        >>> total_variation(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        2.0
    """
    return sum(float(X.square().sum()) for X in _blocks(as_feature_maps(feature_maps)))


def _prepare(feature_maps: Tensor, targets: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Check, and return the maps as (N, C, H, W) and the targets centred, in float64, beside them."""
    if not (math.isfinite(rho) and rho > 0):
        raise ConfigError(f"rho is {rho}; it must be a positive number (without it the regression is not defined)")
    maps = as_feature_maps(feature_maps)
    if targets.ndim != 2 or len(targets) != len(maps) or not targets.numel() or not is_finite(targets):
        raise DataError(
            f"targets must be finite numbers (N, L) with one row for each of {len(maps)} images; "
            f"they have the shape {tuple(targets.shape)}"
        )
    Y = targets.detach().to(maps.device, torch.float64)
    return maps, Y - Y.mean(0)  # centring the maps alone would do, but loses digits where rho is small


def _is_primal(maps: Tensor, form: Form) -> bool:
    if form not in ("auto", "primal", "dual"):
        raise ConfigError(f"unknown form {form!r}; allowed: auto, primal, dual")
    return form == "primal" or (form == "auto" and maps[0].numel() <= len(maps))


def _blocks(maps: Tensor) -> Iterator[Tensor]:
    """Yield the centred maps of a few channels at a time, (c, N, P), float64."""
    N, _, H, W = maps.shape
    for block in torch.split(maps, max(1, CHUNK // (N * H * W)), dim=1):
        X = block.to(torch.float64).flatten(2).transpose(0, 1)
        yield X - X.mean(1, keepdim=True)


def _primal(maps: Tensor, Y: Tensor, rho: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return X (N, D), the factor of X'X + rho I, and F (D, L)."""
    X = torch.cat([block.transpose(0, 1).flatten(1) for block in _blocks(maps)], dim=1)
    factor = _cholesky(_add_ridge(X.mT @ X, rho))
    return X, factor, torch.cholesky_solve(X.mT @ Y, factor)


def _dual(maps: Tensor, Y: Tensor, rho: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return G = XX' (N, N), the factor of G + rho I, and A (N, L)."""
    N = len(Y)
    G = torch.zeros(N, N, dtype=torch.float64, device=maps.device)
    for block in _blocks(maps):
        X = block.transpose(0, 1).flatten(1)
        G.addmm_(X, X.mT)
    factor = _cholesky(_add_ridge(G, rho))
    return G, factor, torch.cholesky_solve(Y, factor)


def _quadratic(M: Tensor, R: Tensor) -> Tensor:
    """Return tr(R' M^-1 R) of positive definite matrices M (c, K, K) and R (c, K, L)."""
    Z: Tensor = torch.linalg.solve_triangular(_cholesky(M), R, upper=False)
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
