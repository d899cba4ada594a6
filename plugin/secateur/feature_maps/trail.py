"""Which operations carry a layer's feature map from the layer that makes it to the layers that read it.

The feature map of a layer is what its readers see of it. A `Trail` follows the layer's output through the operations
that keep channel c channel c, one operation at a time:

=====================  ========================================  =============================================
operation              before an activation was met              after
=====================  ========================================  =============================================
normalisation          followed                                  ends the trail
activation             followed                                  followed (they compose: tanh(softplus(x)))
residual sum           followed, all summed layers share it      ends the trail
channel concatenation  followed, the layer keeps its slice       followed
average pool           followed                                  ends the trail
max pool               followed                                  followed if its windows overlap, or after a
                                                                 concatenation
dropout, one number    followed                                  followed
cast, copy, view,      followed                                  ends the trail
permutation of axes
(N, C, L) as           followed                                  followed, for the pool that it is there for
(N, C, 1, L) and back
its shape, an alias,   stays where it is                         stays where it is
a power, a comparison
global pool            stays where it is                         ends the trail
convolution            stays, for a later normalisation or       ends the trail
                       activation alone
anything else          ends the trail                            ends the trail
=====================  ========================================  =============================================

So a layer before a residual sum is read after the sum and its activation [Lin2020c]_; a layer of a pre-activation
network after the normalisation and activation of its readers, even if a shortcut's convolution reads the bare sum
first; a linear bottleneck after its own batch norm, or the sum; a block with squeeze and excitation before its sum is
read after the sum, since the pool of the gate only looks. In transformers, whose blocks normalise what they read, the
last linear layer of a block is read after the layer norm of the next block, as in any pre-activation network. Else,
where several operations read the same tensor, the first one decides.

The published code reads the stem of a ResNet-50 and two modules of its GoogLeNet after the max pool behind them: the
pools of these are 3x3 with stride 2, or stand behind a concatenation. Deviations: the published code also reads the
last layers of the first four stages of VGG after their 2x2 max pool, where the trail ends at the ReLU, so that all
layers of a stage are read at one size; it gives both 3x3 convolutions of the third branch of GoogLeNet's modules the
ranks of the second, where here each is read after its own ReLU.

An activation written out by hand is recognised if it joins, by arithmetic or by choice, what it has made of the value
that it came from: x * sigmoid(x), x * relu6(x + 3) / 6, maximum(x, 0.1 * x), where(x > 0, x, 0.1 * x),
0.5 * x * (1 + erf(x / 1.41)); see `secateur.feature_maps.kinship`.

.. [Lin2020c] The code published with M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from secateur.addresses import address
from secateur.feature_maps.operations import Kind

# behind these the trail is where it was
_READERS = (Kind.LOOK, Kind.GLANCE, Kind.GLOBAL_POOL, Kind.CONVOLUTION)


def is_held_elsewhere(tensor: Tensor, *, holders: int) -> bool:
    """Say whether a tensor's values are held by more than `holders` tensors: whether the network may still read them.

    Example:
        >>> held = torch.zeros(3)
        >>> is_held_elsewhere(held, holders=1)
        False
        >>> view = held[1:]
        >>> is_held_elsewhere(held, holders=1)
        True
    """
    asking = 1  # the handle that this function asks by
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) > holders + asking


@dataclass(frozen=True, slots=True)
class Trail:
    """Where the feature map of one call of one layer is now.

    Attributes:
        layer: the layer's name.
        tensor: the values that hold it, with the channels of other layers after a concatenation: an alias of the
            network's tensor, of this trail alone.
        place: the address of these values, 0 where they have none.
        shape: the shape of `tensor` as feature maps, which a view may hide.
        axis: the channel axis of the layer's own output.
        order: where each axis of `shape` was in the layer's own output.
        start: the layer's first channel on the channel axis.
        width: how many channels the layer has.
        settled: an activation has been met (for the tap "bn": the normalisation, for "sum": the residual sum).
        joined: a concatenation has been met.
        convolved: a convolution has read the tensor, but nothing has carried it on.
        origin: stands for the tensor that a chain of element-wise operations began at, to recognise x * sigmoid(x).
        before: where it was before a view: the network may go on from that tensor, whose values are the same.
    """

    layer: str
    tensor: Tensor
    place: int
    shape: torch.Size
    axis: int
    order: tuple[int, ...]
    start: int
    width: int
    settled: bool = False
    joined: bool = False
    convolved: bool = False
    origin: object = field(default_factory=object)
    before: Trail | None = None

    @property
    def holds(self) -> int:
        """How many tensors it holds, all of the same values."""
        return 1 if self.before is None else 1 + self.before.holds

    def feature_map(self) -> Tensor:
        """Return the layer's own channels of the tensor, axes as in the layer's own output, no gradient history."""
        maps = self.tensor if self.tensor.shape == self.shape else self.tensor.reshape(self.shape)
        if not self._in_place():
            maps = maps.permute([self.order.index(axis) for axis in range(len(self.order))])
        if self.width != maps.shape[self.axis]:
            maps = maps.narrow(self.axis, self.start, self.width)
        return maps

    def passes(self, kind: Kind, args: Sequence[Any], *, kin: bool) -> bool:
        """Say whether the trail goes on through an operation of this kind with these arguments.

        Args:
            kin: whether all other tensors that it reads are kin of the trail, see `secateur.feature_maps.kinship`.
        """
        if (here := self._seen_by(args)) is not self:
            return here.passes(kind, args, kin=kin)
        whole = self.tensor.shape == self.shape  # no view hides the channel axis
        match kind:
            case Kind.LOOK | Kind.GLANCE:
                return True
            case Kind.GLOBAL_POOL | Kind.CONVOLUTION:
                return not self.settled
            case Kind.ACTIVATION:
                return self.lies_in(args[0])
            case Kind.NORM | Kind.BATCH_NORM:
                return not self.settled and self.lies_in(args[0])
            case _ if self.convolved:
                return False
            case Kind.DROPOUT:
                return self.lies_in(args[0])
            case Kind.COPY | Kind.VIEW:
                return not self.settled and self.lies_in(args[0])
            case Kind.PERMUTATION:
                return not self.settled and whole
            case Kind.LIFT:
                return self._is_poolable and len(self.shape) == 3 and tuple(args[1:]) in ((-2,), (2,))
            case Kind.AVERAGE_POOL:
                return not self.settled and self._is_poolable
            case Kind.MAX_POOL:
                return self._is_poolable and (not self.settled or self.joined or _overlaps(*args[1:3]))
            case Kind.CONCATENATION:
                return whole and len(args) > 1 and args[1] % len(self.shape) == self.order.index(self.axis)
            case Kind.CHOICE:
                return kin or all(self.lies_in(tensor) or not tensor.ndim for tensor in tensors_among(args))
        other = self._other(args)
        if kin or _is_number(other):
            return True
        if self.settled or not _stretches(other, self.tensor):
            return False
        return (
            kind in (Kind.SUM, Kind.DIFFERENCE) or other.numel() < self.tensor.numel()
        )  # a gate of full size belongs to another layer

    def moved(self, kind: Kind, args: Sequence[Any], output: Tensor, *, kin: bool, settled: bool) -> Trail:
        """Return the trail behind an operation that it passes; `settled` where that is what the tap looks for."""
        if kind in _READERS or (kind is Kind.AVERAGE_POOL and output.shape[2:].numel() == 1):
            return self._read() if kind is Kind.CONVOLUTION else self
        if (here := self._seen_by(args)) is not self:
            return here.moved(kind, args, output, kin=kin, settled=settled)
        reshaped = kind in (Kind.AVERAGE_POOL, Kind.MAX_POOL, Kind.CONCATENATION, Kind.PERMUTATION)
        joins = kind is Kind.CONCATENATION
        element_wise = (
            kin
            or kind in (Kind.ACTIVATION, Kind.CHOICE)
            or (kind in (Kind.SUM, Kind.DIFFERENCE, Kind.SCALE) and _is_number(self._other(args)))
        )
        return Trail(  # dataclasses.replace takes five times as long, once an operation
            self.layer,
            output.detach(),
            address(output),
            self._lowered(output.shape) if reshaped else self.shape,
            self.axis,
            order=self._permuted(*args[1:]) if kind is Kind.PERMUTATION else self.order,
            start=self.start + (self._offset(args[0]) if joins else 0),
            width=self.width,
            settled=self.settled or settled,
            joined=self.joined or joins,
            origin=self.origin if element_wise else object(),
            before=self if kind in (Kind.VIEW, Kind.PERMUTATION, Kind.LIFT) and self.lies_in(output) else None,
        )

    def _read(self) -> Trail:
        """Return the trail once a convolution has read the tensor, as whichever view."""
        return replace(self, convolved=True, before=None if self.before is None else self.before._read())

    def _seen_by(self, args: Sequence[Any]) -> Trail:
        """Return the trail on the tensor that an operation reads, where it is not on its last view."""
        if self.before is None:
            return self
        layouts = [(a.shape, a.stride()) for a in tensors_among(args) if self.lies_in(a)]
        trail: Trail | None = self
        while trail is not None:
            if (trail.tensor.shape, trail.tensor.stride()) in layouts:
                return trail
            trail = trail.before
        return self

    @property
    def _is_poolable(self) -> bool:
        """Whether the last axes of the tensor are those that the layer's own output has behind its channels."""
        return (self.tensor.shape == self.shape or self._lifted) and self._in_place()

    @property
    def _lifted(self) -> bool:
        """Whether maps (N, C, L) stand as (N, C, 1, L), as torch pools them."""
        return len(self.shape) == 3 and self.tensor.shape == (*self.shape[:2], 1, self.shape[2])

    def _lowered(self, shape: torch.Size) -> torch.Size:
        """Return the shape of the maps in an output of this shape."""
        return torch.Size((*shape[:2], *shape[3:])) if self._lifted else shape

    def _in_place(self) -> bool:
        """Say whether every axis is where it was in the layer's own output."""
        return all(axis == place for place, axis in enumerate(self.order))

    def _permuted(self, *axes: Any) -> tuple[int, ...]:
        """Return the order behind permute(axes) or transpose(first, second)."""
        places = [*range(len(self.order))]
        if len(axes) == 1:
            return tuple(self.order[axis] for axis in axes[0])
        first, second = axes
        places[first], places[second] = places[second], places[first]
        return tuple(self.order[place] for place in places)

    def lies_in(self, argument: Any) -> bool:
        """Say whether an argument of an operation holds the trail's values."""
        return address(argument) == self.place

    def _other(self, args: Sequence[Any]) -> Any:
        return args[1] if self.lies_in(args[0]) else args[0]

    def _offset(self, tensors: Sequence[Tensor]) -> int:
        """Count the channels before this trail's tensor, where a concatenation holds it for the first time."""
        start = 0
        for tensor in tensors:
            if self.lies_in(tensor):
                break
            start += tensor.shape[self.order.index(self.axis)] if tensor.ndim == len(self.order) else 0
        return start


def tensors_among(args: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of an operation, and in their lists.

    Example:
        >>> len([*tensors_among((torch.zeros(1), 2, [torch.ones(1), None]))])
        2
    """
    for argument in args:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from (item for item in argument if isinstance(item, Tensor))


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.ndim == 0


def _stretches(small: Tensor, large: Tensor) -> bool:
    """Say whether broadcasting gives `small` the shape of `large`."""
    pairs = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.ndim <= large.ndim and all(size in (1, full) for size, full in pairs)


def _overlaps(kernel: Sequence[int], stride: Sequence[int] = ()) -> bool:
    """Say whether the windows of a pool that shrinks the map share positions."""
    return any(size > step > 1 for size, step in zip(kernel, stride, strict=False))
