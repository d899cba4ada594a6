"""Training through the rounding: what is averaged, what is frozen, and that it computes with what will be stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.quantization import fake_quantized, quantize_network, uniform_bits
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


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_is_trained_computes_with_the_weights_that_are_stored(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ConvTranspose2d(8, 8, 3, groups=2)).to(kind)
    plan = uniform_bits(model, 4, ends=None)
    stored, _ = quantize_network(model, plan)
    with fake_quantized(model, plan):
        for name in plan.bits:
            layer = model.get_submodule(name)
            weight, underneath = layer.weight, layer.parametrizations.weight.original
            assert torch.equal(weight, stored.get_submodule(name).weight), name
            (gradient,) = torch.autograd.grad((weight * weight.detach()).sum(), [underneath])
            assert torch.equal(gradient, weight), name
