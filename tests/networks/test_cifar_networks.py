"""VGG, DenseNet and GoogLeNet for CIFAR have the sizes that the papers print and the names of the trained networks."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.cost import MacsCost
from secateur.errors import ConfigError
from secateur.networks import CifarDenseNet, densenet40, googlenet, vgg16_bn

BUILDERS = {"vgg": vgg16_bn, "densenet": densenet40, "googlenet": googlenet}


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


@pytest.mark.parametrize(
    ("name", "millions", "in_layers", "in_all"),
    [
        ("vgg", 313.464, 14.982, 14_991_946),
        ("densenet", 282.917, 1.0406, 1_059_298),
        ("googlenet", 1521.756, 6.1504, 6_166_250),
    ],
)
def test_sizes(name: str, millions: float, in_layers: float, in_all: int) -> None:
    """MACs and parameters of convolutions and linear layers, biases included, as the papers count them."""
    model = BUILDERS[name]()
    image = torch.zeros(1, 3, 32, 32)
    macs = MacsCost(model, image, {})({})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    assert macs == counter.get_total_flops() / 2
    assert macs / 1e6 == pytest.approx(millions, abs=5e-4)
    assert sum(p.numel() for m in layers(model).values() for p in m.parameters()) / 1e6 == pytest.approx(
        in_layers, abs=5e-4
    )
    assert sum(p.numel() for p in model.parameters()) == in_all


@pytest.mark.parametrize("build", BUILDERS.values())
def test_classes_and_gradients(build: Callable[..., nn.Module]) -> None:
    model = build(num_classes=7)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


PUBLISHED_NAMES = {
    "vgg": r"features\.(conv|norm)(0|1|3|4|6|7|8|10|11|12|14|15|16)|classifier\.(linear1|norm1|linear2)",
    "densenet": r"conv1|dense[123]\.\d+\.(bn1|conv1)|trans[12]\.(bn1|conv1)|bn|fc",
    "googlenet": r"(pre_layers|inception_([ab][345]|[cde]4)\.branch(1x1|3x3|5x5|_pool))\.\d|linear",
}


@pytest.mark.parametrize("name", BUILDERS)
def test_parameters_are_named_like_the_trained_ones(name: str) -> None:
    owners = {key.rpartition(".")[0] for key in BUILDERS[name]().state_dict()}
    assert [owner for owner in owners if not re.fullmatch(PUBLISHED_NAMES[name], owner)] == []
    assert len(owners) == {"vgg": 29, "densenet": 79, "googlenet": 129}[name]


def test_vgg_at_the_published_rates() -> None:
    """The published count keeps every input channel: kernel x all inputs x kept outputs x positions."""
    rates = [0.95, *[0.5] * 6, *[0.9] * 4, *[0.8], 0.0]
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    found = layers(vgg16_bn())
    macs = parameters = 0
    for layer, rate, side in zip(found.values(), rates, sides, strict=False):
        kept = layer.out_channels - int(rate * layer.out_channels)
        macs += 9 * layer.in_channels * kept * side * side
        parameters += (9 * layer.in_channels + 1) * kept
    for layer in [*found.values()][13:]:
        macs += layer.in_features * layer.out_features
        parameters += (layer.in_features + 1) * layer.out_features
    print(macs / 1e6, parameters / 1e6)
    assert macs / 1e6 == pytest.approx(116.63, abs=0.01)
    assert parameters / 1e6 == pytest.approx(4.81, abs=0.005)


def test_dense_layers_append_and_transitions_halve() -> None:
    model = CifarDenseNet(10, growth=3).eval()
    x = torch.randn(2, 6, 8, 8)
    block = model.dense1
    first = torch.cat([x, block[0].conv1(torch.relu(block[0].bn1(x)))], 1)
    second = torch.cat([first, block[1].conv1(torch.relu(block[1].bn1(first)))], 1)
    assert torch.equal(block(x), second)
    assert model.trans1(second).shape == (2, 12, 4, 4)


def test_inception_branches_stand_in_the_order_of_the_papers() -> None:
    model = googlenet().eval()
    module, x = model.inception_a3, torch.randn(1, 192, 8, 8)
    out = module(x)
    start = 0
    for branch, width in (("1x1", 64), ("3x3", 128), ("5x5", 32), ("_pool", 32)):
        assert torch.equal(out[:, start : start + width], getattr(module, f"branch{branch}")(x))
        start += width
    assert start == out.shape[1] == 256


@pytest.mark.parametrize(
    ("arguments", "message"), [((5, 12), "3 n \\+ 4.*found 5"), ((40, 0), "at least one.*found 0")]
)
def test_densenets_that_do_not_exist_are_refused(arguments: tuple[int, int], message: str) -> None:
    depth, growth = arguments
    with pytest.raises(ConfigError, match=message):
        CifarDenseNet(depth, growth=growth)
