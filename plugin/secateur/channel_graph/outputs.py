"""What networks give, and how far apart the outputs of two lie."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.channel_graph.unmixed import Unmixed
from secateur.errors import NetworkError
from secateur.modes import evaluating, own_copies
from secateur.precision import HALF
from secateur.tf32 import without_tf32

TOLERANCE = 1e-4


def distance(model: nn.Module, pruned: nn.Module, inputs: Any, *, unmixed: bool = False) -> float:
    """Return how far the outputs of two networks lie apart; those in half precision are run in float32, if they can."""
    if (single := _in_float32(model)) is not model:
        with suppress(Exception):  # a user's network that insists on half precision may raise anything
            return distance(single, _in_float32(pruned), _floats(inputs), unmixed=unmixed)
    rounds = Unmixed().running if unmixed else nullcontext
    with rounds():
        expected = outputs_of(model, own_copies(model, inputs))
    if not expected:
        raise NetworkError("the network returns no number on the example inputs: there is nothing to compare")
    with rounds():
        found = outputs_or_none(pruned, own_copies(pruned, inputs))
    if found is None or [t.shape for t in found] != [t.shape for t in expected]:
        return float("inf")
    limits = torch.finfo(torch.float32)
    floor = max(_largest(expected) * limits.eps / TOLERANCE, limits.tiny)
    return _largest([(a - b) / max(_largest([b]), floor) for a, b in zip(found, expected, strict=True)])


def tensors_of(outputs: Any) -> list[Tensor]:
    """Return what holds a number in a tensor, mapping, sequence or data class, and in those within; flags as numbers.

    Example:
        >>> tensors_of({"scores": torch.tensor([0.5]), "kept": [torch.tensor([True]), None]})
        [tensor([0.5000]), tensor([1.], dtype=torch.float64)]
    """
    if isinstance(outputs, Tensor):
        return [outputs.double() if outputs.dtype is torch.bool else outputs] if outputs.numel() else []
    if is_dataclass(outputs):
        outputs = [getattr(outputs, each.name) for each in fields(outputs)]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [t for part in outputs for t in tensors_of(part)]
    return []


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return what a network gives in eval mode."""
    with evaluating(model), torch.no_grad(), without_tf32():
        return tensors_of(called(model, inputs))


def called(model: nn.Module, inputs: Any) -> Any:
    """Return what a network gives, in the mode that it is in, for its argument or a tuple or list of them."""
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def outputs_or_none(model: nn.Module, inputs: Any) -> list[Tensor] | None:
    """Return the outputs, None where a network that was cut cannot run."""
    try:
        return outputs_of(model, inputs)
    except Exception:  # a user's network that was cut may raise anything
        return None


def _largest(tensors: Sequence[Tensor]) -> float:
    """Return the largest magnitude in some tensors, NaN where any holds it: Python's own `max` would pass it over."""
    return float(torch.tensor([float(tensor.abs().max()) for tensor in tensors]).max())


def _in_float32(network: nn.Module) -> nn.Module:
    """Return the network, or where it is in half precision, whose rounding hides a channel, a copy in float32."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network).float() if any(t.dtype in HALF for t in tensors) else network


def _floats(inputs: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.dtype in HALF else x, inputs)
