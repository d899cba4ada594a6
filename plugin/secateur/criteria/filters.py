"""Criteria that read weights alone: norms of filters, their distances, the scale of batch norm, and chance.

A filter is what makes one output channel: row c of a convolution's weight (C, C_in/groups, k, k), taken flat. Such
criteria see no data. They are pure functions of one tensor, and baselines for those that read feature maps.

    l1          sum |w_c|                                          [Li2017]_
    l2          sqrt(sum w_c^2)
    fpgm        sum over j of |w_c - w_j|                          [He2019]_: filters near the geometric median go first
    bn_scale    |gamma_c| of the batch norm behind the layer       [Liu2017]_
    random      uniform in 0..1                                    the baseline that everything must beat

.. [Li2017] H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf. Pruning filters for efficient ConvNets. ICLR 2017.
.. [He2019] Y. He, P. Liu, Z. Wang, Z. Hu, Y. Yang. Filter pruning via geometric median for deep convolutional neural
   networks acceleration. CVPR 2019.
.. [Liu2017] Z. Liu, J. Li, Z. Shen, G. Huang, S. Yan, C. Zhang. Learning efficient convolutional networks through
   network slimming. ICCV 2017.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from secateur.criteria.inputs import is_finite
from secateur.errors import ConfigError, ScoreError

Distance = Literal["euclidean", "cosine"]
Reads = Literal["filters", "norm"]


def as_filters(weight: Tensor) -> Tensor:
    """Return weights (C, ...) as filters (C, D) in float64 on the processor, cut from the autograd graph.

    Raises:
        ScoreError: no filter, not floating, NaN or infinite.

    Example:
        >>> as_filters(torch.ones(4, 3, 2, 2)).shape
        torch.Size([4, 12])
    """
    if weight.ndim == 0 or weight.numel() == 0 or not weight.is_floating_point():
        raise ScoreError(
            f"weights must be floating numbers (C, ...), one row for each channel; "
            f"these hold {weight.dtype} in the shape {tuple(weight.shape)}"
        )
    filters = weight.detach().to("cpu", torch.float64).reshape(len(weight), -1)
    if not is_finite(filters):
        raise ScoreError(f"weights of the shape {tuple(weight.shape)} hold NaN or infinite values")
    return filters


def filter_distances(filters: Tensor, *, distance: Distance = "euclidean") -> Tensor:
    """Return the distance of every pair of filters: (C, D) -> (C, C), float64, zero on the diagonal.

    Formula: |w_i - w_j|, or 1 - w_i'w_j / (|w_i| |w_j|); a filter of zeros has the cosine distance 1 to all others.

    Raises:
        ConfigError: an unknown distance.
        ScoreError: filters that `as_filters` refuses.

    Cost: O(C^2 D); a second for 2048 filters of 512 weights on one core. The differences are squared and summed as
    they are: taking them from inner products is faster and loses half of the digits of near filters.

    Example:
        >>> filter_distances(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)
    """
    rows = as_filters(filters)
    if distance == "euclidean":
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    if distance == "cosine":
        unit = torch.nn.functional.normalize(rows, eps=torch.finfo(torch.float64).tiny)
        return (1 - unit @ unit.mT).clamp(min=0).fill_diagonal_(0)
    raise ConfigError(f"unknown distance {distance!r}; allowed: euclidean, cosine")


@dataclass(frozen=True)
class L1Norm:
    """The sum of a filter's absolute weights [Li2017]_; a bias is not counted.

    Example:
        >>> L1Norm()(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
        tensor([7., 1.], dtype=torch.float64)
    """

    name: str = field(default="l1", init=False)
    reads: Reads = field(default="filters", init=False)

    def __call__(self, weight: Tensor) -> Tensor:
        return as_filters(weight).abs().sum(1)


@dataclass(frozen=True)
class L2Norm:
    """The Euclidean norm of a filter's weights; a bias is not counted.

    Example:
        >>> L2Norm()(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
        tensor([5., 1.], dtype=torch.float64)
    """

    name: str = field(default="l2", init=False)
    reads: Reads = field(default="filters", init=False)

    def __call__(self, weight: Tensor) -> Tensor:
        return as_filters(weight).square().sum(1).sqrt()


@dataclass(frozen=True)
class FPGM:
    """The sum of a filter's distances to all others [He2019]_: what the others can stand in for scores low.

    Args:
        distance: "euclidean" or "cosine", both of the published code.

    Raises: ConfigError: another distance. Cost: see `filter_distances`.

    Deviation from the published code, which prunes a share by norm first and by distance then: by distance alone, as
    the paper has it.

    Example:
        >>> FPGM()(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor([6., 5., 9.], dtype=torch.float64)
    """

    name: str = field(default="fpgm", init=False)
    reads: Reads = field(default="filters", init=False)
    distance: Distance = "euclidean"

    def __post_init__(self) -> None:
        require_distance(self.name, self.distance)

    def __call__(self, weight: Tensor) -> Tensor:
        return filter_distances(weight, distance=self.distance).sum(1)


@dataclass(frozen=True)
class BatchNormScale:
    """|gamma| of the batch norm behind the layer [Liu2017]_: `weight` is that batch norm's, (C,).

    It tells most where training pushed the scales towards zero, as the paper does.

    Example:
        >>> BatchNormScale()(torch.tensor([0.5, -2.0]))
        tensor([0.5000, 2.0000], dtype=torch.float64)
    """

    name: str = field(default="bn_scale", init=False)
    reads: Reads = field(default="norm", init=False)

    def __call__(self, weight: Tensor) -> Tensor:
        return as_filters(weight).abs().sum(1)


@dataclass(frozen=True)
class RandomScores:
    """Uniform numbers in 0..1 that depend on the seed and the layer's weights: repeatable, yet other in every layer.

    Example:
        >>> weight = torch.eye(3)
        >>> bool((RandomScores(seed=1)(weight) == RandomScores(seed=1)(weight)).all())
        True
        >>> bool((RandomScores(seed=1)(weight) == RandomScores(seed=2)(weight)).any())
        False
    """

    name: str = field(default="random", init=False)
    reads: Reads = field(default="filters", init=False)
    seed: int = 0

    def __call__(self, weight: Tensor) -> Tensor:
        filters = as_filters(weight)
        seed = zlib.crc32(filters.contiguous().numpy().tobytes(), self.seed % 2**32)
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(filters), generator=generator, dtype=torch.float64)


def require_distance(name: str, distance: str) -> None:
    """Refuse an unknown distance as an option of the criterion `name`."""
    if distance not in ("euclidean", "cosine"):
        raise ConfigError(f"{name}: distance is {distance!r}; allowed: euclidean, cosine")
