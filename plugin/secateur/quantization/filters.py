"""A layer's weights by filter: what makes one of its outputs is a row."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.errors import NetworkError


def layers_with_filters(model: nn.Module) -> list[str]:
    """Return the names of all convolutions and linear layers, in the order of the modules."""
    return [name for name, module in model.named_modules() if isinstance(module, (_ConvNd, nn.Linear))]


def filters_of(module: nn.Module) -> Tensor:
    """Return a layer's weights as filters (C_out, ...); of a transposed convolution, (C_in, C_out/groups, k, k), too.

    Raises:
        NetworkError: no convolution and no linear layer.

    Example:
        >>> filters_of(nn.ConvTranspose2d(4, 6, 3, groups=2)).shape
        torch.Size([6, 2, 3, 3])
    """
    if not isinstance(module, (_ConvNd, nn.Linear)):
        raise NetworkError(f"{type(module).__name__} has no filters; allowed: convolutions and linear layers")
    return by_filter(module, module.weight)


def by_filter(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight of the module's shape as filters."""
    if not isinstance(module, _ConvTransposeNd):
        return weight
    return weight.view(module.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def as_weight(module: nn.Module, filters: Tensor) -> Tensor:
    """Return filters as a weight of the module's shape: the way back from `by_filter`."""
    if not isinstance(module, _ConvTransposeNd):
        return filters
    return filters.view(module.groups, -1, *filters.shape[1:]).transpose(1, 2).flatten(0, 1)
