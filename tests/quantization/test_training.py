"""Training through the rounding: what is averaged, what is frozen, and that it computes with what will be stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from secateur.errors import NetworkError
from secateur.quantization import fake_quantized, quantize_network, uniform_bits
from secateur.training import fine_tune
from secateur.training.averaging import moving_average
from training_for_tests import blobs, net, state


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


def test_frozen_filters_stay_frozen_while_weights_are_rounded() -> None:
    model, filters = net(), {"0": (1, 6), "4": (0,)}
    before = state(model)
    with fake_quantized(model, uniform_bits(model, 4, ends=None)):
        fine_tune(model, blobs(), epochs=2, learning_rate=0.1, weight_decay=0.1, freeze=filters)
    for name, positions in filters.items():
        for part in ("weight", "bias"):
            own, old = model.get_submodule(name).get_parameter(part), before[f"{name}.{part}"]
            held = [c for c in range(len(own)) if torch.equal(own[c], old[c])]
            assert held == [*positions], f"{name}.{part}"


@pytest.mark.parametrize("computed", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_filters_that_are_computed_otherwise_cannot_be_frozen(computed: Callable[[nn.Module], nn.Module]) -> None:
    model = net()
    computed(model[0])
    before = state(model)
    with pytest.raises(NetworkError, match=r"'0' .* computed from other tensors"):
        fine_tune(model, blobs(), freeze={"0": [1]})
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
