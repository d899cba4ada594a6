"""What each operation of a network does to a feature map: the names of ATen's operations, sorted into kinds."""

from __future__ import annotations

import enum
import functools
from typing import Any

import torch


class Kind(enum.Enum):
    """What an operation does to a feature map; the values are the names of the operations in ATen."""

    BATCH_NORM = """
        batch_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _native_batch_norm_legit
        _native_batch_norm_legit_no_training
        """
    NORM = """
        group_norm native_group_norm instance_norm layer_norm native_layer_norm rms_norm _fused_rms_norm
        """
    ACTIVATION = """
        relu relu6 hardtanh clamp clamp_min clamp_max threshold leaky_relu prelu _prelu_kernel rrelu rrelu_with_noise
        elu selu celu gelu silu mish hardswish hardsigmoid sigmoid log_sigmoid log_sigmoid_forward tanh softplus
        hardshrink softshrink abs
        """
    SUM = "add"
    DIFFERENCE = "sub"
    SCALE = "mul div"
    CHOICE = "maximum minimum max.other min.other where masked_fill"
    GLANCE = """
        neg pow square sqrt rsqrt reciprocal exp expm1 exp2 log log1p log2 erf erfc sin cos sign rsub gt ge lt le eq ne
        logical_not
        """  # element by element: parts of an activation that is written out by hand
    CONCATENATION = "cat"
    AVERAGE_POOL = "avg_pool1d avg_pool2d avg_pool3d"
    MAX_POOL = "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices"
    DROPOUT = "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout"
    COPY = "_to_copy to clone contiguous"
    GLOBAL_POOL = """
        mean sum amax var std adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
        _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        """
    CONVOLUTION = """
        convolution _convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
        """
    LOOK = """
        detach alias empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones
        new_full
        """
    VIEW = "view reshape _unsafe_view flatten"
    PERMUTATION = "permute transpose"
    LIFT = "unsqueeze squeeze"  # around a pool of 1d maps, which torch does in 2d


_KINDS = {name: kind for kind in Kind for name in kind.value.split()}


def kind_of(operation: Any) -> Kind | None:
    """Return what an ATen operation does to a feature map; None for the operations that end a trail."""
    kind = _kind_of(operation)
    if kind is Kind.COPY and torch.is_grad_enabled() and operation.overloadpacket.__name__ == "clone":
        return Kind.LOOK  # autograd clones what an in-place operation is about to overwrite
    return kind


@functools.cache
def _kind_of(operation: Any) -> Kind | None:
    """Return the kind of an operation by the name that it shares with its in-place form and with its overloads."""
    name = str(operation.overloadpacket.__name__).removesuffix("_")
    kind = _KINDS.get(name, _KINDS.get(f"{name}.{operation._overloadname}"))
    return None if kind is Kind.GLANCE and operation._schema.is_mutable else kind
