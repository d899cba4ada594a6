"""What a layer reads, rounded to a few bits: one range for the whole tensor, the same for every image.

.. [Wang2019] K. Wang, Z. Liu, Y. Lin, J. Lin, S. Han. HAQ: hardware-aware automated quantization with mixed precision.
   CVPR 2019, section 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur.errors import ConfigError
from secateur.hooks import first_input, with_first_input
from secateur.quantization.quantizer import MOST, check_bits


@dataclass(frozen=True)
class ActivationRange:
    """How the input of one layer is rounded.

    Attributes:
        bits: of a code, 2..16.
        threshold: t > 0, finite, and so is what a code of one is worth; beyond it values are clipped.
        signed: whether the layer reads values below zero.
    """

    bits: int
    threshold: float
    signed: bool

    def __post_init__(self) -> None:
        check_bits(torch.tensor([self.bits]))
        if not 0 < self.threshold < math.inf or not 0 < self.scale < math.inf:
            raise ConfigError(f"the threshold of activations must be finite and above zero; found {self.threshold}")

    @property
    def codes(self) -> tuple[int, int]:
        """The least and the largest code: 0..2^b - 1, or -2^(b - 1)..2^(b - 1) - 1 where signed."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)

    @property
    def scale(self) -> float:
        """What a code of one is worth: t divided by the largest code."""
        return float(torch.tensor(self.threshold, dtype=torch.float32) / self.codes[1])


def round_activation(inputs: Tensor, to: ActivationRange) -> Tensor:
    """Return inputs (N, ...) rounded to a range; gradients pass within it as if nothing were rounded [Wang2019]_.

    Formula, for the bits b and the threshold t of `to`: s = t / (2^b - 1), x <- s * clip(round(x / s), 0, 2^b - 1),
    half to even; where the range is signed, s = t / (2^(b - 1) - 1) and codes lie in -2^(b - 1)..2^(b - 1) - 1.

    Example:
        >>> round_activation(torch.tensor([-1.0, 0.3, 0.9, 7.0]), ActivationRange(2, 1.5, signed=False)).tolist()
        [0.0, 0.5, 1.0, 1.5]

    Deviations: signed codes reach one step beyond -t, as the types of ONNX do; codes that stand for more than the
    number format of the inputs holds are left out.
    """
    held = math.floor(min(torch.finfo(inputs.dtype).max / to.scale, 2.0**MOST))
    low, high = max(to.codes[0], -held), min(to.codes[1], held)
    scale = torch.tensor(to.scale, dtype=torch.float32, device=inputs.device)
    with torch.no_grad():
        rounded = ((inputs.float() / scale).round().clamp(low, high) * scale).to(inputs.dtype)
    if not (torch.is_grad_enabled() and inputs.requires_grad):
        return rounded
    within = inputs.clamp(low * to.scale, high * to.scale)
    return rounded + (within - within.detach())


def round_inputs(model: nn.Module, activations: Mapping[str, ActivationRange]) -> list[RemovableHandle]:
    """Let layers of `model` round what they read from now on; return the handles that take it back.

    Args:
        model: changed in place, by hooks.
        activations: layer -> range, see `BitPlan`.

    Raises:
        ConfigError: the network lacks such a layer; none rounds then.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False))
        >>> handles = round_inputs(net, {"0": ActivationRange(2, 3.0, signed=False)})
        >>> bool(net(torch.tensor([[1.2]])) == net[0].weight)
        True
        >>> handles[0].remove()
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    missing = [name for name in activations if name not in modules]
    if missing:
        raise ConfigError(f"what {missing[0]!r} reads is to be rounded, but the network has no such layer")
    return [
        modules[name].register_forward_pre_hook(_Rounding(to), with_kwargs=True) for name, to in activations.items()
    ]


@dataclass(frozen=True)
class _Rounding:
    """A hook that can be copied with its network."""

    to: ActivationRange

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return with_first_input(args, kwargs, round_activation(first_input(args, kwargs), self.to))
