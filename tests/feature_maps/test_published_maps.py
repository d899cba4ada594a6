"""The tap on the CIFAR networks of the papers, against forward passes written out with the published tap points.

The published code reads both 3x3 convolutions of the third branch of a GoogLeNet module at the second's slice, and the
last VGG layer before each max pool behind it. Here each convolution has its own map, before the pool: the tables below.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from feature_maps_for_tests import assert_same, randomise, tap_all
from secateur.networks import (
    CifarDenseNet,
    CifarGoogLeNet,
    CifarResNet,
    CifarVGG,
    densenet40,
    googlenet,
    resnet20,
    vgg16_bn,
)

Expected = dict[str, Tensor]


def published_resnet(model: CifarResNet, x: Tensor) -> Expected:
    """Both convolutions of a block are read after a ReLU: the first after its own, the second after that of the sum."""
    maps: Expected = {}
    x = maps["conv1"] = F.relu(model.bn1(model.conv1(x)))
    for name in ("layer1", "layer2", "layer3"):
        for i, block in enumerate(model.get_submodule(name)):
            inner = maps[f"{name}.{i}.conv1"] = F.relu(block.bn1(block.conv1(x)))
            out = block.bn2(block.conv2(inner))
            if out.shape[1] == x.shape[1]:
                x = F.relu(out + x)
            else:
                x = F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2)))
            maps[f"{name}.{i}.conv2"] = x
    return maps | {"linear": model.linear(x.mean((2, 3)))}


def published_vgg(model: CifarVGG, x: Tensor) -> Expected:
    """Every convolution is read after its ReLU."""
    maps: Expected = {}
    layers = dict(model.features.named_children())
    for i in range(17):
        if f"conv{i}" in layers:
            x = maps[f"features.conv{i}"] = F.relu(layers[f"norm{i}"](layers[f"conv{i}"](x)))
        else:
            x = F.max_pool2d(x, 2)
    head = model.classifier
    hidden = maps["classifier.linear1"] = F.relu(head.norm1(head.linear1(x.mean((2, 3)))))
    return maps | {"classifier.linear2": head.linear2(hidden)}


def published_densenet(model: CifarDenseNet, x: Tensor) -> Expected:
    """A layer's channels are the last 12 behind the next norm and ReLU; of stem and transitions, all channels."""
    maps: Expected = {}
    x, before = model.conv1(x), "conv1"
    for number in (1, 2, 3):
        for i, layer in enumerate(model.get_submodule(f"dense{number}")):
            read = F.relu(layer.bn1(x))
            maps[before] = read if i == 0 else read[:, -12:]
            x, before = torch.cat((x, layer.conv1(read)), 1), f"dense{number}.{i}.conv1"
        if number < 3:
            transition = model.get_submodule(f"trans{number}")
            read = F.relu(transition.bn1(x))
            maps[before] = read[:, -12:]
            x, before = F.avg_pool2d(transition.conv1(read), 2), f"trans{number}.conv1"
    read = F.relu(model.bn(x))
    maps[before] = read[:, -12:]
    return maps | {"fc": model.fc(read.mean((2, 3)))}


def published_googlenet(model: CifarGoogLeNet, x: Tensor) -> Expected:
    """Branches are read as slices of their module's output, b3 and e4 behind the pool that follows them."""
    maps: Expected = {}

    def layer(name: str, x: Tensor) -> Tensor:
        """Run the convolution with this name, the norm behind it and ReLU."""
        chain, _, index = name.rpartition(".")
        convolution, norm = model.get_submodule(name), model.get_submodule(f"{chain}.{int(index) + 1}")
        maps[name] = F.relu(norm(convolution(x)))
        return maps[name]

    x = layer("pre_layers.0", x)
    for here in ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5"):
        module = f"inception_{here}"
        ends = {
            "branch1x1.0": layer(f"{module}.branch1x1.0", x),
            "branch3x3.3": layer(f"{module}.branch3x3.3", layer(f"{module}.branch3x3.0", x)),
            "branch5x5.6": layer(
                f"{module}.branch5x5.6", layer(f"{module}.branch5x5.3", layer(f"{module}.branch5x5.0", x))
            ),
            "branch_pool.1": layer(f"{module}.branch_pool.1", F.max_pool2d(x, 3, 1, 1)),
        }
        x = torch.cat([*ends.values()], 1)
        if here in ("b3", "e4"):
            x = F.max_pool2d(x, 3, 2, 1)
        slices = x.split([end.shape[1] for end in ends.values()], 1)
        maps |= {f"{module}.{branch}": part for branch, part in zip(ends, slices, strict=True)}
    return maps | {"linear": model.linear(x.mean((2, 3)))}


PUBLISHED: list[tuple[Callable[[], nn.Module], Callable[..., Expected]]] = [
    (resnet20, published_resnet),
    (vgg16_bn, published_vgg),
    (densenet40, published_densenet),
    (googlenet, published_googlenet),
]


@pytest.mark.parametrize(("build", "published"), PUBLISHED)
def test_every_layer_is_read_at_its_published_place(
    build: Callable[[], nn.Module], published: Callable[..., Expected]
) -> None:
    model = randomise(build())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = published(model, images)
    found = tap_all(model, images)
    assert found.keys() == expected.keys()
    assert expected.keys() == {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for layer, maps in expected.items():
        assert len(found[layer]) == 1, layer
        if maps.ndim == 4:
            assert_same(found[layer][0], maps)
        else:
            torch.testing.assert_close(found[layer][0], maps)  # the two passes sum their pools in other orders
