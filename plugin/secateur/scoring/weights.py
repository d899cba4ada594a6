"""Score every channel of a network from the weights of its layers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from secateur import criteria
from secateur.errors import ConfigError, NetworkError, ScoreError
from secateur.feature_maps.norms import norms_reading
from secateur.feature_maps.tap import producers
from secateur.fingerprints import structure_of
from secateur.modes import evaluating, own_copy, unwrapped
from secateur.protocols import WeightCriterion
from secateur.records import ScoreTable


def weight_scores(
    model: nn.Module,
    criterion: str | WeightCriterion = "l1",
    *,
    layers: Iterable[str] | None = None,
    example_inputs: Tensor | None = None,
) -> ScoreTable:
    """Return the score of every channel of every layer from its weights; no data is read and nothing is changed.

    Args:
        model: the network.
        criterion: a name in `secateur.criteria.WEIGHT_CRITERIA`, or a criterion with its options.
        layers: names of convolutions and linear layers; None for all.
        example_inputs: a tensor (N, ...), needed only by criteria that read a batch norm: one forward pass tells
            exactly which batch norm reads the output of a layer and nothing in between.

    Returns:
        The scores, layer -> (C,), with the settings criterion, options and skipped: layer -> reason, for layers that
        no batch norm follows directly.

    Raises:
        ConfigError: an unknown criterion, or `example_inputs` missing where it is needed.
        NetworkError: a layer in `layers` does not exist, or cannot be scored; no layer can be scored; a layer whose
            weights a hook computes at each call (the older weight_norm and spectral_norm, torch.nn.utils.prune); a
            compiled or scripted network.
        ScoreError: weights that are NaN or infinite; the layer is named.

    Cost: that of the criterion; O(C^2 D) a layer for those that compare filters, seconds for a ResNet-50.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> _ = network[0].weight.data.copy_(torch.tensor([3.0, -4.0]).view(2, 1, 1, 1))
        >>> weight_scores(network, "l1")["0"].tolist()
        [3.0, 4.0]
        >>> weight_scores(network, "bn_scale", example_inputs=torch.zeros(1, 1, 2, 2))["0"].tolist()
        [1.0, 1.0]
    """
    rule = criteria.weight_criterion(criterion) if isinstance(criterion, str) else criterion
    network = unwrapped(model)
    wanted = producers(network, layers)
    skipped: dict[str, str] = {}
    if rule.reads == "filters":
        weights = {name: _present_rows(name, module) for name, module in wanted.items()}
    elif example_inputs is None:
        raise ConfigError(
            f"the criterion {rule.name!r} reads the batch norm behind each layer: give example_inputs to find it by"
        )
    else:
        weights, skipped = _scales(network, wanted, example_inputs)
    if skipped and layers is not None:
        raise NetworkError("; ".join(f"layer {name!r} cannot be scored: {why}" for name, why in skipped.items()))
    if not weights:
        raise NetworkError(f"the network has no layer that {rule.name!r} could score")
    scores = {name: named(name, rule, weight) for name, weight in weights.items()}
    settings = {
        "criterion": rule.name,
        "options": criteria.options_of(rule),
        "skipped": skipped,
        "structure": structure_of(network),
    }
    return ScoreTable(scores, settings=settings)


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a module, as its class arranges it.

    Raises:
        NetworkError: it has none.

    Example:
        >>> weight_of(nn.Linear(3, 2)).shape
        torch.Size([2, 3])
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise NetworkError(f"a {type(module).__name__} has no weight to read")
    return weight


def _present_rows(name: str, module: nn.Module) -> Tensor:
    """Return the rows of a layer's weight as it is now; refuse one that is as of the last call."""
    if isinstance(module.__dict__.get("weight"), Tensor):  # neither a parameter nor a buffer
        raise NetworkError(
            f"the weights of layer {name!r} are computed by a hook at each call, and may be other by now; first remove "
            "it: remove_weight_norm, remove_spectral_norm or prune.remove"
        )
    return as_rows(module, weight_of(module))


def as_rows(module: nn.Module, tensor: Tensor) -> Tensor:
    """Return a tensor of the shape of a layer's weight with one row for each output channel, (C, ...).

    Transposed convolutions hold (C_in, C/groups, ...), all others (C, C_in/groups, ...) already.

    Args:
        module: the convolution or linear layer.
        tensor: its weight, or the gradient by it.

    Example:
        >>> transposed = nn.ConvTranspose2d(6, 4, 3, groups=2)
        >>> as_rows(transposed, transposed.weight).shape
        torch.Size([4, 3, 3, 3])
    """
    if not isinstance(module, _ConvTransposeNd):
        return tensor
    inputs, outputs, *kernel = tensor.shape
    groups = module.groups
    return tensor.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2).flatten(0, 1)


def named(layer: str, rule: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return `rule(*tensors)`; a ScoreError names the layer.

    Example:
        >>> named("conv1", lambda weight: weight.sum(1), torch.ones(2, 3))
        tensor([3., 3.])
    """
    try:
        return rule(*tensors)
    except ScoreError as error:
        raise ScoreError(f"layer {layer!r}: {error}") from error


def _scales(
    network: nn.Module, wanted: dict[str, nn.Module], example_inputs: Tensor
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the scale of the batch norm that reads each layer's output, and why there is none."""
    weights: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    found = norms_behind(network, wanted, example_inputs)
    for name in wanted:
        norms = found[name]
        if len(norms) != 1:
            skipped[name] = f"{len(norms)} batch norms read its output directly" if norms else "no batch norm follows"
        elif norms[0].weight is None:
            skipped[name] = "the batch norm behind it has no scale"
        else:
            weights[name] = norms[0].weight
    return weights, skipped


def norms_behind(
    network: nn.Module, layers: dict[str, nn.Module], example_inputs: Tensor
) -> dict[str, list[_BatchNorm]]:
    """Return for each layer the batch norms that read its very output, as one forward pass shows.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(2))
        >>> norms_behind(network, {"0": network[0]}, torch.zeros(1, 1, 2, 2))
        {'0': []}
    """
    with norms_reading(network, layers) as found, evaluating(network), torch.no_grad():
        network(own_copy(network, example_inputs))
    return {name: list(dict.fromkeys(norms)) for name, norms in found.items()}
