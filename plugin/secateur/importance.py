"""Every criterion as Torch-Pruning's `importance` argument: the criterion, its data and its tap in one object.

References:
    [Lin2020] M. Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020.
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur.batches import Batches, check_repeatable, first_inputs
from secateur.channel_graph import channel_groups
from secateur.channel_graph.importance import ScoreImportance
from secateur.criteria import as_criterion, group_criterion, options_of
from secateur.criteria import criterion as by_name
from secateur.feature_maps import Tap, collect_scores
from secateur.modes import device_of
from secateur.protocols import Criterion, GradientCriterion, WeightCriterion
from secateur.records import Reduction, ScoreTable
from secateur.scoring import Loss, gradient_scores, reconstruction_scores, weight_scores


class CriterionImportance(ScoreImportance):
    """Any criterion over feature maps as an importance: `tp.pruner.BasePruner(..., importance=this)`.

    The scores are collected from the network that is being pruned, at the first call and again after every change of
    its structure, so iterative pruning needs nothing else. `data` must therefore be iterable more than once.

    What the pruner does with the scores is Torch-Pruning's affair: it leaves the network in eval mode, and under
    `global_pruning` it compares scores across layers and passes a group by that would lose all of its channels. Ranks
    are bounded by the size of the map, so prefer its default, a share of each group; `secateur.prune` takes the same
    arguments and has none of these surprises.

    Args:
        criterion: a name in `secateur.criteria.CRITERIA`, or a criterion with its options.
        data: yields inputs or `(inputs, labels)`; labels are needed where the criterion reads them.
        tap: which tensor is the feature map: "act" (after batch norm, activation and the residual addition),
            "bn" or "conv".
        samples: images to read; None: as many as the criterion asks for.
        group_reduction: how the scores of layers that share their channels combine: "sum", "mean" or "max".
        prune_outputs: whether the network's own outputs may be pruned; they stay otherwise, in `ignored_layers` or not.

    Raises:
        ConfigError: an unknown criterion.
        DataError: `data` is a generator or another iterator, which can be read only once.

    Errors of `collect_scores` are raised when Torch-Pruning asks for the first group, before anything is removed.

    Cost: one pass over `samples` images per structure.

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> x = torch.randn(16, 1, 8, 8)
        >>> importance = CriterionImportance("hrank", [x])
        >>> tp.pruner.BasePruner(net, (x,), importance=importance, ignored_layers=[net[2]]).step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        criterion: str | Criterion[Any],
        data: Batches,
        *,
        tap: Tap = "act",
        samples: int | None = None,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
    ) -> None:
        check_repeatable(data)
        self.criterion: Criterion[Any] = as_criterion(criterion)
        self.data, self.tap, self.samples = data, tap, samples
        super().__init__(self._collect, group_reduction=group_reduction, prune_outputs=prune_outputs)

    def _collect(self, model: nn.Module) -> ScoreTable:
        return collect_scores(model, self.data, self.criterion, tap=self.tap, samples=self.samples)


class WeightImportance(ScoreImportance):
    """A criterion that reads weights alone as an importance: no data, see `secateur.criteria.WEIGHT_CRITERIA`.

    Args:
        criterion: a name such as "rnf" or "fpgm", or a criterion with its options.
        example_inputs: one batch, needed by "bn_scale" alone, to find the batch norm behind each convolution.
        group_reduction, prune_outputs: see `CriterionImportance`.

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> tp.pruner.BasePruner(net, (torch.randn(1, 1, 8, 8),), importance=WeightImportance("l1")).step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        criterion: str | WeightCriterion,
        *,
        example_inputs: Tensor | None = None,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
    ) -> None:
        collect = partial(weight_scores, criterion=criterion, example_inputs=example_inputs)
        super().__init__(collect, group_reduction=group_reduction, prune_outputs=prune_outputs)


class GradientImportance(ScoreImportance):
    """A criterion that reads weights and gradients as an importance; see `secateur.scoring.gradient_scores`.

    Args:
        data: yields `(inputs, labels)`, more than once.
        criterion: "taylor", or a criterion with its options.
        loss: outputs, labels -> one number.
        samples, group_reduction, prune_outputs: see `CriterionImportance`.

    Raises:
        DataError: `data` is a generator or another iterator, which can be read only once.

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> loader = [(torch.randn(16, 1, 8, 8), torch.arange(16) % 2)]
        >>> importance = GradientImportance(loader)
        >>> tp.pruner.BasePruner(net, (torch.randn(1, 1, 8, 8),), importance=importance).step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        data: Batches,
        criterion: str | GradientCriterion = "taylor",
        *,
        loss: Loss = nn.functional.cross_entropy,
        samples: int | None = None,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
    ) -> None:
        check_repeatable(data)
        collect = partial(gradient_scores, batches=data, criterion=criterion, loss=loss, samples=samples)
        super().__init__(collect, group_reduction=group_reduction, prune_outputs=prune_outputs)


