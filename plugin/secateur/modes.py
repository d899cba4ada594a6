"""Leave the patient as you found it: modes are changed for a block and restored after it, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, every module of `model` is in eval mode; after it, in the mode that it was in before.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.ReLU().eval())
        >>> with evaluating(net):
        ...     [module.training for module in net]
        [False, False]
        >>> [module.training for module in net]
        [True, False]
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in before:
            module.training = training
