"""Activations that are written out by hand: what they join is followed, and what others join is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from feature_maps_for_tests import Chain, Wiring, assert_same, randomise, tap_all

BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "relu by a mask": lambda x: x * (x > 0),
    "relu by a mask, turned": lambda x: (x > 0) * x,
    "relu by a mask, cast": lambda x: x * (x > 0).to(x.dtype),
    "relu by maximum": lambda x: torch.max(x, torch.zeros(())),
    "relu by filling": lambda x: x.masked_fill(x < 0, 0.0),
    "relu by filling, in place": lambda x: x.masked_fill_(x < 0, 0.0),
    "leaky by maximum": lambda x: torch.maximum(x, 0.1 * x),
    "leaky by where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "leaky by two halves": lambda x: F.relu(x) - 0.1 * F.relu(-x),
    "bounded by minimum": lambda x: torch.minimum(F.relu(x), torch.tensor(1.0)),
    "gelu by hand": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "gelu by hand, turned": lambda x: 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))) * x,
    "gelu tanh by hand": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu by exponents": lambda x: x / (1 + torch.exp(-x)),
    "a gate of one's own complement": lambda x: x * (1 - torch.sigmoid(x)),
}


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("activation", BY_HAND)
def test_every_activation_by_hand_is_followed(activation: str, grad: Any) -> None:
    model = randomise(Chain(nn.BatchNorm2d(4), BY_HAND[activation]))
    found = tap_all(model, torch.randn(2, 3, 6, 6), grad=grad)["conv"]
    assert len(found) == 1
    assert_same(found[0], model.expected)


def test_the_layers_of_a_sum_share_an_activation_by_hand() -> None:
    def join(a: Tensor, b: Tensor) -> Tensor:
        joined = a + b
        return torch.maximum(joined, 0.1 * joined)

    model = Wiring(join)
    found = tap_all(model, torch.randn(2, 3, 5, 5))
    assert_same(found["left"][0], model.joined)
    assert_same(found["right"][0], model.joined)


@pytest.mark.parametrize("join", [torch.maximum, lambda a, b: torch.where(a > 0, a, b), lambda a, b: a * (b > 0)])
def test_a_choice_between_two_layers_ends_both(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Wiring(join)
    images = torch.randn(2, 3, 5, 5)
    found = tap_all(model, images)
    with torch.no_grad():
        assert_same(found["left"][0], model.left(images))
        assert_same(found["right"][0], model.right(images))


def test_what_another_layer_has_changed_in_place_is_joined_no_more() -> None:
    """The value that the sigmoid came from is gone: what multiplies it now is a sum."""

    def join(a: Tensor, b: Tensor) -> Tensor:
        gate = torch.sigmoid(a)
        return a.add_(b) * gate

    model = Wiring(join)
    images = torch.randn(2, 3, 5, 5)
    found = tap_all(model, images)
    with torch.no_grad():
        assert_same(found["left"][0], torch.sigmoid(model.left(images)))
        assert_same(found["right"][0], model.left(images) + model.right(images))


def test_an_activation_by_hand_ends_before_a_normalisation_as_any_other() -> None:
    model = randomise(Chain(lambda x: x * (x > 0)))
    norm = nn.BatchNorm2d(4, affine=False).eval()
    model.steps = (*model.steps, norm)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = F.relu(model.conv(images))
    assert_same(tap_all(model, images)["conv"][0], expected)


def test_what_only_looks_leaves_the_trail_where_it_is() -> None:
    """A norm by hand squares what it divides by; the share of positive values is counted beside the activation."""

    def count(x: Tensor) -> Tensor:
        assert 0 < (x > 0).float().mean() < 1
        return x

    model = randomise(Chain(lambda x: x * torch.rsqrt(x.pow(2).mean((1, 2, 3), keepdim=True)), count, F.relu))
    assert_same(tap_all(model, torch.randn(2, 3, 8, 8))["conv"][0], model.expected)
