"""Exports in a fraction of the time: what torch's exporter makes anew for each network, the same each time, is kept.

Each export to ONNX reads the source of some five hundred functions to find out how they are called, and asks thirty
times for the operators that are there. Neither depends on the network. Here both are done once in a process; the table
of functions that an export gets is a copy of its own. Where a release of torch has other insides, nothing is kept.
Importing this file is enough.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any


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
