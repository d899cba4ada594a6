"""The rules of the tap, one small network each, against maps that the networks themselves keep."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from feature_maps_for_tests import Chain, Recorder, Wiring, assert_same, randomise, tap_all
from secateur.feature_maps import Tap, tapped


class Residual(nn.Module):
    """A CIFAR residual network in small: functional ReLU, zero-padded shortcut, and its own list of feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(4)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1) for i, o, s in ((4, 4, 1), (4, 4, 1), (4, 8, 2), (8, 8, 1)))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (4, 4, 8, 8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor, keep: dict[str, Tensor] | None = None) -> Tensor:
        keep = {} if keep is None else keep
        x = keep["stem"] = F.relu(self.stem_norm(self.stem(x)))
        for i in (0, 2):
            y = keep[f"convs.{i}"] = F.relu(self.norms[i](self.convs[i](x)))
            y = self.norms[i + 1](self.convs[i + 1](y))
            x = keep[f"convs.{i + 1}"] = F.relu(y + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) if i else x))
        keep["fc"] = self.fc(x.mean((2, 3)))
        return keep["fc"]


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_tap_works_in_every_gradient_mode_and_changes_no_output(
    grad: Callable[[], AbstractContextManager[None]],
) -> None:
    model, images = randomise(Residual()), torch.randn(2, 3, 8, 8)
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, expected)
    order: list[str] = []
    with grad(), tapped(model, lambda layer, maps: (order.append(layer), assert_same(maps, expected[layer]))[0]):
        output = model(images)
    assert_same(output, expected["fc"])
    assert order == list(expected)


def test_maps_of_torchvision_are_the_same_in_inference_mode() -> None:
    model, images = randomise(zoo.mobilenet_v3_small(weights=None)), torch.randn(2, 3, 64, 64)
    without, within = tap_all(model, images), tap_all(model, images, grad=torch.inference_mode)
    assert without.keys() == within.keys()
    for layer, maps in without.items():
        assert_same(within[layer][0], maps[0])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu module": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu method": lambda x: x.relu_(),
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(0, 6),
    "clamp minimum": lambda x: x.clamp(min=0),
    "leaky": nn.LeakyReLU(0.1, inplace=True),
    "prelu": nn.PReLU(4),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": nn.SiLU(inplace=True),
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "silu by hand, turned": lambda x: torch.sigmoid(x) * x,
    "silu by hand, in place": lambda x: x.mul_(x.sigmoid()),
    "mish": F.mish,
    "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "hardswish": nn.Hardswish(inplace=True),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "hardswish by hand, turned": lambda x: x * (F.relu6(x + 3.0, inplace=True) / 6.0),
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": nn.Tanh(),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "rrelu": nn.RReLU().eval(),
}


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_followed(activation: str, grad: Any) -> None:
    model = randomise(Chain(nn.BatchNorm2d(4), ACTIVATIONS[activation]))
    found = tap_all(model, torch.randn(2, 3, 6, 6), grad=grad)["conv"]
    assert len(found) == 1
    assert_same(found[0], model.expected)


FOLLOWED: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "nothing": (),
    "group norm": (nn.GroupNorm(2, 4), F.relu),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), F.relu),
    "layer norm": (nn.LayerNorm([4, 6, 6]), F.gelu),
    "frozen batch norm": (lambda x: x * torch.arange(1.0, 5)[None, :, None, None] + torch.ones(4, 1, 1), F.relu),
    "dropout": (nn.Dropout(), F.relu, nn.Dropout2d()),
    "average pool, then norm": (nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "max pool, then activation": (nn.MaxPool2d(2), F.relu_),
    "overlapping max pool": (nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)),
    "a cast": (lambda x: x.double(), F.relu),
}


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("case", FOLLOWED)
def test_what_the_trail_passes_through(case: str, grad: Any) -> None:
    model = randomise(Chain(*FOLLOWED[case]))
    found = tap_all(model, torch.randn(2, 3, 8, 8), grad=grad)["conv"]
    assert len(found) == 1
    assert_same(found[0], model.expected)


@pytest.mark.parametrize(
    "reader",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 1),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(4, affine=False).eval(),
        lambda x: x.add_(x),
        lambda x: x * torch.ones_like(x),
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: x[:, :2].mul_(2),
        lambda x: x.flatten(1),
        lambda x: x.transpose(0, 1),
    ],
)
def test_what_ends_the_trail_after_an_activation(reader: Callable[[Tensor], Tensor]) -> None:
    model = Chain(nn.ReLU(inplace=True)).eval()
    network = nn.Sequential(model.conv, nn.ReLU(inplace=True))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(images)
    model.steps = (nn.ReLU(inplace=True), reader)
    assert_same(tap_all(model, images)["conv"][0], expected)


