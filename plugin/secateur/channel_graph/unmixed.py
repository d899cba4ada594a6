"""Two networks compared as if their normalisations over channels used one fixed number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
_FUNCTIONS = (functional.layer_norm, functional.group_norm, functional.local_response_norm)


class Unmixed:
    """Turns normalisations over channels into x / s * gain + shift, where s is the same in every network.

    What such a normalisation gives one channel depends on the others, so a network without some of them computes other
    numbers than one in which they are masked, however right the surgery was. With s, the root mean square of x in the
    network that runs first, channels stay apart, and any difference that is left says that they were mapped wrongly.

    Example:
        >>> norm, unmixed, x = nn.LayerNorm(4), Unmixed(), torch.tensor([3.0, 3.0, 3.0, 3.0])
        >>> with unmixed.running():
        ...     print(norm(x).detach())
        tensor([1., 1., 1., 1.])
        >>> with unmixed.running():
        ...     print(norm(2 * x).detach())
        tensor([2., 2., 2., 2.])
    """

    def __init__(self) -> None:
        self._sizes: list[float] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """In the block run a network once, the first time the one whose sizes count."""
        with _Instead(self._sizes):
            yield


class _Instead(TorchFunctionMode):
    def __init__(self, sizes: list[float]) -> None:
        super().__init__()
        self._sizes = sizes
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _FUNCTIONS:
            return func(*args, **kwargs)
        given = dict(zip(("input", "sizes", "weight", "bias"), args, strict=False)) | kwargs
        x: Tensor = given["input"]
        if self._calls == len(self._sizes):
            self._sizes.append(float(x.float().square().mean().sqrt()) or 1.0)
        y = x / self._sizes[self._calls]
        self._calls += 1
        if func is functional.local_response_norm:
            return y
        for name, combine in (("weight", torch.mul), ("bias", torch.add)):
            if (tensor := given.get(name)) is not None:
                last = func is functional.layer_norm  # of which the gains lie along the last axes
                y = combine(y, tensor if last else tensor.view(-1, *[1] * (x.ndim - 2)))
        return y
