"""Whether the batches that will be timed fit into memory, found out before the work whose end they are."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.errors import ConfigError
from secateur.modes import evaluating, own_copy
from secateur_cli.settings.schema import RunConfig
from secateur_cli.wording import amount
from secateur_onnx.machine import memory_bytes


def check_batches(config: RunConfig, model: nn.Module, example: Tensor) -> None:
    """Refuse batches that the dense network cannot be timed on.

    Rule: a batch of n images takes at least n times `image_bytes`, and that must not be more than half of all the
    memory there is; the other half is for the inputs, made in float64, the other layers, and ONNX Runtime's arena,
    which grows by doubling. What takes less may still fail where other programs hold much.

    Args:
        config: of the run.
        model: the dense network.
        example: images of the data (N, C, H, W).

    Raises:
        ConfigError: a batch of `onnx.batch_sizes`, or that of a budget of latency, takes more than half.

    Cost: a forward pass of the example.
    """
    asked = {"onnx.batch_sizes": (config.onnx.provider, max(config.onnx.batch_sizes))}
    budget = config.plan.budget
    if budget.latency is not None:
        asked["plan.budget.batch"] = (budget.provider or config.onnx.provider, budget.batch)
    each = image_bytes(model, example)
    for setting, (provider, batch) in asked.items():
        room = memory_bytes(provider=provider)
        if room is not None and batch * each > room // 2:
            raise ConfigError(
                f"{setting}: a batch of {batch:,} images takes at least {amount(batch * each, 'B')} in one layer of "
                f"the dense network, more than half of the {amount(room, 'B')} of "
                f"{'this machine' if provider == 'cpu' else 'the device'}: give at most {room // 2 // each:,}"
            )


def image_bytes(model: nn.Module, example: Tensor) -> int:
    """Return the bytes that no run of a network can do without for each image.

    They are what the widest convolution or linear layer reads and writes, for both must be there at once.

    Example:
        >>> image_bytes(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), torch.zeros(2, 3, 4, 4))
        704
    """
    largest = [example.nbytes]

    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        largest[0] = max(largest[0], sum(t.nbytes for t in (*inputs, output) if isinstance(t, Tensor)))

    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for module in model.modules():
            if isinstance(module, (_ConvNd, nn.Linear)):
                stack.callback(module.register_forward_hook(hook).remove)
        model(own_copy(model, example))
    return max(1, largest[0] // len(example))
