"""Any criterion over feature maps as a pruner of NNI 3.0.

NNI 3.0 has no pruner that reads feature maps; its 2.x ancestors did and were removed. This one runs the images through
the network itself, in eval mode and without gradients: an evaluator is needed only by the schedules.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from secateur import criteria
from secateur.batches import Batches, check_repeatable, first_batch, first_inputs
from secateur.errors import DataError, ScoreError
from secateur.feature_maps import Tap, collect_scores
from secateur.modes import device_of
from secateur.protocols import Criterion
from secateur.records import ChannelGroup, Reduction, ScoreTable
from secateur.search import keep_count, select
from secateur_nni.completion import Selection, completed, select_groups
from secateur_nni.config_list import Setting
from secateur_nni.evaluators import check_evaluator
from secateur_nni.host import Compressor, Evaluator, StepwisePruner
from secateur_nni.masks import masks_of, warn_where_zeros_end
from secateur_nni.wrapping import check_unmasked, forget_forward, rewrapped_on_failure

Metrics = dict[str, dict[str, Tensor]]


class FeatureMapPruner(StepwisePruner):  # type: ignore[misc]  # NNI has no types
    """Any criterion over feature maps as a pruner of NNI: masks the channels of lowest score in each layer.

    In NNI's own shape: `compress()` returns the wrapped network and the masks, `unwrap_model()` gives the network back,
    `from_compressor` chains, `AGPPruner` and `LinearPruner` raise the sparse ratios while the user trains. Images are
    read whenever masks are made, through the network as it is masked by then.

    Formula: a layer of C channels loses floor(sparse_ratio * C), at least ceil(min_sparse_ratio * C), at most
    floor(max_sparse_ratio * C), and never all. Channels of equal score go by index, the lower first; what is masked
    already stays masked, since its feature map is zero.

    Masks mean what removal means: layers that fall together (a shortcut's, a depthwise convolution and the one before
    it) lose the same channels, chosen by their combined scores, and the batch norm behind a layer is masked along.

    Args:
        model: the network; NNI wraps it in place until `unwrap_model`.
        config_list: NNI's, of these keys: op_types, op_names, op_names_re, exclude_op_types, exclude_op_names,
            exclude_op_names_re; sparse_ratio, min_sparse_ratio, max_sparse_ratio; target_names, target_settings,
            granularity, dependency_group_id and internal_metric_block where they ask for nothing else than whole
            channels of layers that fall together.
        evaluator: NNI's; needed by schedules alone, which otherwise end in an AssertionError without words. See
            `torch_evaluator`.
        existed_wrappers: what `from_compressor` hands over.
        batches: yields inputs (N, ...) or (inputs, labels), more than once.
        criterion: a name in `secateur.criteria.CRITERIA`, or a criterion with its options.
        tap: which tensor is the feature map: "act", "bn", "conv" or "sum", see `secateur.collect_scores`.
        samples: images to read; None: as many as the criterion asks for.
        reduction: how the scores of layers that fall together combine: "sum", "mean" or "max".

    Raises:
        ConfigError: an unknown criterion; a config list that selects nothing, or with unknown keys, integer ratios,
            global groups, thresholds or layers that cannot lose channels; an evaluator that is none of NNI's, or is
            another network's.
        DataError: no image, none of the labels that the criterion reads, or a generator, which can be read only once.
        NetworkError: the network is wrapped by another pruner, or cannot be traced.
        ScoreError: (by `compress`, before anything is trained) the criterion cannot score a layer that is selected.

    Warns:
        SecateurWarning: behind some layer zeros end, so that masked is not what removed is.

    Cost: a trace; for each mask generation one pass over `samples` images. All layers are scored, selected or not.

    Deviations: NNI masks int(sparse_ratio * C) channels, one less where the product is rounded down (0.29 of 100); it
    leaves it to `torch.topk` which of equal scores go, may mask whole layers, and takes no notice of min_ and
    max_sparse_ratio in dependency groups.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> loader = [(torch.rand(16, 1, 8, 8), torch.arange(16) % 2)]
        >>> config_list = [{"op_types": ["Conv2d"], "exclude_op_names": ["3"], "sparse_ratio": 0.5}]
        >>> pruner = FeatureMapPruner(net, config_list, batches=loader, criterion="variance")
        >>> _, masks = pruner.compress()
        >>> int(masks["0"]["weight"].sum()), int(masks["1"]["bias"].sum())
        (36, 4)
        >>> pruner.unwrap_model()
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Evaluator | None = None,
        existed_wrappers: Mapping[str, Any] | None = None,
        *,
        batches: Batches,
        criterion: str | Criterion[Any],
        tap: Tap = "act",
        samples: int | None = None,
        reduction: Reduction = "sum",
    ) -> None:
        self.criterion: Criterion[Any] = criteria.as_criterion(criterion)
        check_repeatable(batches)
        check_evaluator(evaluator, model)
        inputs, labels = first_batch(batches)
        if self.criterion.needs_labels and labels is None:
            raise DataError(
                f"the criterion {self.criterion.name!r} reads labels, but the batches hold inputs alone; give pairs "
                "(inputs, labels)"
            )
        example = inputs[:2].to(device_of(model))
        selection = select_groups(model, config_list, example, with_ratio=True)
        warn_where_zeros_end(model, selection.groups, example)
        entries = completed(model, selection)
        check_unmasked([entry["op_names"][0] for entry in entries], existed_wrappers)
        self.selection: Selection = selection
        self.batches, self.tap, self.samples, self.reduction = batches, tap, samples, reduction
        super().__init__(model, entries, evaluator, existed_wrappers)

    @classmethod
    def from_compressor(
        cls,
        compressor: Compressor,
        new_config_list: Sequence[Mapping[str, Any]],
        evaluator: Evaluator | None = None,
        **settings: Any,
    ) -> Self:
        """Return the pruner that goes on from another compressor, with its network, wrappers and evaluator.

        Args:
            compressor: NNI's or one of these; its network is unwrapped, and wrapped again by the new one.
            new_config_list: of layers that it has no masks for.
            evaluator: used if `compressor` has none.
            settings: batches and the other keyword arguments of the class.

        Raises:
            ConfigError: as the class; or a layer has masks of the earlier pruner. The network is wrapped as before.
        """
        with rewrapped_on_failure(compressor):
            pruner: Self = super(StepwisePruner, cls).from_compressor(
                compressor, new_config_list, evaluator=evaluator, **settings
            )
        return pruner

    def unwrap_model(self) -> None:
        """Give the network back as it was, with dense weights: the masks are not written into them.

        NNI gives the layers that had masks new parameter objects: an optimizer is to be made after this call.
        """
        super().unwrap_model()
        forget_forward(self._module_wrappers)

    def _collect_data(self) -> Metrics:
        """Return the scores of the layers that are selected and can be scored, (C,)."""
        table = collect_scores(self.bound_model, self.batches, self.criterion, tap=self.tap, samples=self.samples)
        check_scored(self.selection.groups, table)
        return {layer: {"weight": scores} for layer, scores in table.items() if layer in self._target_spaces}

    def _calculate_metrics(self, data: Metrics) -> Metrics:
        """Return for each layer the scores of its channels combined with those of the layers that fall with it."""
        scores = {layer: found["weight"] for layer, found in data.items()}
        metrics: Metrics = {}
        for group in self.selection.groups.values():
            combined = group.combine(scores, reduction=self.reduction)
            for member in (member for member in group.producers if member.layer in self._target_spaces):
                target = self._target_spaces[member.layer]["weight"].target
                metric = torch.zeros(len(target), dtype=torch.float64)
                for channel, positions in enumerate(member.indices):
                    metric[list(positions)] = float(combined[channel])
                metrics[member.layer] = {"weight": metric.reshape(-1, *[1] * (target.ndim - 1))}
        return metrics

    def _generate_sparsity(self, metrics: Metrics) -> Metrics:
        """Return the masks: of each group the channels of lowest metric go."""
        kept = {}
        for name, group in self.selection.groups.items():
            space = self._target_spaces[name]["weight"]
            first = [positions[0] for positions in whole_producer(group).indices]
            scores = metrics[name]["weight"].flatten()[first]
            masked = space.mask.flatten(1).sum(1)[first].cpu() == 0
            scores[masked] = scores.min() - 1
            kept[name] = select(scores, _width(group, space), parts=group.parts)
        return masks_of(self.selection.groups, kept, self._target_spaces)

    def _fuse_preprocess(self, evaluator: Evaluator) -> None:
        """Make masks at the first step of a chain of compressors, where no schedule says when; NNI would make none.

        What scores cannot be made of is told now, before a schedule trains until masks are due.
        """
        self._check_scorable()
        self.first_step_gen = self.interval_steps < 0
        super()._fuse_preprocess(evaluator)

    def _check_scorable(self) -> None:
        """Refuse settings, and layers that the criterion passes by, tried on as few images as it takes at a time."""
        few = self.criterion.batch_size or len(first_inputs(self.batches)) or 1
        few = few if self.samples is None else min(few, self.samples)
        try:
            with warnings.catch_warnings(action="ignore"):
                table = collect_scores(self.bound_model, self.batches, self.criterion, tap=self.tap, samples=few)
        except (DataError, ScoreError):  # of few images; more may do
            return
        check_scored(self.selection.groups, table)
        for group in self.selection.groups.values():
            group.combine(table, reduction=self.reduction)


