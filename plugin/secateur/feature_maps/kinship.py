"""Activations written out by hand: which tensors were computed, element by element, from one and the same.

Such an activation reads a feature map x more than once and joins what it has made of it: x * sigmoid(x),
maximum(x, 0.1 * x), 0.5 * x * (1 + erf(x / 1.41)), where(x > 0, x, 0). What it joins is kin: all of it begins at x. A
residual sum or a gate joins what a convolution or a pool has made of x, which is no kin of x.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.addresses import address
from secateur.feature_maps.operations import Kind
from secateur.feature_maps.trail import Trail

_LINEAR = frozenset({Kind.SUM, Kind.DIFFERENCE, Kind.SCALE, Kind.COPY})
_BENDING = frozenset({Kind.ACTIVATION, Kind.CHOICE, Kind.GLANCE})
_ELEMENT_WISE = _LINEAR | _BENDING


@dataclass(frozen=True, slots=True)
class _Kin:
    """A tensor, the origins of the trails that it was computed from, and whether it is more than a multiple."""

    tensor: weakref.ref[Tensor]
    origins: frozenset[object]
    bent: bool


@dataclass(frozen=True, slots=True)
class Family:
    """What all tensors that an operation reads have in common.

    Attributes:
        origins: of the trails that all of them were computed from.
        bends: whether the operation makes more than a multiple of them.
        bent: whether some of them is more than a multiple of what it was computed from.
        members: how many there are.
    """

    origins: frozenset[object] = frozenset()
    bends: bool = False
    bent: bool = False
    members: int = 0

    @property
    def joined(self) -> frozenset[object]:
        """The origins, where the operation joins two tensors or more."""
        return self.origins if self.members > 1 else frozenset()


STRANGERS = Family()


class Kinship:
    """What has been computed element by element from tensors on trails; it keeps none of them alive."""

    def __init__(self) -> None:
        self._known: dict[int, _Kin] = {}

    def forget(self) -> None:
        """Forget all: the forward pass is over."""
        self._known.clear()

    def reads(self, kind: Kind | None, tensor: Tensor, trails: Sequence[Trail]) -> None:
        """Note that an operation is about to read a tensor with trails on it, if it is element-wise."""
        if kind in _ELEMENT_WISE:
            origins, bent = frozenset(trail.origin for trail in trails), all(trail.settled for trail in trails)
            self._known[trails[0].place] = _Kin(weakref.ref(tensor), origins, bent)

    def family(self, kind: Kind | None, tensors: Sequence[Tensor]) -> Family:
        """Return what the tensors that an operation reads have in common, if it is element-wise and all are kin."""
        if not self._known or kind not in _ELEMENT_WISE:
            return STRANGERS
        found = []
        for tensor in _full(tensors):
            kin = self._known.get(address(tensor))
            if kin is None or kin.tensor() is not tensor:
                return STRANGERS
            found.append(kin)
        if not found:
            return STRANGERS
        origins = frozenset.intersection(*(kin.origins for kin in found))
        return Family(origins, kind in _BENDING, any(kin.bent for kin in found), len(found))

    def made(self, family: Family, tensors: Sequence[Tensor], output: Any) -> None:
        """Note what an operation has made of a family; what it has overwritten in place otherwise is kin no more."""
        if not self._known or not isinstance(output, Tensor):
            return
        if family.origins:
            self._known[address(output)] = _Kin(weakref.ref(output), family.origins, family.bent or family.bends)
        elif any(tensor is output for tensor in tensors):
            self._known.pop(address(output), None)


def _full(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors among the arguments that are no single numbers, each once."""
    return [*{id(tensor): tensor for tensor in tensors if tensor.ndim}.values()]
