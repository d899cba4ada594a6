"""Products of a layer's feature maps with themselves and with weights of the images, in bounded memory.

Flatten every image's maps (N, C, H, W) to one row of X (N, D), D = C*H*W, and let Xc be X centred over the images. The
two products are

    gram            Xc Xc'                  (N, N)
    block_norms     |X[:, S_c]' A|^2        (C,)        S_c: the features of channel c; the columns of A (N, L) sum to 0

Both are collected over a few channels at a time, from the maps less those of the first image, Z = X - 1 x_1'. Centring
Z's Gram matrix by its rows and columns gives that of Xc, and A does not see x_1: so no mean of the maps is needed, a
large one costs no digits, and a map that never changes becomes an exact zero. Products are made in float32 or float64
as asked, and added up in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.errors import ConfigError

BLOCK = 2**20  # numbers of the maps in one product: few enough for the cache, enough for two threads
STRIP = 32  # rows of the Gram matrix in one product


def channels_at_once(maps: Tensor, *, columns: int, memory: int) -> int:
    """Return how many channels of maps (N, C, H, W) may be worked on at a time, within `memory` bytes.

    Counted are, in float64, a dozen matrices (N, N + columns) once, and for each channel four copies of its maps, as
    much for its products with `columns` weights, and six matrices of the size K = min(N, H*W).

    Raises:
        ConfigError: not even one channel fits.

    Example:
        >>> channels_at_once(torch.zeros(10, 64, 4, 4), columns=3, memory=100_000)
        7
    """
    N, _, H, W = maps.shape
    once = 96 * N * (N + columns)
    channel = 32 * (N + columns) * H * W + 48 * min(N, H * W) ** 2
    if once + channel > memory:
        raise ConfigError(
            f"memory is {memory} bytes; {N} images with maps of {H} x {W} need at least {once + channel}: "
            "allow more, or use smaller batches"
        )
    return min(max(1, BLOCK // (N * H * W)), (memory - once) // channel)


def blocks(maps: Tensor, channels: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the maps of a few `channels` at a time less those of the first image, (N, c, P), P = H*W, in `dtype`.

    Example:
        >>> [block.tolist() for block in blocks(torch.tensor([[[[3.0]]], [[[5.0]]]]), 1, torch.float64)]
        [[[[0.0]], [[2.0]]]]
    """
    for block in torch.split(maps, channels, dim=1):
        numbers = block.to(dtype)
        yield (numbers - numbers[:1]).flatten(2)


def gram(maps: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return Xc Xc' (N, N), float64, and |Z|^2, the summed squares of the numbers that were multiplied.

    Products in float32 move the result by about 2^-23 |Z|^2.

    Example:
        >>> gram(torch.tensor([[[[1.0]]], [[[3.0]]]]), 1, torch.float32)
        (tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64), 4.0)
    """
    N = len(maps)
    lower = torch.zeros(N, N, dtype=torch.float64, device=maps.device)
    with full_precision(maps):
        for block in blocks(maps, channels, dtype):
            Z = block.flatten(1)
            for top in range(0, N, STRIP):  # the part above the diagonal is its mirror image
                lower[top:, top : top + STRIP] += Z[top:] @ Z[top : top + STRIP].mT
    G = lower.tril() + lower.tril(-1).mT
    means = G.mean(0)
    return G - (means + means[:, None]) + means.mean(), float(G.trace())


def block_norms(maps: Tensor, A: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Return |X[:, S_c]' A|^2 for every channel, (C,), float64, where the columns of A (N, L) sum to zero.

    Example:
        >>> block_norms(torch.tensor([[[[1.0]]], [[[3.0]]]]), torch.tensor([[-1.0], [1.0]]), 1, torch.float32)
        tensor([4.], dtype=torch.float64)
    """
    scale = A.abs().max().clamp_min(torch.finfo(A.dtype).tiny)
    W = (A / scale).mT.to(dtype)  # at most 1, so that float32 holds it whatever the maps are
    norms = []
    with full_precision(maps):
        for block in blocks(maps, channels, dtype):
            products = W @ block.transpose(0, 1)  # channel by channel, which keeps the threads busy for few columns too
            norms.append(products.double().square().sum((1, 2)))
    return torch.cat(norms) * scale.double() ** 2


def float32_products_are_whole() -> bool:
    """Return whether torch multiplies float32 matrices in float32: not if it was allowed TF32 or bfloat16 for speed.

    Example:
        >>> float32_products_are_whole()
        True
    """
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # some backend was set on its own
        return False


def full_precision(maps: Tensor) -> torch.autocast:
    """Return a context in which products keep their type also where the caller casts automatically."""
    return torch.autocast(maps.device.type, enabled=False)
