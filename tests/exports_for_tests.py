"""Exports in a fraction of the time: what torch's exporter makes anew for each network, the same each time, is kept.

Each export to ONNX reads the source of some five hundred functions to find out how they are called, and asks thirty
times for the operators that are there. Neither depends on the network. Here both are done once in a process; the table
of functions that an export gets is a copy of its own. Where a release of torch has other insides, nothing is kept.
Importing this file is enough. Tests that export equal networks again and again also ask for `remembered`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import marshal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

Translate = Callable[[nn.Module, Tensor, int | None], Any]


def _copies(make: Callable[..., Any]) -> Callable[..., Any]:
    kept = functools.cache(make)

    def copied(*given: Any, **options: Any) -> Any:
        found = kept(*given, **options)
        copy = type(found)()
        vars(copy).update(vars(found), functions={op: list(ways) for op, ways in found.functions.items()})
        return copy

    return copied


with suppress(ImportError, AttributeError, TypeError):
    from torch._export import utils
    from torch.onnx._constants import ONNX_DEFAULT_OPSET
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    if not hasattr(utils._materialize_cpp_cia_ops, "cache_info"):  # pytest imports this file again, to find doctests
        quick = _copies(ONNXRegistry.from_torchlib)
        quick(opset_version=ONNX_DEFAULT_OPSET)  # now, so that copies of this process have it
        ONNXRegistry.from_torchlib = staticmethod(quick)
        utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)


def remembered(translate: Translate) -> Translate:
    """Return a translation that is made once for all equal networks: of the same weights, settings and code.

    A run compares the file with its network, so that one taken for another would be told.
    """
    kept: dict[str, Any] = {}

    def translated(model: nn.Module, example: Tensor, opset: int | None) -> Any:
        parts = (*_parts(model), str(example.shape).encode(), repr((example.dtype, example.device, opset)).encode())
        key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        if key not in kept:
            kept[key] = translate(model, example, opset)
        proto = type(kept[key])()
        proto.CopyFrom(kept[key])
        return proto

    return translated


def _parts(model: nn.Module) -> Iterator[bytes]:
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, (int, float, str, tuple))}
        yield repr((name, type(module), plain)).encode()
        yield _code(type(module))
        for own, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            yield repr((own, tensor.dtype, tensor.shape)).encode()
            yield tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()


@functools.cache
def _code(kind: type[nn.Module]) -> bytes:
    functions = (function for _, function in inspect.getmembers(kind, inspect.isfunction))
    return b"".join(marshal.dumps(function.__code__) for function in functions)
