"""What a network is worth: top-1 accuracy, of the network itself or of candidates that are masked, not cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.batches import Batches, unpack
from secateur.channel_graph.masks import masked
from secateur.errors import DataError
from secateur.modes import device_of, evaluating
from secateur.records import ChannelGroup


def check_labels(labels: Tensor | None, outputs: Tensor) -> Tensor:
    """Return `labels` (N,) if they can be the classes of the logits `outputs` (N, classes).

    Raises:
        DataError: outputs that are not (N, classes), labels that are missing, not whole numbers, or not in
            0..classes - 1.
    """
    if outputs.ndim != 2:
        raise DataError(f"the network must return logits (N, classes); it returned shape {tuple(outputs.shape)}")
    if labels is None:
        raise DataError("the batches must be pairs (inputs, labels); found inputs without labels")
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(f"labels must be whole numbers (N,); found {labels.dtype} of shape {tuple(labels.shape)}")
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= outputs.shape[1]:
        raise DataError(
            f"labels must lie in 0..{outputs.shape[1] - 1}, the outputs of the network; found {low}..{high}"
        )
    return labels.to(outputs.device, torch.int64)


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Return the share of images whose largest logit is that of their label, in [0, 1].

    Formula: |{n : argmax_k model(x_n)_k = y_n}| / N; among equal logits the first class counts.

    Args:
        model: gives logits (N, classes); evaluated in eval mode, on the device where it lies, and left as it was.
        batches: yields `(inputs, labels)`, inputs (N, ...) and labels (N,) in 0..classes - 1.

    Raises:
        DataError: no images, no labels, labels out of range, or an output that is NaN.

    Cost: one forward pass over the batches.

    Example:
        >>> accuracy(nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
        0.75
    """
    device, hits, images = device_of(model), 0, 0
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            inputs, labels = unpack(batch)
            outputs = model(inputs.to(device))
            targets = check_labels(labels, outputs)
            if bool(outputs.isnan().any()):
                raise DataError(f"the network returned NaN for images {images}..{images + len(inputs) - 1}")
            hits += int((outputs.argmax(1) == targets).sum())
            images += len(inputs)
    if not images:
        raise DataError("there are no images to evaluate on: the batches are empty")
    return hits / images


class MaskedAccuracy:
    """The worth of a candidate of a search: its accuracy with the channels masked that it would remove.

    A private copy of the network is masked, evaluated and restored, so no candidate needs surgery or a new trace. In
    eval mode this is the accuracy that the pruned network has before any recovery.

    Args:
        model: the dense network; copied once, never touched.
        groups: its channel groups by name.
        batches: yields `(inputs, labels)`; read once and held in memory, on the device of the model.

    Raises:
        DataError: no images, or batches that `accuracy` refuses; the latter when called.

    Cost: memory of the batches and of one network; each call one forward pass over the batches.

    Example:
        >>> from secateur.records import ChannelGroup, Member
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> for layer in net:
        ...     _ = nn.init.eye_(layer.weight)
        >>> own = ((0,), (1,))
        >>> group = ChannelGroup("0", 2, (Member("0", "producer", own), Member("1", "consumer", own)))
        >>> worth = MaskedAccuracy(net, {"0": group}, [(torch.eye(2), torch.tensor([0, 1]))])
        >>> worth({}), worth({"0": (0,)})
        (1.0, 0.5)
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, ChannelGroup], batches: Batches) -> None:
        device = device_of(model)
        self._model = copy.deepcopy(model).eval()
        self._groups = dict(groups)
        self._batches: list[tuple[Tensor, Tensor | None]] = []
        for batch in batches:
            inputs, labels = unpack(batch)
            self._batches.append((inputs.to(device), None if labels is None else labels.to(device)))
        if not self._batches:
            raise DataError("there are no images to evaluate on: the batches are empty")

    def __call__(self, kept: Mapping[str, tuple[int, ...]]) -> float:
        """Return the accuracy in [0, 1] with only the channels `kept[g]` of group g, and all of absent groups.

        Raises:
            PlanError: an unknown group or channels that it does not have.
            DataError: what `accuracy` raises.
        """
        with masked(self._model, self._groups, kept) as candidate:
            return accuracy(candidate, self._batches)