def check_scored(groups: Mapping[str, ChannelGroup], scores: ScoreTable) -> None:
    """Refuse scores that lack a group which the config list selects.

    Raises:
        ScoreError: with the names of its layers, and why they have none.
    """
    skipped = scores.settings.get("skipped", {})
    lacking = {
        member.layer: skipped.get(member.layer, "it scores no such layers")
        for group in groups.values()
        if not any(member.layer in scores for member in group.producers)
        for member in group.producers
    }
    if lacking:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in lacking.items())
        raise ScoreError(
            f"the criterion {scores.settings.get('criterion')!r} cannot score layers that the config list selects "
            f"({reasons}); add 'exclude_op_names': {[*lacking]}"
        )


def whole_producer(group: ChannelGroup) -> Any:
    """Return the producer that a group is named after: it makes all of its channels."""
    return next(member for member in group.producers if member.layer == group.name)


def _width(group: ChannelGroup, space: Any) -> int:
    """Return how many of a group's channels stay by the ratios that a target space has; schedules change them."""
    setting = Setting(min_sparse_ratio=space.min_sparse_ratio or 0.0, max_sparse_ratio=space.max_sparse_ratio or 1.0)
    least, most = setting.limits(group.width)
    fewest = min(group.width, len(group.parts))
    return max(fewest, min(most, max(least, keep_count(group.width, space.sparse_ratio))))
