"""What is trained in the main job, and whether the network can be: found out before any work is done."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from secateur.errors import ConfigError, NetworkError
from secateur.precision import check_scaling
from secateur.training.block_ends import block_ends
from secateur.training.steps import one_tensor
from secateur_cli.settings.schema import RunConfig, Search
from secateur_cli.settings.training_schema import TrainConfig
from secateur_cli.workspace import LEARNT


def trainings(config: RunConfig) -> dict[str, TrainConfig]:
    """Return what is trained in the main job: section of the configuration -> how."""
    few_bits = None if config.quantize is None else config.quantize.training
    sections = {"train": config.train, "fine_tune": config.fine_tune, "quantize": few_bits}
    return {name: settings for name, settings in sections.items() if settings is not None}


def rehearse_training(config: RunConfig, search: Search, model: nn.Module, example: Tensor) -> None:
    """Refuse a network that cannot be trained as it is told to.

    Raises:
        NetworkError: it has nothing to train, or gives no single tensor in training mode.
        ConfigError: its weights are not trained in the precision that is given, or no block ends where its feature maps
            are to be compared.

    Cost: a copy of the network, and a forward pass of the example.
    """
    asked = trainings(config)
    if asked and not any(p.requires_grad for p in model.parameters()):
        without = {"train": "train: null", "fine_tune": "fine_tune: null", "quantize": "quantize.epochs: 0"}
        raise NetworkError(
            "no parameter of the network needs a gradient, so it cannot be trained; set "
            + " and ".join(without[name] for name in asked)
        )
    for name, settings in asked.items():
        try:
            check_scaling(model, settings.precision)
        except ConfigError as error:
            raise ConfigError(f"{name}.precision: {error}") from error
    if asked or search in LEARNT:
        with torch.no_grad():
            one_tensor(copy.deepcopy(model).train()(example))
    if config.fine_tune and config.fine_tune.feature_weight and not block_ends(model, example):
        raise ConfigError("fine_tune.feature_weight: no module of the network ends a residual block; leave it 0")
