"""Modules put in the place of others, under all the names that these have."""

from __future__ import annotations

from torch import nn


def put_instead(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module where another is, in place; under each name where it has several, since any may be called.

    Example:
        >>> network = nn.Sequential(nn.ReLU())
        >>> network.activation = network[0]
        >>> put_instead(network, network[0], nn.GELU())
        >>> network.activation is network[0], network[0]
        (True, GELU(approximate='none'))
    """
    for path in [path for path, module in network.named_modules(remove_duplicate=False) if module is old]:
        parent, _, attribute = path.rpartition(".")
        setattr(network.get_submodule(parent), attribute, new)
