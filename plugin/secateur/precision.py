"""In how many bits a network is trained: torch's autocast, the scaler that float16 needs, and what a device can do."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

import torch
from torch import nn

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

    On a processor that has no such arithmetic torch emulates it, which is warned of, once: with AVX2 alone a training
    step of ResNet-56 (a batch of 128) took 21 seconds in bfloat16 and 2.1 in float32.

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
        with torch.enable_grad():
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
        f"this processor does not compute in {precision}, so that torch emulates it: training may take ten times as "
        "long as with precision: float32",
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
