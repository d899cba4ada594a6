"""In how many bits a network is trained: torch's autocast, the scaler that float16 needs, and what a device can do."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from secateur.errors import ConfigError, SecateurWarning

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HALF = (torch.float16, torch.bfloat16)
SMALLEST = 2.0**-24  # the least number of float16: a scale below it says that no scale helps


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which convolutions and products are computed in `precision`.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16"):
        ...     nn.Linear(2, 2)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def sums(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context for a training step, its backward pass too, in which half precision is summed in float32.

    It changes nothing where the device computes in `precision`. On a processor without such arithmetic torch (2.14.1)
    falls back to loops that take ten times as long as float32, and sums the gradients of convolutions in the half
    precision itself, which puts them 2.5 times as far off as rounding does. Within the block convolutions and products
    of matrices take float32 copies of their operands, and their results are rounded, once: what a processor with such
    arithmetic gives, but for the order of the sums.

    Cost: a tenth more time than float32, for the copies.

    Example:
        >>> with sums(torch.device("cpu"), "bfloat16"), autocast(torch.device("cpu"), "bfloat16"):
        ...     nn.Linear(2, 2)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    emulated = device.type == "cpu" and precision != "float32" and not _is_native(precision)
    return _SumsInFloat32() if emulated else nullcontext()  # type: ignore[no-untyped-call]  # as its base is


class _SumsInFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves the base untyped
    _OPERATIONS = frozenset(
        {
            torch.ops.aten.convolution.default,
            torch.ops.aten.convolution_backward.default,
            torch.ops.aten.mm.default,
            torch.ops.aten.addmm.default,
            torch.ops.aten.bmm.default,
            torch.ops.aten.baddbmm.default,
        }
    )

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        half = args[0].dtype if operation in self._OPERATIONS else None
        if half not in HALF:
            return operation(*args, **(kwargs or {}))
        wide, options = tree_map_only(Tensor, Tensor.float, (args, kwargs or {}))
        return tree_map_only(Tensor, lambda found: found.to(half), operation(*wide, **options))


def scaler_of(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Return what scales the loss, so that small gradients survive float16; it does nothing for the other precisions.

    bfloat16 has the range of float32 and needs none.

    Example:
        >>> [scaler_of(torch.device("cpu"), name).is_enabled() for name in PRECISIONS]
        [False, False, True]
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


@contextmanager
def in_single_precision(network: nn.Module) -> Iterator[None]:
    """Within the block what a network holds in half precision is float32; after it, it is rounded back, in place.

    Example:
        >>> net = nn.Linear(1, 1).bfloat16()
        >>> with in_single_precision(net):
        ...     within = net.weight.dtype
        >>> within, net.weight.dtype
        (torch.float32, torch.bfloat16)
    """
    halves = [(t, t.dtype) for t in itertools.chain(network.parameters(), network.buffers()) if t.dtype in HALF]
    for tensor, _ in halves:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, kind in halves:
            tensor.data = tensor.data.to(kind)


def check_precision(device: torch.device, precision: Precision) -> None:
    """Try a convolution, a product and their gradients; nothing is tried for float32.

    On a processor that has no such arithmetic it is emulated (`sums`), which is warned of, once: it gains nothing.

    Raises:
        ConfigError: an unknown precision, or one that the device does not compute in.

    Example:
        >>> check_precision(torch.device("cpu"), "bfloat16")
        >>> check_precision(torch.device("cpu"), "int8")
        Traceback (most recent call last):
        secateur.errors.ConfigError: precision must be one of float32, bfloat16, float16; found 'int8'
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
    if precision == "float32":
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        layers = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        network = nn.Sequential(*layers).to(device)
    try:
        with torch.enable_grad(), sums(device, precision):
            with autocast(device, precision):
                outputs = network(torch.ones(2, 1, 4, 4, device=device))
            torch.autograd.backward(outputs.float().sum())
    except RuntimeError as error:  # NotImplementedError is one
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the device {device.type} does not train in {precision} ({reason}); precision: float32 works everywhere"
        ) from error
    if device.type == "cpu" and not _is_native(precision):
        _warn_of_emulation(precision)


def _is_native(precision: Precision) -> bool:
    """Return whether oneDNN, by which torch convolves on processors, has the arithmetic here; True without oneDNN."""
    short = {"bfloat16": "bf16", "float16": "fp16"}[precision]
    asked = getattr(torch.ops.mkldnn, f"_is_mkldnn_{short}_supported", None)
    return asked is None or bool(asked())


@cache
def _warn_of_emulation(precision: Precision) -> None:
    """Warn, the first time in a process: trainings check their precision once a layer, some of them."""
    warnings.warn(
        f"this processor does not compute in {precision}: it is emulated, which is slower than precision: float32",
        SecateurWarning,
        stacklevel=3,
    )


def check_scaling(network: nn.Module, precision: Precision) -> None:
    """Refuse to train weights in float16 by a scaled loss: torch does not scale their gradient back.

    Raises:
        ConfigError: the precision is float16, and so is a parameter that needs a gradient.

    Example:
        >>> check_scaling(nn.Linear(1, 1).half(), "float32")
        >>> check_scaling(nn.Linear(1, 1).half(), "float16")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        secateur.errors.ConfigError: the parameter 'weight' is float16, whose gradient cannot be scaled back: use ...
    """
    if precision != "float16":
        return
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            raise ConfigError(
                f"the parameter {name!r} is float16, whose gradient cannot be scaled back: use .float() on the network "
                "to train it with precision: float16, or train it as it is with precision: float32"
            )