def test_a_shared_activation_module_serves_every_layer() -> None:
    relu = nn.ReLU(inplace=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 5, 3), relu)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        first = F.relu(model[0](images))
        second = F.relu(model[2](first))
    found = tap_all(model, images)
    assert_same(found["0"][0], first)
    assert_same(found["2"][0], second)


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4))
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(4) for _ in range(3))
        self.expected: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.norm1(x))
        self.expected["stem"] = y.clone()
        y = F.relu(self.norm2(self.first(y)))
        self.expected["first"] = y.clone()
        x = x + self.second(y)
        y = F.relu_(self.norm3(x))
        self.expected["second"] = y.clone()
        return y.sum((2, 3))


def test_a_pre_activation_block_is_read_after_the_norm_and_activation_of_its_reader() -> None:
    model = randomise(PreActivation())
    found = tap_all(model, torch.randn(2, 3, 8, 8))
    for layer, maps in model.expected.items():
        assert_same(found[layer][0], maps)


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: F.relu(a + b),
        lambda a, b: F.relu(b + a),
        lambda a, b: (a + b).relu_(),
        lambda a, b: a.add_(b).relu_(),
        lambda a, b: F.relu(0.1 * a + b),
        lambda a, b: F.relu(a - b),
    ],
)
def test_layers_that_are_summed_share_the_activated_sum(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Wiring(join)
    found = tap_all(model, torch.randn(2, 3, 5, 5))
    assert_same(found["left"][0], model.joined)
    assert_same(found["right"][0], model.joined)


def test_a_branch_that_is_already_activated_ends_at_the_sum() -> None:
    model = Wiring(lambda a, b: F.relu(a.relu_().add_(b)))
    images = torch.randn(2, 3, 5, 5)
    found = tap_all(model, images)
    with torch.no_grad():
        assert_same(found["left"][0], F.relu(model.left(images)))
    assert_same(found["right"][0], model.joined)


@pytest.mark.parametrize(
    ("join", "left", "right"),
    [
        (lambda a, b: F.relu(torch.cat([a, b], 1)), slice(0, 4), slice(4, 8)),
        (lambda a, b: F.relu(torch.cat([b, a], -3)), slice(4, 8), slice(0, 4)),
        (lambda a, b: F.relu(torch.cat([b, b, torch.zeros(0), a], 1)), slice(8, 12), slice(0, 4)),
        (lambda a, b: F.max_pool2d(torch.cat([a.relu(), b.relu_()], 1), 2), slice(0, 4), slice(4, 8)),
        (lambda a, b: F.relu(torch.cat([torch.cat([a, b], 1), a[:, :2]], 1))[:, :8], slice(0, 4), slice(4, 8)),
    ],
)
def test_layers_that_are_concatenated_keep_their_slice(join: Any, left: slice, right: slice) -> None:
    model = Wiring(join)
    found = tap_all(model, torch.randn(2, 3, 6, 6))
    assert_same(found["left"][0], model.joined[:, left])
    assert_same(found["right"][0], model.joined[:, right])


def test_a_gate_of_full_size_is_another_layers_business() -> None:
    model = Wiring(lambda a, b: a * torch.sigmoid(b))
    images = torch.randn(2, 3, 5, 5)
    found = tap_all(model, images)
    with torch.no_grad():
        assert_same(found["left"][0], model.left(images))
        assert_same(found["right"][0], torch.sigmoid(model.right(images)))


@pytest.mark.parametrize("tap", ["conv", "bn"])
def test_the_other_taps(tap: Tap) -> None:
    model, images = randomise(zoo.resnet18(weights=None)), torch.randn(2, 3, 64, 64)
    values = Recorder.record(model, images)
    found = tap_all(model, images, tap=tap)
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            norm = layer[:-1] + "1" if "downsample" in layer else layer.replace("conv", "bn")
            assert_same(found[layer][0], values[(layer if tap == "conv" else norm).replace(".", "_")])
    assert_same(found["fc"][0], values["fc"])


def test_without_batch_norm_the_tap_bn_is_the_layers_own_output() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model[0](images)
    assert_same(tap_all(model, images, tap="bn")["0"][0], expected)


def test_a_layer_called_twice_is_handed_over_twice() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), conv, nn.ReLU(inplace=True))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        first = F.relu(conv(images))
        second = F.relu(conv(first))
    found = tap_all(model, images)
    assert [*found] == ["0"]
    for maps, expected in zip(found["0"], (first, second), strict=True):
        assert_same(maps, expected)


@pytest.mark.parametrize(("dimensions", "conv"), [(1, nn.Conv1d), (3, nn.Conv3d), (2, nn.ConvTranspose2d)])
def test_other_convolutions(dimensions: int, conv: type[nn.Module]) -> None:
    model = nn.Sequential(conv(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4), nn.ReLU())
    images = torch.randn(2, 2, *(4,) * dimensions)
    with torch.no_grad():
        model(images)
        expected = F.relu(model[0](images))
    found = tap_all(model, images)
    assert_same(found["0"][0], expected)
    assert_same(found["3"][0], F.relu(model[3](expected.flatten(1))).detach())
