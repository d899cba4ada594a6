"""Baselines that read feature maps without labels: how strong a channel is, and how much it changes.

    mean_activation     (1 / (N P)) sum over images n and positions p of |a[n, c, p]|
    variance            (1 / P) sum over p of the population variance over n of a[n, c, p]

A channel that is nearly silent, or the same whatever the image, has little to say to the next layer. The mean
activation of a ReLU network is that of [Molchanov2017]_, section 2.2; the variance is the energy of the centred
features, the diagonal of the scatter matrix in which discriminant information weighs them.

Deviations: the mean is over absolute values, so that layers whose maps are not rectified (a projection without
activation) are ranked as well; after a ReLU the two agree.

.. [Molchanov2017] P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz. Pruning convolutional neural networks for
   resource efficient inference. ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.counts import check_counts
from secateur.criteria.inputs import as_feature_maps
from secateur.criteria.moments import Moments, position_moments
from secateur.errors import DataError


@dataclass(frozen=True, eq=False)
class ValueSums:
    """The state of the mean activation: `sums` (C,) float64 of absolute values, and `values`, how many of a channel."""

    sums: Tensor
    values: int


@dataclass(frozen=True)
class MeanActivation:
    """The mean absolute activation of a channel, as a criterion.

    Formula: `compute` gives the mean of |a| over images and positions, (C,), float64, >= 0; larger = keep.

    Args:
        samples: how many images to read unless the caller says otherwise.

    Raises:
        ConfigError: samples that are no whole number from 1 on.
        DataError: by `update`, maps that cannot be used; by `compute`, when none was seen.

    Cost of `update`: one pass over the maps. Batches of any size and order give the same scores up to rounding.

    Example:
        >>> rule = MeanActivation()
        >>> state = rule.update(rule.init(channels=2), torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
        >>> rule.compute(state)
        tensor([2., 0.], dtype=torch.float64)

    Source: [Molchanov2017]_. Deviations: see the module.
    """

    name: str = field(default="mean_activation", init=False)
    needs_labels: bool = field(default=False, init=False)
    batch_size: int | None = field(default=None, init=False)
    accepts_vectors: bool = field(default=True, init=False)
    samples: int = 500

    def __post_init__(self) -> None:
        check_counts(of=self.name, samples=self.samples)

    def init(self, channels: int) -> ValueSums:
        """Return the empty state of a layer of `channels` channels."""
        return ValueSums(torch.zeros(channels, dtype=torch.float64), 0)

    def update(
        self,
        state: ValueSums,
        feature_maps: Tensor,
        labels: Tensor | None = None,  # noqa: ARG002  # callers pass labels to every criterion alike
    ) -> ValueSums:
        """Add a batch of maps (N, C, H, W); labels are not looked at. Returns a new state."""
        maps = as_feature_maps(feature_maps, len(state.sums))
        sums = maps.abs().sum((2, 3), dtype=torch.float64).sum(0).cpu()
        return ValueSums(state.sums + sums, state.values + maps[:, 0].numel())

    def merge(self, state: ValueSums, other: ValueSums) -> ValueSums:
        """Return the state of the images that either has seen."""
        return ValueSums(state.sums + other.sums, state.values + other.values)

    def compute(self, state: ValueSums) -> Tensor:
        """Return the scores, (C,), float64."""
        if state.values == 0:
            raise DataError(_UNSEEN.format(self.name))
        return state.sums / state.values


@dataclass(frozen=True, eq=False)
class MapMoments:
    """The state of the variance: `moments` (C, P) over the images, None before the first batch; `channels`, C."""

    channels: int
    moments: Moments | None


@dataclass(frozen=True)
class FeatureVariance:
    """How much a channel's feature map changes from image to image, as a criterion.

    Formula: `compute` gives the mean over positions of the population variance over images, (C,), float64, >= 0;
    larger = keep. With `centred=False`, the mean square (energy) instead, which a constant channel has as well.

    Args:
        samples: how many images to read unless the caller says otherwise.
        centred: whether the mean over the images is taken off, position by position.

    Raises:
        ConfigError: samples that are no whole number from 1 on.
        DataError: by `update`, maps that cannot be used, or of another height or width than before; by `compute`, when
            none was seen.

    Cost of `update`: two passes over the maps in float64, a few channels (64 MiB) at a time. The state holds 3 C P
    numbers. Batches of any size and order give the same scores up to rounding.

    Example:
        >>> rule, features = FeatureVariance(), torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> rule.compute(rule.update(rule.init(channels=2), features))
        tensor([1., 0.], dtype=torch.float64)
    """

    name: str = field(default="variance", init=False)
    needs_labels: bool = field(default=False, init=False)
    batch_size: int | None = field(default=None, init=False)
    accepts_vectors: bool = field(default=True, init=False)
    samples: int = 500
    centred: bool = True

    def __post_init__(self) -> None:
        check_counts(of=self.name, samples=self.samples)

    def init(self, channels: int) -> MapMoments:
        """Return the empty state of a layer of `channels` channels."""
        return MapMoments(channels, None)

    def update(
        self,
        state: MapMoments,
        feature_maps: Tensor,
        labels: Tensor | None = None,  # noqa: ARG002  # callers pass labels to every criterion alike
    ) -> MapMoments:
        """Add a batch of maps (N, C, H, W); labels are not looked at. Returns a new state."""
        maps = as_feature_maps(feature_maps, state.channels).flatten(2)
        return self.merge(state, MapMoments(state.channels, position_moments(maps)))

    def merge(self, state: MapMoments, other: MapMoments) -> MapMoments:
        """Return the state of the images that either has seen. Raises DataError for maps of different sizes."""
        if state.moments is None or other.moments is None:
            return other if state.moments is None else state
        if state.moments.mean.shape != other.moments.mean.shape:
            raise DataError(
                f"feature maps have {other.moments.mean.shape[1]} positions and had {state.moments.mean.shape[1]} "
                f"before; {self.name} compares images position by position and needs inputs of one size"
            )
        return MapMoments(state.channels, state.moments.joined(other.moments))

    def compute(self, state: MapMoments) -> Tensor:
        """Return the scores, (C,), float64."""
        if state.moments is None:
            raise DataError(_UNSEEN.format(self.name))
        energy = state.moments.variance
        return (energy if self.centred else energy + state.moments.mean.square()).mean(1)


_UNSEEN = "no feature map has been seen; {} needs at least one image"
