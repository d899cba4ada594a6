"""How a network is run and left as it was found: on which device, and in which mode, module by module."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, every module of `model` is in eval mode; after it, in the mode that it was in before.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.ReLU().eval())
        >>> with evaluating(net):
        ...     [module.training for module in net]
        [False, False]
        >>> [module.training for module in net]
        [True, False]
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def laid_out(model: nn.Module, layout: torch.memory_format | None) -> Iterator[None]:
    """Within the block, kernels (C_out, C_in, k, k) lie in memory as `layout` has it, if given; after it, as before.

    Example:
        >>> net = nn.Conv2d(3, 4, 2)
        >>> with laid_out(net, torch.channels_last):
        ...     net.weight.stride()
        (12, 1, 6, 3)
        >>> net.weight.stride()
        (12, 4, 2, 1)
    """
    kernels = [(p, p.stride()) for p in model.parameters() if p.ndim == 4]
    for kernel, _ in kernels:
        kernel.data = kernel.data if layout is None else kernel.data.contiguous(memory_format=layout)
    try:
        yield
    finally:
        for kernel, stride in kernels:
            kernel.data = torch.empty_strided(kernel.shape, stride, dtype=kernel.dtype, device=kernel.device).copy_(
                kernel.data
            )


def device_of(model: nn.Module) -> torch.device:
    """Return where the first parameter or buffer of `model` lies; the CPU if it has none."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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
