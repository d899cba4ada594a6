"""Score every channel of a network from the weights of its layers and the gradients of a loss by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur import criteria
from secateur.batches import Batches, rebatch
from secateur.counts import check_counts
from secateur.distributed import Across, Share, jointly, part_of, sum_of
from secateur.errors import DataError, NetworkError
from secateur.feature_maps.tap import producers
from secateur.fingerprints import structure_of
from secateur.modes import (
    asking_for_gradients,
    check_changeable,
    device_of,
    evaluating,
    own_copy,
    reading,
    unwrapped,
)
from secateur.protocols import GradientCriterion
from secateur.records import ScoreTable
from secateur.scoring.weights import as_rows, named, weight_of
from secateur.tf32 import without_tf32

Loss = Callable[[Any, Any], Tensor]


def gradient_scores(
    model: nn.Module,
    batches: Batches,
    criterion: str | GradientCriterion = "taylor",
    *,
    loss: Loss = nn.functional.cross_entropy,
    layers: Iterable[str] | None = None,
    samples: int | None = None,
    across: Across = None,
) -> ScoreTable:
    """Return the score of every channel of every layer from its weights and the gradients of the loss by them.

    Formula: the mean over batches of criterion(weight, gradient). The network runs in eval mode and is left as it was:
    training flags, `requires_grad`, and the gradients that its parameters hold, which are neither read nor written.

    Args:
        model: a network that takes one tensor of inputs (N, ...). Inputs and labels are moved to its device.
        batches: anything iterable that yields pairs (inputs, labels); regrouped to the criterion's batch size.
        criterion: a name in `secateur.criteria.GRADIENT_CRITERIA`, or a criterion with its options.
        loss: (outputs, labels) -> a scalar; labels are None where the batches hold inputs alone.
        layers: names of convolutions and linear layers. None for all on which the loss depends; the others are left out
            and listed with the reason in the settings under "skipped".
        samples: how many images to read; None for the criterion's own number. Fewer are read if there are no more.
        across: the processes that share the images, see `collect_scores`: batches are made within each share, and all
            get the mean over the batches of all, up to rounding in float64; None for this process alone.

    Returns:
        The scores, layer -> (C,), with the settings criterion, options, samples (images really read), batch_size, loss
        and skipped. Torch's backward pass adds up float32 as its threads share the work, so that their number shows
        from the sixth digit on; no fewer digits than that are left out, since channels would tie.

    Raises:
        ConfigError: an unknown criterion; `samples` below one; `across` is no process group.
        DataError: no batch; a loss that fails, is no scalar, or is not finite.
        NetworkError: a layer in `layers` does not exist, or the loss does not depend on it; a compiled or scripted
            network, or one made in inference mode.
        ScoreError: weights or gradients that are NaN or infinite; the layer is named.
        ProcessError: another process failed, ended, or has other weights or settings; see `secateur.distributed`.

    Cost: a forward and a backward pass; memory that of one training step without an optimiser.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
        >>> _ = network[0].weight.data.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        >>> images = torch.ones(4, 1, 1, 1)
        >>> gradient_scores(network, [images], loss=lambda outputs, labels: outputs.mean())["0"].tolist()
        [0.25, 1.0]
    """
    with torch.inference_mode(False):  # in which gradients are computed, wherever this is called
        check_changeable(model)
    rule = criteria.gradient_criterion(criterion) if isinstance(criterion, str) else criterion
    limit = rule.samples if samples is None else samples
    chosen = layers if layers is None or isinstance(layers, str) else list(layers)
    parts = jointly(
        lambda: _sums(model, batches, rule, loss, layers=chosen, samples=limit, across=across),
        across,
        what=f"scores by {rule.name!r}",
        network=model,
        settings={"options": criteria.options_of(rule), "samples": limit, "layers": chosen},
    )
    images, largest = sum_of([share for share, _, _ in parts], fixed=True)
    count = sum(batches for _, batches, _ in parts)
    sums: dict[str, Tensor] = {}
    for _, _, own in parts:
        for name, scores in own.items():
            sums[name] = sums[name] + scores if name in sums else scores
    network = unwrapped(model)
    wanted = producers(network, chosen)
    skipped = dict.fromkeys((name for name in wanted if name not in sums), "the loss does not depend on its weights")
    if not sums or (skipped and chosen is not None):
        raise NetworkError(f"the loss does not depend on the weights of {', '.join(map(repr, skipped)) or 'any layer'}")
    settings = {
        "criterion": rule.name,
        "options": criteria.options_of(rule),
        "samples": images,
        "batch_size": largest,
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "skipped": skipped,
        "structure": structure_of(network),
    }
    return ScoreTable({name: sums[name] / count for name in wanted if name in sums}, settings=settings)


def _sums(
    model: nn.Module,
    batches: Batches,
    rule: GradientCriterion,
    loss: Loss,
    *,
    layers: Iterable[str] | None,
    samples: int,
    across: Across,
) -> tuple[Share, int, dict[str, Tensor]]:
    """Return what this process has read, in how many batches, and the scores of each layer summed over them."""
    check_counts(samples=samples)
    network = unwrapped(model)
    wanted = producers(network, layers)
    device = device_of(network)
    sums: dict[str, Tensor] = {}
    share, count = Share(), 0
    part = part_of(samples, across, batch_size=rule.batch_size)
    own = rebatch(batches, rule.batch_size, samples=part) if part else ()
    with (
        evaluating(network),
        without_tf32(),
        asking_for_gradients(network, True),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        for inputs, labels in own:
            marks = None if labels is None else labels.to(device, copy=True)
            for name, weight, gradient in _gradients(network, wanted, own_copy(network, inputs), marks, loss):
                scores = named(name, rule, weight, gradient)
                sums[name] = sums[name] + scores if name in sums else scores
            share, count = share.with_batch(inputs), count + 1
    return share, count, {name: values.cpu() for name, values in sums.items()}


def _gradients(
    network: nn.Module, wanted: dict[str, nn.Module], inputs: Tensor, labels: Tensor | None, loss: Loss
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield layer, weight and gradient for the loss of one batch, where the loss depends on the layer."""
    with parametrize.cached():
        with reading(network, inputs):
            outputs = network(inputs)
        try:
            value = loss(outputs, labels)
        except Exception as error:  # the user's function may fail in any way
            without = " on batches without labels" if labels is None else ""
            raise DataError(f"the loss failed{without}: {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value)):
            raise DataError(f"the loss must give one finite number a batch; it gives {value}")
        weights = {name: weight_of(module) for name, module in wanted.items()}
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is not None:
            yield name, as_rows(wanted[name], weight.detach()), as_rows(wanted[name], gradient)
