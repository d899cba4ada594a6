"""Short hashes that tell networks and their weights from others."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def structure_of(model: nn.Module) -> str:
    """Return a short hash of the names and shapes of all parameters: what scores are valid for.

    Example:
        >>> structure_of(nn.Linear(2, 3)) == structure_of(nn.Linear(2, 3)) != structure_of(nn.Linear(2, 4))
        True
    """
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters(remove_duplicate=False)]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


def weights_hash(model: nn.Module) -> str:
    """Return a short hash of the values, types and names of all parameters and buffers.

    Cost: the weights are read once, on the processor, at about a second a gigabyte.

    Example:
        >>> first, second = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> weights_hash(first) == weights_hash(second)
        False
        >>> _ = second.load_state_dict(first.state_dict())
        >>> weights_hash(first) == weights_hash(second)
        True
    """
    named = itertools.chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return tensors_hash(named)


def tensors_hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return a short hash of tensors in their order: names, shapes, types and values.

    Example:
        >>> one = torch.ones(2)
        >>> tensors_hash([("a", one)]) == tensors_hash([("a", one.clone())]) != tensors_hash([("b", one)])
        True
    """
    digest = hashlib.sha256()
    for name, tensor in named:
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(repr((name, tuple(tensor.shape), values.dtype)).encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
