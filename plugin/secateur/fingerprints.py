"""Short hashes that tell networks and their weights from others."""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.addresses import address
from secateur.modes import evaluating, own_copy

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


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


def operations_of(model: nn.Module, inputs: Tensor) -> str:
    """Return a short hash of what a network in evaluation mode does with inputs: what its code says beside its weights.

    It is of the operations in their order, each with its numbers and with which tensors it takes, of what shape and
    type, whichever modules and functions ask for them: another activation, another stride or another wiring gives
    another hash, other weights do not. Other versions of torch may take other operations for the same code.

    Args:
        model: the network, which is left as it was.
        inputs: a batch (N, ...) that it accepts.

    Raises: whatever the network raises.

    Cost: one forward pass, and some 50 microseconds an operation.

    Example:
        >>> linear, images = nn.Linear(2, 2), torch.ones(1, 2)
        >>> relu, other = nn.Sequential(linear, nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> operations_of(relu, images) == operations_of(other, images)
        True
        >>> operations_of(relu, images) == operations_of(nn.Sequential(linear, nn.SiLU()), images)
        False
    """
    given = own_copy(model, inputs)
    named = itertools.chain(model.named_parameters(), model.named_buffers(), [("inputs", given)])
    seen = _Operations(named)
    with evaluating(model), torch.no_grad(), seen:
        model(given)
    return seen.digest.hexdigest()[:16]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves the base untyped
    """Hashes each operation with the names of the tensors that it takes; a result has the operation's number."""

    supports_higher_order_operators = True  # such as torch.cond, whose branch is an operation like others

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.digest = hashlib.sha256()
        self._count = 0
        self._names: dict[int, tuple[str, weakref.ref[Tensor]]] = {}  # by address, which a later tensor may take over
        for name, tensor in named:
            self._give(name, tensor)

    def _give(self, name: str, tensor: Tensor) -> None:
        if place := address(tensor):
            self._names[place] = name, weakref.ref(tensor)

    def _told(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value if isinstance(value, PLAIN) else type(value).__name__
        name, named = self._names.get(address(value), ("", None))
        alive = named is not None and named() is not None
        return name if alive else "", tuple(value.shape), value.dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._count += 1
        self.digest.update(repr((str(func), *map(self._told, tree_leaves((args, kwargs))))).encode())
        made = func(*args, **kwargs)
        for number, value in enumerate(tree_leaves(made)):
            if isinstance(value, Tensor):
                self._give(f"{self._count}.{number}", value)
        return made
