"""What a layer is called with, by place or by name: `layer(x)` and `layer(input=x)` are one call.

Hooks that look at arguments are registered with `with_kwargs=True`, and ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the first argument that a layer was called with.

    Example:
        >>> import torch
        >>> first_input((), {"input": torch.ones(1)})
        tensor([1.])
    """
    return cast(Tensor, next(iter((*args, *kwargs.values()))))


def sole_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the one argument that a layer was called with, by place or by name.

    Example:
        >>> import torch
        >>> sole_input((), {"input": torch.ones(1)})
        tensor([1.])
    """
    (inputs,) = (*args, *kwargs.values())
    return cast(Tensor, inputs)


def with_first_input(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with the first of them replaced, as a forward pre-hook returns them.

    Example:
        >>> import torch
        >>> with_first_input((), {"input": torch.ones(1), "size": 2}, torch.zeros(1))
        ((), {'input': tensor([0.]), 'size': 2})
    """
    if args:
        return (inputs, *args[1:]), dict(kwargs)
    return (), {**kwargs, next(iter(kwargs)): inputs}
