"""Compensation on networks of every build: what is reported is true, no layer gets worse, and nothing else changes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.models import convnext, inception
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import VGG, make_layers
from torchvision.models.vision_transformer import VisionTransformer

import networks_for_tests
from cases_for_tests import cases
from compensation_for_tests import changed, plan_without, pruned_by, random_plan, randomise, state
from secateur import PruningPlan, networks
from secateur.channel_graph import Residual
from secateur.channel_map import with_channel_maps
from secateur.errors import SecateurWarning
from secateur.feature_maps import tapped
from secateur.networks.cifar_densenet import CifarDenseNet
from secateur.networks.cifar_googlenet import CifarGoogLeNet
from secateur.recovery import Compensation, compensate, recalibrate_batch_norm
from secateur.regression import At


class PaddedShortcut(nn.Module):
    """A zero-padded shortcut as a module of its own, which `with_channel_maps` replaces."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


class ZeroPadded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.outer = nn.Conv2d(12, 16, 3, padding=1)
        self.shortcut = PaddedShortcut()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.shortcut(x) + self.outer(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


class InPlace(nn.Module):
    """Blocks without modules of their own, which overwrite what their layers gave."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if not n else 6, 6, 3, padding=1) for n in range(7))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for first, second in zip(self.layers[1::2], self.layers[2::2], strict=True):
            x.mul_(0.7).clamp_(min=-0.5)
            y = first(x).abs_()
            x += second(y.add_(0.1)).relu_()
        return self.head(x.mean((2, 3)))


def from_zoo(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: zoo.get_model(name, weights=None, num_classes=10, **options)


def vision_transformer() -> nn.Module:
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)
    nn.init.normal_(model.heads.head.weight)
    return model


def narrow_vgg() -> nn.Module:
    """torchvision's VGG, flattened at 7 x 7 into three linear layers, at an eighth of VGG-16's widths."""
    widths: list[str | int] = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    model = VGG(make_layers(widths, batch_norm=True), num_classes=10, init_weights=False)
    head = model.classifier
    head[0], head[3], head[6] = nn.Linear(64 * 7 * 7, 64), nn.Linear(64, 64), nn.Linear(64, 10)
    return model


def thin_inception() -> nn.Module:
    """torchvision's Inception v3, at a quarter of its widths."""

    def thin(before: int, after: int, **options: Any) -> nn.Module:
        return inception.BasicConv2d(before if before == 3 else before // 4, after // 4, **options)

    letters = (getattr(inception, f"Inception{letter}") for letter in "ABCDE")
    blocks = [thin, *(partial(block, conv_block=thin) for block in letters), inception.InceptionAux]
    model = inception.Inception3(10, aux_logits=False, inception_blocks=blocks, init_weights=False)
    model.fc = nn.Linear(2048 // 4, 10)
    return model


def short_convnext() -> nn.Module:
    """torchvision's ConvNeXt with two blocks a stage at a quarter of the tiny one's widths."""
    widths = (24, 48, 96, 192, None)
    stages = [convnext.CNBlockConfig(before, after, 2) for before, after in itertools.pairwise(widths)]
    return convnext.ConvNeXt(stages, num_classes=10)


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (from_zoo("resnet18"), 32),
    "short resnet50": (lambda: zoo.ResNet(Bottleneck, [2, 2, 1, 1], num_classes=10), 32),
    "narrow vgg16_bn": (narrow_vgg, 32),
    "mobilenet_v2": (from_zoo("mobilenet_v2"), 32),
    "mobilenet_v3_large": (from_zoo("mobilenet_v3_large"), 32),
    "short densenet": (lambda: zoo.DenseNet(8, (3, 4, 6, 4), 16, num_classes=10), 32),
    "googlenet": (from_zoo("googlenet", init_weights=False, aux_logits=False), 32),
    "thin inception_v3": (thin_inception, 75),
    "efficientnet_b0": (from_zoo("efficientnet_b0"), 32),
    "squeezenet1_0": (from_zoo("squeezenet1_0"), 32),
    "regnet_y_400mf": (from_zoo("regnet_y_400mf"), 32),
    "short convnext": (short_convnext, 32),
    "vision transformer": (vision_transformer, 32),
    "CIFAR ResNet-20": (lambda: networks.resnet20(), 16),
    "CIFAR DenseNet-16": (lambda: CifarDenseNet(16), 16),
    "CIFAR GoogLeNet": (CifarGoogLeNet, 16),
    "CIFAR VGG-16": (lambda: networks.vgg16_bn(), 32),
    "zero-padded shortcut": (ZeroPadded, 16),
    "in place": (InPlace, 12),
    "depthwise": (networks_for_tests.Depthwise, 12),
    "grouped": (networks_for_tests.Grouped, 12),
    "concatenated twice": (networks_for_tests.ConcatTwice, 12),
}
JOINT = [name for name in CASES if name != "vision transformer"]  # its width is written into its forward
LARGE = {
    "mobilenet_v2", "short resnet50", "narrow vgg16_bn", "mobilenet_v3_large", "short densenet", "googlenet",
    "thin inception_v3", "efficientnet_b0", "regnet_y_400mf", "short convnext", "CIFAR GoogLeNet", "CIFAR VGG-16",
}  # fmt: skip
REPLAYED = ["resnet18", "mobilenet_v2", "squeezenet1_0", "vision transformer", "CIFAR ResNet-20", "in place",
            "grouped", "depthwise"]  # fmt: skip


def built(name: str, images: int = 2) -> tuple[nn.Module, Tensor]:
    build, size = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision on its own initial weights
        model = randomise(build())
    batch = torch.randn(images, 3, size, size)
    recalibrate_batch_norm(model, [batch])  # so that signals neither die nor explode
    return with_channel_maps(model, batch[:1]), batch


def kept_of(model: nn.Module, plan: PruningPlan, layer: str) -> list[int]:
    """The outputs of a layer that the plan leaves."""
    gone = {
        place
        for group in plan.groups
        for member in group.producers
        if member.layer == layer
        for place in member.positions(plan.removed(group.name))
    }
    weight = model.get_submodule(layer).weight
    return [place for place in range(len(weight)) if place not in gone]


def all_values(
    model: nn.Module, images: Tensor, at: At = "sum", *, layers: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """The values of these layers, None for all, behind their sums, or their own outputs, at all positions: (n, C)."""
    seen: dict[str, Tensor] = {}

    def receive(name: str, values: Tensor) -> None:
        convolution = not isinstance(model.get_submodule(name), nn.Linear)
        seen[name] = (values.movedim(1, -1) if convolution else values).flatten(0, -2).double()

    with torch.no_grad(), tapped(model, receive, layers=layers, tap="sum" if at == "sum" else "conv"):
        model(images)
    return seen


def compensated(
    model: nn.Module, pruned: nn.Module, plan: PruningPlan, images: Tensor, at: At = "sum"
) -> tuple[Compensation, dict[str, tuple[float, float]]]:
    """Compensate on all positions, and measure a dozen layers just before and just after they are solved for."""
    wanted = all_values(model, images, at)
    found: dict[str, list[float]] = {}

    def measure(name: str) -> None:
        right, values = wanted[name][:, kept_of(model, plan, name)], all_values(pruned, images, at, layers=[name])[name]
        variation = float((right - right.mean(0)).square().sum())
        found.setdefault(name, []).append(float((values - right).square().sum()) / variation if variation else 0.0)

    def measure_again() -> None:
        if found and len(found[[*found][-1]]) == 1:
            measure([*found][-1])

    def on_layer(name: str, done: int, total: int) -> None:
        measure_again()
        if done % -(-total // 12) == 0:
            measure(name)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecateurWarning)  # of few rows
        report = compensate(model, pruned, plan, [images], rows=10**6, target=at, memory=2**27, on_layer=on_layer)
    measure_again()
    return report, {name: (before, after) for name, (before, after) in found.items()}


@pytest.mark.parametrize(
    ("name", "residual"),
    [
        *cases(JOINT, "joint", thorough={*LARGE, "resnet18"}),
        *cases(("resnet18", "mobilenet_v2", "vision transformer"), "skip", thorough=LARGE),
    ],
)
def test_no_layer_gets_worse_and_what_is_reported_is_measured(name: str, residual: Residual) -> None:
    check(name, residual, "sum")


@pytest.mark.parametrize("name", ["squeezenet1_0", "grouped", "concatenated twice", "zero-padded shortcut"])
def test_no_layers_own_output_gets_worse(name: str) -> None:
    check(name, "joint", "layer")  # in networks without batch norm, whose layers have biases


def check(name: str, residual: Residual, at: At) -> None:
    model, images = built(name)
    dense = state(model)
    plan = random_plan(model, images[:1], residual=residual)
    pruned, before = pruned_by(model, plan)
    report, measured = compensated(model, pruned, plan, images, at)
    assert not report.left
    assert len(measured) >= min(6, len(report.layers))
    for fit in report.layers:
        assert fit.after <= fit.before, fit
        if fit.layer in measured:
            first, last = measured[fit.layer]
            rounding = 1e-6 + 1e-10 * first
            assert last <= first + rounding, fit
            assert fit.before == pytest.approx(first, rel=1e-3, abs=rounding), fit
            assert fit.after == pytest.approx(last, rel=1e-2, abs=100 * rounding), fit
    assert not changed(model, dense)
    solved = {fit.layer for fit in report.layers}
    untouched = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and n not in solved]
    assert not {n for n in changed(pruned, state(before)) if n.rpartition(".")[0] in untouched}


class RunWhole:
    """Stands for the replay, and replays nothing."""

    def __init__(self, *_args: object, **_options: object) -> None: ...

    @contextmanager
    def before(self, _layer: str) -> Iterator[Callable[[int], None]]:
        yield lambda _: None


@pytest.mark.parametrize("name", cases(REPLAYED, thorough={*LARGE, "resnet18", "squeezenet1_0", "CIFAR ResNet-20"}))
def test_what_is_run_again_gives_what_it_gave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = built(name, images=6)
    plan = random_plan(model, images[:1], residual="joint" if name in JOINT else "skip")
    replayed, whole = pruned_by(model, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecateurWarning)  # of few rows
        compensate(model, replayed, plan, images.split(4), memory=2**27)
        monkeypatch.setattr("secateur.recovery.walk.Replay", RunWhole)
        compensate(model, whole, plan, images.split(4), memory=2**27)
    assert not changed(replayed, state(whole))


@pytest.mark.parametrize("name", cases(CASES.keys(), thorough=LARGE))
def test_a_plan_that_removes_nothing_changes_nothing(name: str) -> None:
    model, images = built(name)
    plan = random_plan(model, images[:1], keep=1.0, residual="skip" if name not in JOINT else "joint")
    pruned, before = pruned_by(model, plan)
    assert compensate(model, pruned, plan, [images]).layers == ()
    assert not changed(pruned, state(before))


@pytest.mark.parametrize("name", cases(("CIFAR ResNet-20", "mobilenet_v2", "CIFAR GoogLeNet"), thorough=LARGE))
def test_layers_before_the_first_removed_channel_keep_every_bit(name: str) -> None:
    model, images = built(name)
    order = list(all_values(model, images[:1]))
    groups = {group.name: group for group in random_plan(model, images[:1]).groups}
    late = list(groups)[-1]
    plan = plan_without(model, images[:1], {late: range(groups[late].width // 2)})
    pruned, before = pruned_by(model, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecateurWarning)  # of few rows
        report = compensate(model, pruned, plan, [images], memory=2**27)
    first = min(order.index(m.layer) for m in groups[late].members if m.role == "consumer")
    assert min(order.index(fit.layer) for fit in report.layers) >= min(
        first, *(order.index(m.layer) for m in groups[late].producers)
    )
    early = set(order) - {fit.layer for fit in report.layers}
    assert early
    assert not {n for n in changed(pruned, state(before)) if n.rpartition(".")[0] in early}
