"""The networks have the names, the sizes and the accuracy of the trained ones, and digits can be pruned everywhere."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.channel_map import ChannelMap
from secateur.checkpoint import load_weights
from secateur.errors import ConfigError
from secateur.evaluation import accuracy
from secateur.networks import CifarResNet, digits_resnet, resnet20, resnet56, resnet110


def macs(model: nn.Module, inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("build", "size", "millions", "parameters"),
    [
        (resnet20, 32, 40.55, 269_722),
        (resnet56, 32, 125.49, 853_018),
        (resnet110, 32, 252.89, 1_727_962),
        (digits_resnet, 8, 16.40, 514_714),
    ],
)
def test_sizes(build: Callable[[], nn.Module], size: int, millions: float, parameters: int) -> None:
    model = build()
    inputs = torch.zeros(1, 1 if size == 8 else 3, size, size)
    assert macs(model, inputs) / 1e6 == pytest.approx(millions, abs=0.005)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert build(num_classes=7).eval()(inputs).shape == (1, 7)


def test_the_padded_shortcut_by_loops() -> None:
    x = torch.randn(2, 3, 5, 4)
    expected = torch.zeros(2, 7, 3, 2)
    for c in range(3):
        for row in range(3):
            for column in range(2):
                expected[:, 2 + c, row, column] = x[:, c, 2 * row, 2 * column]
    assert torch.equal(ChannelMap.padding(3, 7, stride=2)(x), expected)


@pytest.mark.parametrize("depth", [2, 7, 57])
def test_depths_that_do_not_exist_are_refused(depth: int) -> None:
    with pytest.raises(ConfigError, match=f"6 n \\+ 2.*found {depth}"):
        CifarResNet(depth)


def test_activations_are_not_modules() -> None:
    assert not any(isinstance(m, nn.ReLU) for m in [*resnet20().modules(), *digits_resnet().modules()])


def test_every_channel_of_the_digits_network_can_be_pruned() -> None:
    tp = pytest.importorskip("torch_pruning")
    model = digits_resnet().eval()
    inputs = torch.randn(2, 1, 8, 8)
    importance = tp.importance.MagnitudeImportance()
    tp.pruner.BasePruner(model, inputs, importance, pruning_ratio=0.5, ignored_layers=[model.linear]).step()
    halves = {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert halves == {24, 48}
    assert model(inputs).shape == (2, 10)


@pytest.mark.parametrize(("build", "name"), [(resnet20, "resnet20-cifar10"), (resnet56, "resnet56-cifar10")])
def test_the_trained_networks_load(shared: Path, build: Callable[[], nn.Module], name: str) -> None:
    model = build()
    first = model.state_dict()["linear.weight"].clone()
    load_weights(model, shared / "models" / f"{name}.safetensors")
    assert not torch.equal(model.state_dict()["linear.weight"], first)


def test_the_trained_resnet56_answers_right(shared: Path) -> None:
    model = resnet56()
    load_weights(model, shared / "models" / "resnet56-cifar10-jpeg.safetensors")
    assert 0.86 < accuracy(model, cifar_images(shared / "data" / "cifar10-jpeg-val.tar.gz", each=50)) < 0.95


def cifar_images(archive: Path, *, each: int) -> list[tuple[Tensor, Tensor]]:
    """Read the first `each` images of each class, one batch a class, normalised as in training."""
    transforms = pytest.importorskip("torchvision.transforms.functional")
    image = pytest.importorskip("PIL.Image")
    found: dict[str, list[Tensor]] = {}
    count: Counter[str] = Counter()
    with tarfile.open(archive) as files:
        for member in files:
            if not member.name.endswith(".jpg"):
                continue
            kind = member.name.split("/")[1]
            count[kind] += 1
            if count[kind] <= each:
                data = files.extractfile(member)
                pixels = transforms.to_tensor(image.open(io.BytesIO(data.read())).convert("RGB"))
                found.setdefault(kind, []).append(
                    transforms.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
                )
    return [(torch.stack(found[kind]), torch.full((each,), i)) for i, kind in enumerate(sorted(found))]
