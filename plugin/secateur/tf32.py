"""To how few bits products of float32 may be rounded, on a GPU and on a processor, and how they keep all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block convolutions and matrix products keep all of float32; after it, what was set before.

    TensorFloat-32 keeps 10 bits of the mantissa: differences near 1e-3 that have nothing to do with the networks. On a
    processor the same is switched off, and bfloat16, where someone has switched it on.

    Example:
        >>> with without_tf32():
        ...     tf32_allowed()
        False
    """
    switches = _tf32_switches() + _processor_switches()
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, exact in switches:
            setattr(owner, name, exact)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def tf32_allowed() -> bool:
    """Return whether CUDA convolutions or matrix products may round to TensorFloat-32."""
    return any(getattr(owner, name) in (True, "tf32", "high", "medium") for owner, name, _ in _tf32_switches())


def rounds_on_processors() -> bool:
    """Return whether convolutions or matrix products of float32 may round to fewer bits on a processor."""
    return any(getattr(owner, name) in ("tf32", "bf16") for owner, name, _ in _processor_switches())


class _Products:
    """The precision of matrix products: "highest", "high" or "medium", which a flag for TensorFloat-32 cannot hold."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, level: str) -> None:
        torch.set_float32_matmul_precision(level)


def _tf32_switches() -> list[tuple[Any, str, object]]:
    """Return what decides it, and its value for float32: owner, attribute, value.

    From torch 2.9 on there are newer names. Once they have been used, reading the older ones is an error; until then
    networks may read these, as `torch.backends.cudnn.flags` does, and would fail if the newer were used here.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    older: list[tuple[Any, str, object]] = [(_Products(), "precision", "highest"), (cudnn, "allow_tf32", False)]
    try:
        for owner, name, _ in older:
            getattr(owner, name)
    except RuntimeError:
        return [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return older


def _processor_switches() -> list[tuple[Any, str, object]]:
    """Return the same for a processor; before torch 2.9 there is nothing to switch."""
    mkldnn: Any = torch.backends.mkldnn
    owners = [getattr(mkldnn, name) for name in ("conv", "matmul", "rnn") if hasattr(mkldnn, name)]
    return [(owner, "fp32_precision", "ieee") for owner in owners]
