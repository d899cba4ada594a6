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
cast, copy, view       followed                                  ends the trail
its shape, an alias    stays where it is                         stays where it is
anything else          ends the trail                            ends the trail
=====================  ========================================  =============================================

So a layer before a residual sum is read after the sum and its activation [Lin2020c]_; a layer of a pre-activation
network after the normalisation and activation of its first reader; a linear bottleneck after its own batch norm, or the
sum. The published code reads the stem of a ResNet-50 and two modules of its GoogLeNet after the max pool behind them,
and VGG before it: the pools of the first are 3x3 with stride 2, or stand behind a concatenation, those of VGG are 2x2
with stride 2. Where several operations read the same tensor, the first one decides.

An activation written out by hand is recognised if it multiplies, divides, adds or subtracts the value that it came
from: x * sigmoid(x), x * tanh(softplus(x)), x * relu6(x + 3) / 6, x / (1 + abs(x)).

.. [Lin2020c] The code published with M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class Kind(enum.Enum):
    """What an operation does to a feature map; the values are the names of the operations in ATen."""

    NORM = """
        batch_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _native_batch_norm_legit
        _native_batch_norm_legit_no_training group_norm native_group_norm instance_norm layer_norm native_layer_norm
        rms_norm _fused_rms_norm
        """
    ACTIVATION = """
        relu relu6 hardtanh clamp clamp_min clamp_max threshold leaky_relu prelu _prelu_kernel rrelu rrelu_with_noise
        elu selu celu gelu silu mish hardswish hardsigmoid sigmoid log_sigmoid log_sigmoid_forward tanh softplus
        hardshrink softshrink abs
        """
    SUM = "add sub"
    SCALE = "mul div"
    CONCATENATION = "cat"
    AVERAGE_POOL = "avg_pool1d avg_pool2d avg_pool3d"
    MAX_POOL = "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices"
    DROPOUT = "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout"
    COPY = "_to_copy to clone contiguous"
    LOOK = """
        detach alias empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones
        new_full
        """
    VIEW = "view reshape _unsafe_view flatten"


_KINDS = {name: kind for kind in Kind for name in kind.value.split()}


def kind_of(operation: Any) -> Kind | None:
    """Return what an ATen operation does to a feature map; None for the operations that end a trail."""
    name = operation.overloadpacket.__name__.removesuffix("_")
    if name == "clone" and torch.is_grad_enabled():
        return Kind.LOOK  # autograd clones what an in-place operation is about to overwrite
    return _KINDS.get(name)


def address(tensor: Any) -> int:
    """Return where a tensor's values begin, which in-place operations and views keep; 0 for what has no such place."""
    try:
        return int(tensor.data_ptr())
    except RuntimeError:  # sparse and other layouts without one storage
        return 0


@dataclass(frozen=True, slots=True)
class Trail:
    """Where the feature map of one call of one layer is now.

    Attributes:
        layer: the layer's name.
        tensor: the tensor that holds it, with the channels of other layers after a concatenation.
        shape: the shape of `tensor` as feature maps, which a view may hide.
        axis: the channel axis of `shape`.
        start: the layer's first channel on that axis.
        width: how many channels the layer has.
        settled: an activation has been met (for the tap "bn": the batch norm).
        joined: a concatenation has been met.
        source: the tensor that a chain of element-wise operations started from, to recognise x * sigmoid(x).
    """

    layer: str
    tensor: Tensor
    shape: torch.Size
    axis: int
    start: int
    width: int
    settled: bool = False
    joined: bool = False
    source: weakref.ref[Tensor] | None = None

    def feature_map(self) -> Tensor:
        """Return the layer's own channels of the tensor, without its gradient history."""
        maps = self.tensor if self.tensor.shape == self.shape else self.tensor.reshape(self.shape)
        if self.width != self.shape[self.axis]:
            maps = maps.narrow(self.axis, self.start, self.width)
        return maps.detach() if maps.requires_grad else maps

    def passes(self, kind: Kind, args: Sequence[Any]) -> bool:
        """Say whether the trail goes on through an operation of this kind with these arguments."""
        whole = self.tensor.shape == self.shape  # no view hides the channel axis
        match kind:
            case Kind.LOOK:
                return True
            case Kind.ACTIVATION | Kind.DROPOUT:
                return self._is(args[0])
            case Kind.NORM | Kind.COPY | Kind.VIEW:
                return not self.settled and self._is(args[0])
            case Kind.AVERAGE_POOL:
                return not self.settled and whole
            case Kind.MAX_POOL:
                return whole and (not self.settled or self.joined or _overlaps(*args[1:3]))
            case Kind.CONCATENATION:
                return whole and len(args) > 1 and args[1] % len(self.shape) == self.axis
        other = self._other(args)
        if _is_number(other) or (self.source is not None and self.source() is other and not self._is(other)):
            return True
        if self.settled or not _stretches(other, self.tensor):
            return False
        return kind is Kind.SUM or other.numel() < self.tensor.numel()  # a gate of full size belongs to another layer

    def moved(self, kind: Kind, args: Sequence[Any], output: Tensor, *, settles: Kind) -> Trail:
        """Return the trail behind an operation that it passes."""
        if kind is Kind.LOOK:
            return self
        reshaped = kind in (Kind.AVERAGE_POOL, Kind.MAX_POOL, Kind.CONCATENATION)
        joins = kind is Kind.CONCATENATION
        element_wise = kind is Kind.ACTIVATION or (kind in (Kind.SUM, Kind.SCALE) and _is_number(self._other(args)))
        return replace(
            self,
            tensor=output,
            shape=output.shape if reshaped else self.shape,
            start=self.start + (self._offset(args[0]) if joins else 0),
            settled=self.settled or kind is settles,
            joined=self.joined or joins,
            source=(self.source or weakref.ref(args[0])) if element_wise else None,
        )

    def _is(self, argument: Any) -> bool:
        return argument is self.tensor or address(argument) == address(self.tensor)

    def _other(self, args: Sequence[Any]) -> Any:
        return args[1] if self._is(args[0]) else args[0]

    def _offset(self, tensors: Sequence[Tensor]) -> int:
        """Count the channels before this trail's tensor, where a concatenation holds it for the first time."""
        start = 0
        for tensor in tensors:
            if self._is(tensor):
                break
            start += tensor.shape[self.axis] if tensor.ndim > self.axis else 0
        return start


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.ndim == 0


def _stretches(small: Tensor, large: Tensor) -> bool:
    """Say whether broadcasting gives `small` the shape of `large`."""
    pairs = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.ndim <= large.ndim and all(size in (1, full) for size, full in pairs)


def _overlaps(kernel: Sequence[int], stride: Sequence[int] = ()) -> bool:
    """Say whether the windows of a pool that shrinks the map share positions."""
    return any(size > step > 1 for size, step in zip(kernel, stride, strict=False))
