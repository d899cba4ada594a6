"""Whole numbers of a few bits, side by side in bytes.

Number n takes the bits n * b up to (n + 1) * b - 1 of the stream, its lowest bit first, and bit k of the stream is bit
k % 8 of byte k // 8; signed numbers are stored as their remainder modulo 2^b. What is left of the last byte is zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateur.errors import CheckpointError

PART = 2**16  # numbers at a time, so that their single bits take little memory; a multiple of 8 ends at a whole byte


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` numbers of `bits` bits take: ceil(count * bits / 8)."""
    return -(-count * bits // 8)


def pack(values: Tensor, bits: int) -> Tensor:
    """Return whole numbers (n,) as bytes (ceil(n * bits / 8),), uint8; each must fit `bits` bits, signed or not.

    Example:
        >>> pack(torch.tensor([1, -1, 2]), 4).tolist()  # 0x1, 0xf, 0x2
        [241, 2]
    """
    given, parts = values.cpu().numpy(), [np.zeros(0, np.uint8)]
    for begin in range(0, len(given), PART):
        numbers = given[begin : begin + PART].astype(np.int64) & ((1 << bits) - 1)
        stream = (numbers[:, None] >> np.arange(bits)) & 1
        parts.append(np.packbits(stream.astype(np.uint8).reshape(-1), bitorder="little"))
    return torch.from_numpy(np.concatenate(parts))


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
    given, found = stream.cpu().numpy(), np.empty(count, np.int32)
    for begin in range(0, count, PART):
        own = found[begin : begin + PART]
        part = given[packed_bytes(begin, bits) : packed_bytes(begin + len(own), bits)]
        single = np.unpackbits(part, bitorder="little")[: len(own) * bits].reshape(-1, bits)
        numbers = (single.astype(np.int64) << np.arange(bits)).sum(1)
        own[:] = numbers - ((numbers >> (bits - 1)) << bits) if signed else numbers
    return torch.from_numpy(found)
