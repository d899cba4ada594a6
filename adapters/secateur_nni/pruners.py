"""HRank and discriminant information as pruners of NNI 3.0, by name.

References:
    [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020.
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur import criteria
from secateur.batches import Batches
from secateur.feature_maps import Tap
from secateur.records import Reduction
from secateur_nni.feature_map_pruner import FeatureMapPruner
from secateur_nni.host import Evaluator


class HRankPruner(FeatureMapPruner):
    """Masks the channels whose feature maps have the lowest average rank [Lin2020]; see `FeatureMapPruner`.

    Args:
        model, config_list, evaluator, existed_wrappers, batches, tap, samples, reduction: see there. Linear layers have
            no maps whose rank could tell anything and cannot be selected.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> pruner = HRankPruner(net, [{"op_names": ["0"], "sparse_ratio": 0.25}], batches=[torch.rand(8, 1, 8, 8)])
        >>> _, masks = pruner.compress()
        >>> int(masks["0"]["bias"].sum())
        6
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Evaluator | None = None,
        existed_wrappers: Mapping[str, Any] | None = None,
        *,
        batches: Batches,
        tap: Tap = "act",
        samples: int | None = None,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(
            model,
            config_list,
            evaluator,
            existed_wrappers,
            batches=batches,
            criterion="hrank",
            tap=tap,
            samples=samples,
            reduction=reduction,
        )


class DIPruner(FeatureMapPruner):
    """Masks the channels of least discriminant information [Hou2020]; see `FeatureMapPruner`.

    Args:
        model, config_list, evaluator, existed_wrappers, tap, samples, reduction: see there.
        batches: yields (inputs, labels).
        options: those of `secateur.criteria.DI`, such as rho.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> loader = [(torch.rand(16, 1, 8, 8), torch.arange(16) % 2)]
        >>> pruner = DIPruner(net, [{"op_names": ["0"], "sparse_ratio": 0.5}], batches=loader, rho=1.0)
        >>> _, masks = pruner.compress()
        >>> int(masks["0"]["bias"].sum())
        4
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Evaluator | None = None,
        existed_wrappers: Mapping[str, Any] | None = None,
        *,
        batches: Batches,
        tap: Tap = "act",
        samples: int | None = None,
        reduction: Reduction = "sum",
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            config_list,
            evaluator,
            existed_wrappers,
            batches=batches,
            criterion=criteria.criterion("di", **options),
            tap=tap,
            samples=samples,
            reduction=reduction,
        )
