"""Where the values of tensors lie in memory, by which one tensor is known under several names."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def address(tensor: Any) -> int:
    """Return where a tensor's values begin, which in-place operations and views keep; 0 for what has no such place.

    Example:
        >>> import torch
        >>> values = torch.zeros(2, 2)
        >>> address(values.relu_()) == address(values[0]) == address(values) != address(values[1])
        True
        >>> address("no tensor")
        0
    """
    if not isinstance(tensor, Tensor):
        return 0
    try:
        return int(tensor.data_ptr())
    except RuntimeError:  # sparse and other layouts without one storage
        return 0
