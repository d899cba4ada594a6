"""What every criterion checks before it believes a batch: the feature maps and, where they are read, the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import DataError


def as_feature_maps(feature_maps: Tensor, channels: int | None = None, *, finite: bool = True) -> Tensor:
    """Return feature maps as (N, C, H, W); features (N, C) of a linear layer become (N, C, 1, 1).

    They are cut from the autograd graph. The numbers keep their type and place: nothing is copied.

    Args:
        feature_maps: (N, C, H, W) or (N, C), floating.
        channels: how many channels the layer has; None takes any number.
        finite: whether to look for NaN and infinity, which reads every number once.

    Raises:
        DataError: another shape, not floating, empty, NaN or infinite, or another number of channels.

    Example:
        >>> as_feature_maps(torch.zeros(8, 10), channels=10).shape
        torch.Size([8, 10, 1, 1])
    """
    shape = tuple(feature_maps.shape)
    if feature_maps.ndim not in (2, 4):
        raise DataError(f"feature maps have the shape {shape}; allowed: (N, C, H, W), or (N, C) for a linear layer")
    if not feature_maps.is_floating_point():
        raise DataError(f"feature maps must hold floating numbers; these hold {feature_maps.dtype}")
    if feature_maps.numel() == 0:
        raise DataError(f"feature maps of the shape {shape} hold nothing")
    if channels is not None and shape[1] != channels:
        raise DataError(f"feature maps have {shape[1]} channels, the layer has {channels}")
    maps = feature_maps.detach()
    if finite and not is_finite(maps):
        raise DataError(f"feature maps of the shape {shape} hold NaN or infinite values")
    return maps if maps.ndim == 4 else maps[:, :, None, None]


def is_finite(numbers: Tensor) -> bool:
    """Return whether all numbers are finite, by their extremes: NaN is passed on, and nothing of their size is made.

    Example:
        >>> is_finite(torch.tensor([1.0, -2.0])), is_finite(torch.tensor([1.0, float("nan")]))
        (True, False)
    """
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(numbers))


def as_labels(labels: Tensor | None, images: int) -> Tensor:
    """Return the labels of a batch as they are, int64 (N,).

    Args:
        labels: (N,) integers, any numbering.
        images: N, how many images the labels belong to.

    Raises:
        DataError: no labels, or not a vector of N integers.

    Example:
        >>> as_labels(torch.tensor([7, 3, 7], dtype=torch.uint8), images=3)
        tensor([7, 3, 7])
    """
    if labels is None:
        raise DataError("labels are missing: batches must be pairs (inputs, labels)")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"labels must be a vector of class numbers; these have the shape {tuple(labels.shape)} "
            f"and hold {labels.dtype}"
        )
    if len(labels) != images:
        raise DataError(f"{images} feature maps but {len(labels)} labels")
    return labels.long()


def as_classes(labels: Tensor | None, images: int) -> Tensor:
    """Return the labels of a batch as int64 (N,), renumbered 0..L-1 over the L classes that occur in it.

    Args and errors as in `as_labels`; moreover

    Raises:
        DataError: a batch of one image, or fewer than two classes.

    Example:
        >>> as_classes(torch.tensor([7, 3, 7]), images=3).tolist()
        [1, 0, 1]
    """
    numbers = as_labels(labels, images)
    if images < 2:
        raise DataError("a batch of one image has no classes to tell apart; at least two images are needed")
    found: Tensor
    classes: Tensor
    found, classes = torch.unique(numbers, return_inverse=True)
    if len(found) < 2:
        raise DataError(
            f"all {images} images of a batch belong to class {int(found[0])}; at least two classes are needed "
            "(are the images shuffled?)"
        )
    return classes
