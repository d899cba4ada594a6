"""`layer(input=x)` is `layer(x)` to whatever looks at what a layer reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.hooks import first_input, with_first_input
from secateur.quantization import calibrated, fake_quantized, quantize_network, uniform_bits
from secateur.scoring import scores_by_name

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.arange(12) % 3)]


class ByKeyword(nn.Module):
    """Calls its layers by keyword, or by place."""

    def __init__(self, *, keyword: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        def call(layer: nn.Module, x: Tensor) -> Tensor:
            return layer(input=x) if self.keyword else layer(x)

        return call(self.head, torch.relu(call(self.norm, call(self.conv, x))).mean((2, 3)))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return ByKeyword(keyword=True).eval(), ByKeyword(keyword=False).eval()


def test_gates(pair: tuple[nn.Module, nn.Module]) -> None:
    kept = []
    for net in pair:
        groups = secateur.channel_groups(net, IMAGES[:2])
        found = secateur.autoprune(net, groups, secateur.MacsCost(net, IMAGES[:2], groups), BATCHES, keep=0.5)
        kept.append(found.plan.kept)
    assert kept[0] == kept[1]


def test_ranges_of_activations(pair: tuple[nn.Module, nn.Module]) -> None:
    outputs = []
    for net in pair:
        plan = calibrated(net, uniform_bits(net, 8), BATCHES)
        with fake_quantized(net, plan):
            trained = net(IMAGES)
        outputs.append(quantize_network(net, plan)[0](IMAGES))
        assert torch.allclose(trained, outputs[-1], atol=1e-6)
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], pair[0](IMAGES))


def test_the_batch_norm_of_a_layer(pair: tuple[nn.Module, nn.Module]) -> None:
    scores = [scores_by_name(net, BATCHES, "bn_scale", groups=secateur.channel_groups(net, IMAGES[:2])) for net in pair]
    assert torch.equal(scores[0]["conv"], scores[1]["conv"])


def test_compensation(pair: tuple[nn.Module, nn.Module]) -> None:
    weights = []
    for net in pair:
        groups = secateur.channel_groups(net, IMAGES[:2])
        cost = secateur.MacsCost(net, IMAGES[:2], groups)
        plan = secateur.uniform_plan(groups, secateur.weight_scores(net, "l1"), cost, "60%", round_to=1)
        pruned = secateur.apply_plan(net, plan)
        secateur.compensate(net, pruned, plan, BATCHES)
        weights.append(pruned.get_parameter("head.weight"))
    assert torch.equal(*weights)


def test_arguments_by_place_and_by_name() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert first_input((one, two), {}) is first_input((one,), {"other": two}) is first_input((), {"input": one}) is one
    args, kwargs = with_first_input((one, 3), {"other": 4}, two)
    assert args[0] is two
    assert (args[1:], kwargs) == ((3,), {"other": 4})
