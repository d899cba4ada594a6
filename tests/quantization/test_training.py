"""Training through the rounding: what is averaged, what is frozen, and that it computes with what will be stored."""

from __future__ import annotations

import torch

from secateur.quantization import fake_quantized, uniform_bits
from secateur.training.averaging import moving_average
from training_for_tests import net


def test_the_average_has_the_bits_of_the_plan() -> None:
    model = net()
    plan = uniform_bits(model, 3, ends=None)
    with fake_quantized(model, plan):
        average = moving_average(model, 0.99)
        for _ in range(40):
            average.update_parameters(model)
        for name in plan.bits:
            assert torch.equal(average.module.get_submodule(name).weight, model.get_submodule(name).weight), name
