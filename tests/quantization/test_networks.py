"""Networks whose filters are rounded: trained as they will be stored, left as they were, and in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from quantized_for_tests import IMAGES, network
from secateur.errors import NetworkError
from secateur.fingerprints import structure_of
from secateur.quantization import BitPlan, fake_quantized, quantize_network, quantized_bytes, uniform_bits
from secateur.training import fine_tune


def test_training_goes_through_the_rounding(net: nn.Sequential) -> None:
    plan = uniform_bits(net, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batches = [(IMAGES, torch.arange(8) % 3)] * 4
    with fake_quantized(net, plan) as thresholds:
        rounded, _ = quantize_network_of(before, plan, thresholds)
        torch.testing.assert_close(net(IMAGES), rounded(IMAGES))
        history = fine_tune(net, batches, epochs=6, learning_rate=0.05)
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert net.state_dict().keys() == before.keys()
    assert not torch.equal(net[3].weight, before["3.weight"])
    final, codes = quantize_network(net, plan, thresholds)
    assert all(len(found.codes[0].unique()) <= 2**8 for found in codes.values())
    assert final[3].weight[0].unique().numel() <= 7


def quantize_network_of(state: dict[str, torch.Tensor], plan: BitPlan, thresholds: Any) -> Any:
    fresh = network()
    fresh(IMAGES)
    fresh.load_state_dict(state)
    return quantize_network(fresh.eval(), plan, thresholds)


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    net = nn.Linear(3, 2, bias=False)
    inputs = torch.randn(4, 3)
    with fake_quantized(nn.Sequential(net), BitPlan({"0": torch.tensor([2, 8])})):
        net(inputs).sum().backward()
    torch.testing.assert_close(net.weight.grad, inputs.sum(0).expand(2, 3))
    with pytest.raises(KeyError), fake_quantized(nn.Sequential(net), BitPlan({"0": torch.tensor([2, 8])})):
        raise KeyError
    assert type(net) is nn.Linear


def test_weights_that_two_layers_share_or_that_are_computed() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(NetworkError, match="the layers '0' and '1' share one weight"):
        quantize_network(tied, uniform_bits(tied, 4))
    computed = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    for call in (quantize_network, quantized_bytes):
        with pytest.raises(NetworkError, match="the weight of '0' is computed from other tensors"):
            call(computed, uniform_bits(computed, 4))


def test_parameters_keep_their_order_and_their_optimizer(net: nn.Sequential) -> None:
    names = [name for name, _ in net.named_parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    structure, objects = structure_of(net), [*net.parameters()]
    with fake_quantized(net, uniform_bits(net, 4)):
        net(IMAGES).sum().backward()
        optimizer.step()
    assert [name for name, _ in net.named_parameters()] == names
    assert all(now is before for now, before in zip(net.parameters(), objects, strict=True))
    assert structure_of(net) == structure


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_as_it_is_stored(kind: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(kind)
    plan, inputs = uniform_bits(net, 4), torch.randn(4, 6).to(kind)
    with fake_quantized(net, plan), torch.no_grad():
        within = net(inputs)
    assert within.dtype == kind
    assert torch.equal(within, quantize_network(net, plan)[0](inputs))
