"""A small convolutional network, dense and narrow, exported once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import exports_for_tests  # noqa: F401  # which makes exports quick
from secateur import channel_groups
from secateur.networks import digits_resnet
from secateur.records import ChannelGroups
from secateur_onnx import export


def small_network(width: int = 8) -> nn.Sequential:
    """Two convolutions with batch norm whose running statistics are not the initial ones, and a classifier."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )
    network.train()
    for _ in range(3):
        network(torch.randn(8, 3, 16, 16) + 0.5)
    return network.eval()


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture
def network() -> nn.Sequential:
    return small_network()


@pytest.fixture(scope="session")
def dense_file(onnx_folder: Path) -> Path:
    return export(small_network(), torch.zeros(1, 3, 16, 16), onnx_folder / "dense.onnx").path


@pytest.fixture(scope="session")
def pruned_file(onnx_folder: Path) -> Path:
    return export(small_network(4), torch.zeros(1, 3, 16, 16), onnx_folder / "pruned.onnx").path


@pytest.fixture(scope="session")
def digits() -> nn.Module:
    """The residual network of the digits, untrained. Only to be read."""
    torch.manual_seed(0)
    return digits_resnet().eval()


@pytest.fixture(scope="session")
def groups(digits: nn.Module) -> ChannelGroups:
    return channel_groups(digits, torch.zeros(2, 1, 8, 8))
