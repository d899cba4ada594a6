"""The MACs of each layer as a network runs: its inputs, what lies outside of the layers, and nothing left behind."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from networks_for_tests import Depthwise, Grouped, TwoBranches
from secateur.cost import record_layers
from secateur.errors import NetworkError, SecateurWarning


def test_keyword_inputs() -> None:
    assert record_layers(nn.Linear(3, 2), {"input": torch.zeros(4, 3)})[""].macs == 6


class Looked(nn.Module):
    """Words that are looked up and scaled, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head, self.idle = nn.Embedding(5, 3), nn.Linear(3, 2), nn.Linear(3, 3)

    def forward(self, times: int, scale: Tensor, words: Tensor) -> Tensor:
        return times * self.head(self.words(words) * scale)


def test_the_first_tensor_with_a_dimension_counts_the_inputs_and_layers_that_never_run_are_left_out() -> None:
    records = record_layers(Looked(), [2, torch.tensor(0.5), torch.tensor([4, 0, 1])])
    assert {name: record.macs for name, record in records.items()} == {"head": 6}


def test_the_network_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record_layers(model, torch.randn(2, 3, 8, 8))
    with pytest.raises(NetworkError):
        record_layers(model, torch.randn(2, 5, 8, 8))
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert all(not m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


class Token(nn.Module):
    """A layer that reads a parameter, as attention reads the token of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Parameter(torch.zeros(1, 3)), nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.token.expand(len(x), 3)) + self.head(x + self.frozen)


def test_a_layer_may_read_a_parameter() -> None:
    """Torch's own count fails there; where it no longer does, `record_layers` need not ask for no gradients."""
    model, inputs = Token(), torch.zeros(2, 3)
    asked = [parameter.requires_grad for parameter in model.parameters()]
    assert record_layers(model, inputs)["head"].macs == 12
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    with pytest.raises(AssertionError, match="gradient function"), torch.no_grad(), FlopCounterMode(display=False):
        model(inputs)


def test_a_network_made_in_inference_mode_has_its_cost() -> None:
    with torch.inference_mode():
        model = nn.Linear(3, 2)
    assert record_layers(model, torch.zeros(1, 3))[""].macs == 6
    assert model.weight.requires_grad


class Functional(nn.Module):
    """Half of the arithmetic outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(3, 3, 1)
        self.weight = nn.Parameter(torch.zeros(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.inside(x), self.weight)


def test_says_when_modules_do_not_hold_all_macs() -> None:
    with pytest.warns(SecateurWarning, match=r"900 MACs lie in .* counts 1,800 in the whole"):
        record_layers(Functional(), torch.zeros(1, 3, 10, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (TwoBranches(), Grouped(), Depthwise()):
            record_layers(model, torch.zeros(1, 3, 8, 8))


class Attending(nn.Module):
    """Attention, which torch computes in one operation where no gradient is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_says_that_attention_is_not_part_of_the_cost() -> None:
    with pytest.warns(SecateurWarning, match="40 MACs lie in .*the rest .attention"):
        record_layers(Attending(), torch.zeros(1, 5, 4))
    assert torch.backends.mha.get_fastpath_enabled()


class Recurrent(nn.Module):
    """Convolutions in front of an LSTM, of which torch counts nothing on a processor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.memory = nn.Conv1d(3, 4, 1), nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.memory(self.stem(x).mT)[0])


def test_says_that_recurrent_layers_are_not_part_of_the_cost() -> None:
    with pytest.warns(SecateurWarning, match=r"recurrent layers \(memory\) are not part of the cost"):
        record_layers(Recurrent(), torch.zeros(1, 3, 5))
