"""Networks, images and an evaluator of NNI, for all tests of this folder; nothing here starts NNI's processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nni
import pytest
import torch
from torch import Tensor, nn

from networks_for_tests import Residual
from secateur_nni import torch_evaluator


@pytest.fixture
def network() -> nn.Module:
    """A residual block: `stem` and `second` fall together, `first` is alone, `head` is the output."""
    return Residual().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batches(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(images[:6], torch.arange(6) % 5), (images[6:], torch.arange(6) % 5)]


@pytest.fixture
def make_evaluator(batches: list[tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    """Return what makes a TorchEvaluator for a network; its training really trains."""

    def train(
        model: nn.Module,
        optimizer: Any,
        training_step: Callable[..., Tensor],
        _schedulers: Any,
        max_steps: int | None,
        _max_epochs: int | None,
    ) -> None:
        model.train()
        for step in range(max_steps or 0):
            optimizer.zero_grad()
            training_step(batches[step % len(batches)], model).backward()
            optimizer.step()

    def loss(batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def worth(model: nn.Module) -> float:
        with torch.no_grad():
            return -float(sum(loss(batch, model) for batch in batches))

    def make(model: nn.Module, **given: Any) -> Any:
        optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.01)
        return torch_evaluator(train, optimizer, loss, **{"evaluating_func": worth} | given)

    return make
