"""Score every channel of a network from the weights of its layers and the gradients of a loss by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur import criteria
from secateur.batches import Batches, rebatch
from secateur.errors import ConfigError, DataError, NetworkError
from secateur.feature_maps.tap import producers, unwrapped
from secateur.modes import device_of, evaluating, structure_of
from secateur.protocols import GradientCriterion
from secateur.records import ScoreTable
from secateur.scoring.weights import as_rows, named, weight_of

Loss = Callable[[Any, Any], Tensor]


def gradient_scores(
    model: nn.Module,
    batches: Batches,
    criterion: str | GradientCriterion = "taylor",
    *,
    loss: Loss = nn.functional.cross_entropy,
    layers: Iterable[str] | None = None,
    samples: int | None = None,
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

    Returns:
        The scores, layer -> (C,), with the settings criterion, options, samples (images really read), batch_size, loss
        and skipped.

    Raises:
        ConfigError: an unknown criterion; `samples` below one.
        DataError: no batch; a loss that fails, is no scalar, or is not finite.
        NetworkError: a layer in `layers` does not exist, or the loss does not depend on it; a compiled or scripted
            network.
        ScoreError: weights or gradients that are NaN or infinite; the layer is named.

    Cost: a forward and a backward pass; memory that of one training step without an optimiser.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
        >>> _ = network[0].weight.data.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        >>> images = torch.ones(4, 1, 1, 1)
        >>> gradient_scores(network, [images], loss=lambda outputs, labels: outputs.mean())["0"].tolist()
        [0.25, 1.0]
    """
    rule = criteria.gradient_criterion(criterion) if isinstance(criterion, str) else criterion
    limit = rule.samples if samples is None else samples
    if limit < 1:
        raise ConfigError(f"samples must be at least one; found {limit}")
    network = unwrapped(model)
    wanted = producers(network, layers)
    device = device_of(network)
    sums: dict[str, Tensor] = {}
    images = count = largest = 0
    with evaluating(network), _differentiable(network):
        for inputs, labels in rebatch(batches, rule.batch_size, samples=limit):
            for name, weight, gradient in _gradients(
                network, wanted, inputs.to(device), None if labels is None else labels.to(device), loss
            ):
                scores = named(name, rule, weight, gradient)
                sums[name] = sums[name] + scores if name in sums else scores
            images, count, largest = images + len(inputs), count + 1, max(largest, len(inputs))
    if images == 0:
        raise DataError("there is no image to compute gradients from: the batches are empty")
    skipped = dict.fromkeys((name for name in wanted if name not in sums), "the loss does not depend on its weights")
    if not sums or (skipped and layers is not None):
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


@contextmanager
def _differentiable(network: nn.Module) -> Iterator[None]:
    """Within the block every parameter takes part in gradients; after it, those that did before."""
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _gradients(
    network: nn.Module, wanted: dict[str, nn.Module], inputs: Tensor, labels: Tensor | None, loss: Loss
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield layer, weight and gradient for the loss of one batch, where the loss depends on the layer."""
    with parametrize.cached():
        outputs = network(inputs)
        try:
            value = loss(outputs, labels)
        except Exception as error:  # the user's function may fail in any way
            raise DataError(f"the loss failed: {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value)):
            raise DataError(f"the loss must give one finite number a batch; it gives {value}")
        weights = {name: weight_of(module) for name, module in wanted.items()}
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is not None:
            yield name, as_rows(wanted[name], weight.detach()), as_rows(wanted[name], gradient)
