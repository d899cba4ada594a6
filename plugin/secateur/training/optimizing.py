"""The optimizer that a recipe asks for."""

from __future__ import annotations

import torch
from torch import nn

from secateur.errors import NetworkError
from secateur.training.recipe import Recipe


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return a new optimizer for the parameters of `model` that need a gradient.

    With `recipe.decay_all=False`, parameters with at most one axis (biases, scales and shifts of norms) form a group
    of their own, whose weight decay is 0.

    Raises:
        NetworkError: no parameter needs a gradient.

    Example:
        >>> optimizer = optimizer_of(nn.Linear(2, 3), Recipe(decay_all=False, weight_decay=0.1))
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(1, 0.1), (1, 0.0)]
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise NetworkError("no parameter of the network needs a gradient: there is nothing to train")
    decayed = [p for p in parameters if recipe.decay_all or p.ndim > 1]
    bare = [p for p in parameters if not recipe.decay_all and p.ndim <= 1]
    sorts = ((decayed, recipe.weight_decay), (bare, 0.0))
    groups = [{"params": params, "weight_decay": decay} for params, decay in sorts if params]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov)
