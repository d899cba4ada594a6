"""The network whose filters take fewer bits, for all tests of this folder."""

from __future__ import annotations

import pytest
from torch import nn

from quantized_for_tests import IMAGES, network


@pytest.fixture
def net() -> nn.Sequential:
    built = network().eval()
    built(IMAGES)
    return built
