"""Whole numbers of a few bits, side by side in bytes.

Number n takes the bits n * b up to (n + 1) * b - 1 of the stream, its lowest bit first, and bit k of the stream is bit
k % 8 of byte k // 8; signed numbers are stored as their remainder modulo 2^b. What is left of the last byte is zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateur.errors import CheckpointError


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` numbers of `bits` bits take: ceil(count * bits / 8)."""
    return -(-count * bits // 8)


def pack(values: Tensor, bits: int) -> Tensor:
    """Return whole numbers (n,) as bytes (ceil(n * bits / 8),), uint8; each must fit `bits` bits, signed or not.

    Example:
        >>> pack(torch.tensor([1, -1, 2]), 4).tolist()  # 0x1, 0xf, 0x2
        [241, 2]
    """
    numbers = values.cpu().numpy().astype(np.int64) & ((1 << bits) - 1)
    stream = (numbers[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(stream.astype(np.uint8).reshape(-1), bitorder="little"))


def unpack(stream: Tensor, bits: int, count: int, *, signed: bool = True) -> Tensor:
    """Return the `count` numbers, int32, that `pack` made bytes (m,) of.

    Raises:
        CheckpointError: the bytes are more or fewer than those numbers take.

    Example:
        >>> unpack(torch.tensor([241, 2], dtype=torch.uint8), 4, 3).tolist()
        [1, -1, 2]
    """
    if stream.dtype != torch.uint8 or stream.shape != (packed_bytes(count, bits),):
        raise CheckpointError(
            f"{count} numbers of {bits} bits take {packed_bytes(count, bits)} bytes; found {stream.dtype} of shape "
            f"{tuple(stream.shape)}"
        )
    single = np.unpackbits(stream.cpu().numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    numbers = (single.astype(np.int64) << np.arange(bits)).sum(1)
    if signed:
        numbers -= (numbers >> (bits - 1)) << bits
    return torch.from_numpy(numbers.astype(np.int32))
