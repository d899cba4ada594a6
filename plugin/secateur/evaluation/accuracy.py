"""Top-1 accuracy of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.batches import Batches, opened, unpack
from secateur.distributed import Across, jointly, local
from secateur.errors import DataError
from secateur.modes import evaluating, own_copy, reading


def check_labels(labels: Tensor | None, outputs: Any) -> Tensor:
    """Return `labels` (N,) if they can be the classes of the logits `outputs` (N, classes).

    Raises:
        DataError: outputs that are not (N, classes), labels that are missing, not whole numbers, or not in
            0..classes - 1.

    Example:
        >>> check_labels(torch.tensor([1, 0], dtype=torch.uint8), torch.zeros(2, 3))
        tensor([1, 0])
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(f"the network must return logits (N, classes); it returned {found}")
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


def accuracy(model: nn.Module, batches: Batches, *, across: Across = None) -> float:
    """Return the share of images whose largest logit is that of their label, in [0, 1].

    Formula: |{n : argmax_k model(x_n)_k = y_n}| / N; among equal logits the first class counts.

    Args:
        model: gives logits (N, classes); evaluated in eval mode, on the device where it lies, and left as it was.
        batches: yields `(inputs, labels)`, inputs (N, ...) and labels (N,) in 0..classes - 1.
        across: a process group of torch.distributed: each process gives the batches of its own share, of any size or
            none, and all get the accuracy over all images, exactly that of one process. Each image must be in one share
            (DistributedSampler repeats some to even the shares out; `range(rank, images, processes)` does not). None:
            this process alone, which `torch.distributed.group.WORLD` means too before `init_process_group`.

    Raises:
        DataError: no images, no labels, labels out of range, an output that is NaN, or images of a second size on
            which the network does not run.
        ProcessError: another process failed, ended, or holds other weights; see `secateur.distributed`.
        ConfigError: `across` is no process group that this process belongs to.

    Cost: one forward pass over the batches; `across` processes a hash of the weights and one exchange beside it.

    Example:
        >>> accuracy(nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
        0.75
    """
    network = local(model)
    counts = jointly(lambda: _count(network, batches), across, what="the accuracy", network=network)
    hits, images = sum(hits for hits, _ in counts), sum(images for _, images in counts)
    if not images:
        raise DataError("there are no images to evaluate on: the batches are empty")
    return hits / images


def _count(model: nn.Module, batches: Batches) -> tuple[int, int]:
    """Return how many images `model` names the class of, and how many there are."""
    right, _ = judged(model, batches)
    return int(right.sum()), len(right)


def judged(model: nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return whether each image's largest logit is that of its label, and the labels, both (N,) in the order of images.

    Two networks that are judged on the same images can be compared image by image, which tells them apart where their
    accuracies alone do not.

    Args:
        model, batches: as for `accuracy`, whose formula is the mean of the first.

    Raises:
        DataError: as `accuracy`, but for images that are missing.

    Cost: one forward pass over the batches.

    Example:
        >>> judged(nn.Identity(), [(torch.eye(3), torch.tensor([0, 1, 0]))])
        (tensor([ True,  True, False]), tensor([0, 1, 0]))
    """
    right, classes = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, dtype=torch.int64)]
    images, ran_on = 0, None
    with evaluating(model), torch.inference_mode():
        for batch in opened(batches):
            inputs, labels = unpack(batch)
            with reading(model, inputs, ran_on=ran_on):
                outputs = model(own_copy(model, inputs))
            ran_on = inputs.shape[1:]
            targets = check_labels(labels, outputs)
            if bool(outputs.isnan().any()):
                raise DataError(f"the network returned NaN for images {images}..{images + len(inputs) - 1}")
            right.append((outputs.argmax(1) == targets).cpu())
            classes.append(targets.cpu())
            images += len(inputs)
    return torch.cat(right), torch.cat(classes)