class ReconstructionImportance(ScoreImportance):
    """What the layers behind a channel lose with it, as an importance; see `secateur.scoring.reconstruction_scores`.

    The groups are traced anew for every structure. The network's outputs, which no layer reads, stay. Errors are in
    each reader's own unit, so prefer Torch-Pruning's default, a share of each group, to `global_pruning`.

    Args:
        data: yields inputs or `(inputs, labels)`, more than once; labels are needed where `labels` is not 0.
        example_inputs: one input (N, ...) to trace by; None for the first two of the data.
        samples: images to read; None: as many as the criterion asks for.
        options: those of `secateur.criteria.Reconstruction`, such as ridge, rows or labels.

    Raises:
        ConfigError: an unknown option, or one out of range.
        DataError: `data` is a generator or another iterator, which can be read only once.

    Errors of `reconstruction_scores` are raised when Torch-Pruning asks for the first group. Groups that cannot be
    scored, or that Torch-Pruning maps wrongly, are left dense, with a warning.

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> x = torch.randn(16, 1, 8, 8)
        >>> tp.pruner.BasePruner(net, (x,), importance=ReconstructionImportance([x])).step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        data: Batches,
        *,
        example_inputs: Tensor | None = None,
        samples: int | None = None,
        **options: Any,
    ) -> None:
        check_repeatable(data)
        rule = group_criterion("reconstruction", **options, **({} if samples is None else {"samples": samples}))
        self.data, self.example_inputs, self.options = data, example_inputs, options_of(rule)
        super().__init__(self._collect)

    def _collect(self, model: nn.Module) -> ScoreTable:
        example = first_inputs(self.data)[:2] if self.example_inputs is None else self.example_inputs
        groups = channel_groups(model, example.to(device_of(model)))
        return reconstruction_scores(model, groups, self.data, **self.options)


class HRankImportance(CriterionImportance):
    """The average rank of a filter's feature maps [Lin2020] as an importance; see `secateur.criteria.HRank`.

    Linear layers have no maps whose rank could tell anything: their groups are left dense, with a warning.

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> loader = [(torch.randn(16, 1, 8, 8), torch.zeros(16).long())]
        >>> pruner = tp.pruner.BasePruner(
        ...     net, (torch.randn(1, 1, 8, 8),), importance=HRankImportance(loader), ignored_layers=[net[2]]
        ... )
        >>> pruner.step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        data: Batches,
        *,
        tap: Tap = "act",
        samples: int | None = None,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
    ) -> None:
        super().__init__(
            "hrank", data, tap=tap, samples=samples, group_reduction=group_reduction, prune_outputs=prune_outputs
        )


class DIImportance(CriterionImportance):
    """Discriminant information [Hou2020] as an importance; see `secateur.criteria.DI` for `options` such as rho.

    `data` must yield labels.

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> loader = [(torch.randn(16, 1, 8, 8), torch.arange(16) % 2)]
        >>> pruner = tp.pruner.BasePruner(
        ...     net, (torch.randn(1, 1, 8, 8),), importance=DIImportance(loader, rho=1.0), ignored_layers=[net[2]]
        ... )
        >>> pruner.step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        data: Batches,
        *,
        tap: Tap = "act",
        samples: int | None = None,
        group_reduction: Reduction = "sum",
        prune_outputs: bool = False,
        **options: Any,
    ) -> None:
        rule = by_name("di", **options)
        super().__init__(
            rule, data, tap=tap, samples=samples, group_reduction=group_reduction, prune_outputs=prune_outputs
        )
