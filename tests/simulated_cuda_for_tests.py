"""A CUDA device where there is none: its tensors lie in the processor's memory, say `cuda:0`, and refuse to be mixed.

It shows what torch refuses on a device: an operation on tensors of both sides, a generator of the processor for numbers
drawn there, an array made without a way back; and that a computation there gives what it gives here. It shows nothing
of kernels, rounding, streams, memory or speed, and knows no inference mode: there it keeps no gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operators of aten that take indices from the host for a tensor of the device."""
COPYING = ("copy", "copy_", "_to_copy")
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
NO_ARRAY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
real_tensor = torch.tensor


class Simulated(Tensor):
    """A tensor of the device around one of the host. C++ takes it for one without data, and asks no driver."""

    inner: Tensor
    device = property(lambda _: DEVICE)
    is_cuda = property(lambda _: True)
    is_cpu = property(lambda _: False)
    is_meta = property(lambda _: False)

    @staticmethod
    def __new__(cls, inner: Tensor) -> Simulated:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> Simulated:
        return Simulated(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, operator: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operator, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Simulated:
        if id(self) not in memo:
            copied = memo[id(self)] = Simulated(self.inner.detach().clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True
            if self.grad is not None:
                copied.grad = self.grad.__deepcopy__(memo)
        return memo[id(self)]

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Simulated) -> None:
        if (other.shape, other.stride(), other.dtype) != (self.shape, self.stride(), self.dtype):
            Tensor.data.__set__(self, other)
        self.inner = other.inner

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def get_device(self) -> int:
        return 0

    def numpy(self, **_: Any) -> Any:
        raise TypeError(NO_ARRAY)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(NO_ARRAY)


def is_there(device: Any) -> bool:
    """Return whether a device is the simulated one, by the name that users or C++ have for it."""
    return torch.device(device).type in ("cuda", "meta")


def computed(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what an operator of aten gives, computed on the host; refuse what CUDA would."""
    if operator.name().startswith("aten::to."):
        named = {spec.name: value for spec, value in zip(operator._schema.arguments, args, strict=False)} | kwargs
        return moved(**named, convert=lambda inputs, **to: computed(torch.ops.aten._to_copy.default, (inputs,), to))
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Simulated)]
    name, device = operator.overloadpacket.__name__, kwargs.get("device")
    wanted = bool(there) if device is None else is_there(device)
    refuse_mixture(name, args, tensors, changes=operator._schema.is_mutable)
    if kwargs.get("generator") is not None and (wanted or there):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    wanted = isinstance(args[0], Simulated) if name == "copy_" else wanted

    def inside(value: Any) -> Any:
        return value.inner if isinstance(value, Simulated) else value

    def around(value: Any) -> Any:
        return Simulated(value) if wanted and isinstance(value, Tensor) and not isinstance(value, Simulated) else value

    on_host = tree_map(inside, kwargs) | ({} if device is None else {"device": HOST})
    found = tree_map(around, operator(*tree_map(inside, args), **on_host))
    aliases = any(result.alias_info for result in operator._schema.returns)
    return return_and_correct_aliasing(operator, args, kwargs, found) if there and aliases else found


def refuse_mixture(name: str, args: Any, tensors: list[Tensor], *, changes: bool) -> None:
    """Raise RuntimeError for tensors of both sides where CUDA takes none: numbers alone may come from the host."""
    here = [tensor for tensor in tensors if not isinstance(tensor, Simulated)]
    if any(tensor.device.type == "meta" for tensor in here):
        raise RuntimeError(f"{name} was given a tensor whose numbers are lost")
    if len(here) in (0, len(tensors)) or name in COPYING:
        return
    changed_here = changes and isinstance(args[0], Tensor) and not isinstance(args[0], Simulated)
    if name in BY_INDEX and isinstance(args[0], Simulated):
        here = [value for value in args[2:] if isinstance(value, Tensor) and not isinstance(value, Simulated)]
    if changed_here or any(tensor.ndim for tensor in here) or (name in BY_INDEX and not isinstance(args[0], Simulated)):
        raise RuntimeError(f"{MIXED} (in {name})")


def moved(self: Tensor, *, convert: Callable[..., Tensor] = torch.ops.aten._to_copy, **given: Any) -> Tensor:
    """Return a tensor as `Tensor.to` does, whatever overload of it was called; `convert` makes another."""
    like = given.get("other")
    device = given.get("device") if like is None else like.device
    dtype = (given.get("dtype") if like is None else like.dtype) or self.dtype
    there = isinstance(self, Simulated) if device is None else is_there(device)
    layout = {"memory_format": given["memory_format"]} if given.get("memory_format") is not None else {}
    same = there == isinstance(self, Simulated) and dtype == self.dtype
    if same and not given.get("copy") and not layout:
        return self
    return convert(self, dtype=dtype, device=DEVICE if there else HOST, **layout)


class Operators(TorchDispatchMode):
    """Every operator, also those that make tensors out of nothing."""

    def __torch_dispatch__(self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operator, args, kwargs or {})


class Calls(TorchFunctionMode):
    """What would ask the driver, or lose numbers, before an operator is reached."""

    def __torch_function__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        simulated = bool(args) and isinstance(args[0], Simulated)
        if call is Tensor.cuda:
            return moved(args[0], device=DEVICE)
        if call is Tensor.to and (simulated or any(_names_it(value) for value in (*args[1:], *kwargs.values()))):
            return moved(args[0], **_named(args[1:]), **kwargs)
        if simulated and call is Tensor.tolist:
            return args[0].inner.tolist()
        if simulated and call is Tensor.new_tensor:
            return real_tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
        if simulated and call in (Tensor.__getitem__, Tensor.__setitem__):
            index = tuple(map(_on_device, args[1])) if isinstance(args[1], tuple) else _on_device(args[1])
            return call(args[0], index, *args[2:])
        return call(*args, **kwargs)


def _names_it(value: Any) -> bool:
    """Return whether an argument of `Tensor.to` leads to the device."""
    if isinstance(value, str | torch.device):
        return is_there(value)
    return isinstance(value, Simulated)


def _named(args: tuple[Any, ...]) -> dict[str, Any]:
    """Return the positional arguments of `Tensor.to` by name: device, dtype or another tensor, and flags."""
    found: dict[str, Any] = {}
    for value in args:
        if isinstance(value, Tensor):
            found["other"] = value
        elif isinstance(value, torch.dtype):
            found["dtype"] = value
        elif isinstance(value, str | torch.device):
            found["device"] = value
    return found


def _on_device(index: Any) -> Any:
    """Return a part of an index; a list becomes a tensor of the device, as C++ makes one that here has no data."""
    return real_tensor(index).to(DEVICE) if isinstance(index, list | range) else index


class _WithoutGradients(contextlib.ContextDecorator):
    """In place of inference mode, whose tensors cannot be wrapped."""

    def __init__(self, mode: bool = True) -> None:
        self._mode, self._open = mode, list[Any]()

    def __enter__(self) -> None:
        self._open.append(torch.set_grad_enabled(not self._mode))
        self._open[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)


def _made_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `torch.tensor` or `torch.as_tensor`, which make their tensor on the host and then move it."""

    def made(data: Any, *, device: Any = None, **given: Any) -> Tensor:
        if isinstance(data, Simulated):
            return moved(data, device=device, **given)
        found = make(data, **given)
        return found if device is None else found.to(device)

    return made


@contextlib.contextmanager
def simulated_cuda(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block, torch finds one CUDA device, the simulated one."""
    numbers = Generator()
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "_exchange_device": lambda _: 0,
        "_maybe_exchange_device": lambda _: 0,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: "simulated",
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (2**36, 2**37),
        "manual_seed": numbers.manual_seed,
        "manual_seed_all": numbers.manual_seed,
        "get_rng_state": lambda *_: numbers.get_state(),
        "set_rng_state": lambda state, *_: numbers.set_state(state),
    }
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, answer)
    patch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None, raising=False)
    for name in ("tensor", "as_tensor"):
        patch.setattr(torch, name, _made_there(getattr(torch, name)))
    patch.setattr(
        torch,
        "inference_mode",
        lambda mode=True: _WithoutGradients()(mode) if callable(mode) else _WithoutGradients(mode),
    )
    with torch.autograd.set_multithreading_enabled(False), Calls(), Operators():
        yield
