"""The tap on torchvision's networks, against tables of which recorded tensor is the feature map of each layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from feature_maps_for_tests import Recorder, assert_same, randomise, tap_all
from secateur.feature_maps import Tap


def basic_or_bottleneck(last: int) -> Callable[[str], str]:
    """ResNets: the stem after its pool, inner convolutions after their ReLU, last and projection after the sum."""

    def where(layer: str) -> str:
        if layer == "conv1":
            return "maxpool"
        block, inner = re.fullmatch(r"(layer\d\.\d+)\.(.*)", layer).groups()  # type: ignore[union-attr] # a miss fails
        block = block.replace(".", "_")
        call = last - 1 if inner == "downsample.0" else int(inner[-1]) - 1
        return f"{block}_relu" + (f"_{call}" if call else "")

    return where


def vgg(layer: str) -> str:
    return f"features_{int(layer.split('.')[1]) + 2}"


def mobilenet_v2(values: dict[str, Tensor]) -> Callable[[str], str]:
    sums = iter(sorted((n for n in values if n.startswith("add")), key=lambda n: int(n[4:] or 0)))
    sum_of = {i: next(sums) for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)}  # stride 1, same width: with a shortcut

    def where(layer: str) -> str:
        block = int(layer.split(".")[1])
        if re.search(r"conv\.\d\.0$", layer) or block in (0, 18):  # convolution, batch norm, ReLU6 in a row
            return layer.replace(".", "_")[:-1] + "2"
        bottleneck_norm = layer.replace(".", "_")[:-1] + str(int(layer[-1]) + 1)
        return sum_of.get(block, bottleneck_norm)

    return where


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (zoo.resnet18, lambda values: basic_or_bottleneck(last=2)),
        (zoo.resnet50, lambda values: basic_or_bottleneck(last=3)),
        pytest.param(zoo.vgg16_bn, lambda values: vgg, marks=pytest.mark.thorough),
        (zoo.mobilenet_v2, mobilenet_v2),
    ],
)
def test_feature_maps_of_torchvision_networks(build: Any, where: Any) -> None:
    model = randomise(build(weights=None))
    images = torch.randn(2, 3, 64, 64)
    values = Recorder.record(model, images)
    found = tap_all(model, images)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for layer in convolutions:
        assert len(found[layer]) == 1, layer
        assert_same(found[layer][0], values[where(values)(layer)])


def densenet(layer: str) -> tuple[str, int | None]:
    """Return the node, and how many of its last channels are the layer's (None: all)."""
    blocks = {1: 6, 2: 12, 3: 24, 4: 16}
    if layer == "features.conv0":
        return "features_pool0", None
    if found := re.fullmatch(r"features\.transition(\d)\.conv", layer):
        return f"features_denseblock{int(found[1]) + 1}_denselayer1_relu1", None
    block, number, conv = map(int, re.findall(r"\d+", layer))
    here = f"features_denseblock{block}_denselayer"
    if conv == 1:
        return f"{here}{number}_relu2", None
    if number < blocks[block]:
        return f"{here}{number + 1}_relu1", 32
    return (f"features_transition{block}_relu", 32) if block < 4 else ("relu", 32)


def test_feature_maps_of_a_pre_activation_network() -> None:
    model = randomise(zoo.densenet121(weights=None))
    images = torch.randn(2, 3, 64, 64)
    values = Recorder.record(model, images)
    found = tap_all(model, images)
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            node, last = densenet(layer)
            expected = values[node] if last is None else values[node][:, -last:]
            assert_same(found[layer][0], expected)


def test_feature_maps_of_concatenated_branches() -> None:
    model = randomise(zoo.googlenet(weights=None, aux_logits=False, init_weights=False))
    images = torch.randn(2, 3, 64, 64)
    values = Recorder.record(model, images)
    found = tap_all(model, images)
    pooled = {"inception3b": "maxpool3", "inception4e": "maxpool4"}
    stem = {"conv1": "maxpool1", "conv2": "relu", "conv3": "maxpool2"}
    modules = [n for n, m in model.named_children() if n.startswith("inception")]
    joined = dict(
        zip(modules, sorted((n for n in values if n.startswith("cat")), key=lambda n: int(n[4:] or 0)), strict=True)
    )
    for name in modules:
        node = values[pooled.get(name, joined[name])]
        start = 0
        for branch in ("branch1", "branch2.1", "branch3.1", "branch4.1"):
            layer = f"{name}.{branch}.conv"
            width = model.get_submodule(layer).out_channels
            assert_same(found[layer][0], node[:, start : start + width])
            start += width
        for reduce in ("branch2.0", "branch3.0"):
            layer = f"{name}.{reduce}"
            expected = F.relu(values[layer.replace(".", "_") + "_bn"])
            assert_same(found[f"{layer}.conv"][0], expected)
    for layer, node_name in stem.items():
        expected = F.relu(values["conv2_bn"]) if node_name == "relu" else values[node_name]
        assert_same(found[f"{layer}.conv"][0], expected)


Values = dict[str, Tensor]


def node(layer: str) -> str:
    """Return the name that torch.fx gives to a module's output."""
    return re.sub(r"\W", "_", layer).lower()


def nodes(values: Values, name: str) -> list[Tensor]:
    """Return what the calls of one function gave, in order: add, add_1, add_2, ..."""
    found = [n for n in values if re.fullmatch(rf"{name}(_\d+)?", n)]
    return [values[n] for n in sorted(found, key=lambda n: int(n[len(name) + 1 :] or 0))]


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def gated(model: nn.Module, values: Values, head: dict[str, str]) -> dict[str, Tensor]:
    """MobileNetV3 and EfficientNet: after batch norm and activation; the last of a block after its norm, or the sum."""
    sums = iter(nodes(values, "add"))
    expected = {layer: values[name] for layer, name in head.items()}
    for name, block in model.named_modules():
        if not hasattr(block, "use_res_connect"):
            continue
        convolutions = [inner for inner, m in block.named_modules() if isinstance(m, nn.Conv2d)]
        for inner in convolutions:
            layer = f"{name}.{inner}"
            if inner.endswith("fc1"):
                expected[layer] = values[node(layer.replace("fc1", "activation"))]
            elif inner.endswith("fc2"):
                expected[layer] = values[node(layer.replace("fc2", "scale_activation"))]
            elif inner != convolutions[-1]:
                expected[layer] = values[node(layer)[:-1] + "2"]
            else:
                expected[layer] = next(sums) if block.use_res_connect else values[node(layer)[:-1] + "1"]
    return expected


def mobilenet_v3(model: nn.Module, values: Values) -> dict[str, Tensor]:
    head = {"features.0.0": "features_0_2", "features.16.0": "features_16_2"}
    return gated(model, values, head | {"classifier.0": "classifier_1", "classifier.3": "classifier_3"})


def efficientnet(model: nn.Module, values: Values) -> dict[str, Tensor]:
    head = {"features.0.0": "features_0_2", "features.8.0": "features_8_2", "classifier.1": "classifier_1"}
    return gated(model, values, head)


def squeezenet(model: nn.Module, values: Values) -> dict[str, Tensor]:
    """Fire modules: squeeze after its ReLU; the two expands, concatenated, after the pool where one follows."""
    expected = {"features.0": values["features_2"], "classifier.1": values["classifier_2"]}
    joined = dict(zip((3, 4, 5, 7, 8, 9, 10, 12), nodes(values, "cat"), strict=True))
    joined |= {5: values["features_6"], 10: values["features_11"]}
    for fire, maps in joined.items():
        half = maps.shape[1] // 2
        expected[f"features.{fire}.squeeze"] = values[f"features_{fire}_squeeze_activation"]
        expected[f"features.{fire}.expand1x1"] = maps[:, :half]
        expected[f"features.{fire}.expand3x3"] = maps[:, half:]
    return expected


def regnet(model: nn.Module, values: Values) -> dict[str, Tensor]:
    """Inner convolutions after their ReLU, the last and the projection of a block after its sum and ReLU."""
    expected = {"stem.0": values["stem_2"], "fc": values["fc"]}
    for layer in layers_of(model):
        if match := re.fullmatch(r"(trunk_output\.block\d\.block\d-\d+)\.(.*)", layer):
            ending = {
                "proj.0": "activation",
                "f.a.0": "f.a.2",
                "f.b.0": "f.b.2",
                "f.se.fc1": "f.se.activation",
                "f.se.fc2": "f.se.scale_activation",
                "f.c.0": "activation",
            }[match[2]]
            expected[layer] = values[node(f"{match[1]}.{ending}")]
    return expected


def convnext(model: nn.Module, values: Values) -> dict[str, Tensor]:
    """Depthwise after its layer norm, expand after GELU, a block after its sum, a stage after the norm behind it."""
    sums, permuted = nodes(values, "add"), nodes(values, "permute")
    normed = [maps for i, maps in enumerate(permuted) if i in (1, 9, 17, 37)]  # behind each LayerNorm2d: 3, 3, 9 blocks
    expected = {
        "features.0.0": normed[0],
        "features.2.1": values["features_2_1"],
        "features.4.1": values["features_4_1"],
        "features.6.1": values["features_6_1"],
        "classifier.2": values["classifier_2"],
    }
    number = 0
    for stage, blocks in ((1, 3), (3, 3), (5, 9), (7, 3)):
        for block in range(blocks):
            here = f"features.{stage}.{block}.block"
            expected[f"{here}.0"] = values[node(f"{here}.2")].permute(0, 3, 1, 2)
            expected[f"{here}.3"] = values[node(f"{here}.4")]
            ends = block == blocks - 1 and stage < 7
            expected[f"{here}.5"] = (normed[(stage + 1) // 2] if ends else sums[number]).permute(0, 2, 3, 1)
            number += 1
    return expected


def vit(model: nn.Module, values: Values) -> dict[str, Tensor]:
    """The patches as they are, inner layers after GELU, a block after its sum and the next block's layer norm."""
    expected = {"conv_proj": values["conv_proj"], "heads.head": values["heads_head"]}
    for i in range(12):
        here = f"encoder.layers.encoder_layer_{i}"
        next_norm = f"encoder.layers.encoder_layer_{i + 1}.ln_1" if i < 11 else "encoder.ln"
        expected[f"{here}.mlp.0"] = values[node(f"{here}.mlp.1")]
        expected[f"{here}.mlp.3"] = values[node(next_norm)]
    return expected


def shufflenet(model: nn.Module, values: Values) -> dict[str, Tensor]:
    """After ReLU, where there is one: the depthwise convolutions have only their norm. The shuffle comes later."""
    expected = {"conv1.0": values["maxpool"], "conv5.0": values["conv5_2"], "fc": values["fc"]}
    for layer in layers_of(model):
        if match := re.fullmatch(r"(stage\d\.\d\.branch)(1\.0|1\.2|2\.0|2\.3|2\.5)", layer):
            ending = {"1.0": "1.1", "1.2": "1.4", "2.0": "2.2", "2.3": "2.4", "2.5": "2.7"}[match[2]]
            expected[layer] = values[node(match[1] + ending)]
    return expected


def inception(model: nn.Module, values: Values) -> dict[str, Tensor]:
    """Inner convolutions after their ReLU, the ends of the branches as slices of their module's output."""
    expected = {"fc": values["fc"]}
    for layer, module in layers_of(model).items():
        if isinstance(module, nn.Conv2d):
            expected[layer] = F.relu(values[node(layer.removesuffix("conv") + "bn")])
    expected["Conv2d_2b_3x3.conv"], expected["Conv2d_4a_3x3.conv"] = values["maxpool1"], values["maxpool2"]
    return expected


@pytest.mark.parametrize(
    ("build", "options", "size", "table"),
    [
        (zoo.mobilenet_v3_large, {}, 64, mobilenet_v3),
        (zoo.efficientnet_b0, {}, 64, efficientnet),
        (zoo.squeezenet1_0, {}, 64, squeezenet),
        (zoo.regnet_y_400mf, {}, 64, regnet),
        (zoo.convnext_tiny, {}, 64, convnext),
        (zoo.vit_b_16, {"image_size": 32}, 32, vit),
        (zoo.shufflenet_v2_x1_0, {}, 64, shufflenet),
        (zoo.inception_v3, {"init_weights": False, "aux_logits": False}, 96, inception),
    ],
)
def test_every_layer_of_a_network(build: Any, options: dict[str, Any], size: int, table: Any) -> None:
    """Convolutions and linear layers, each once; those inside fused attention are never called as layers."""
    model = randomise(build(weights=None, **options))
    images = torch.randn(2, 3, size, size)
    expected = table(model, Recorder.record(model, images))
    found = tap_all(model, images)
    assert found.keys() == expected.keys()
    assert expected.keys() == {name for name in layers_of(model) if not name.endswith("out_proj")}
    for layer, maps in found.items():
        assert len(maps) == 1, layer
        assert torch.equal(maps[0], expected[layer]), layer


@pytest.mark.parametrize("tap", ["bn", "conv"])
def test_the_other_taps_on_a_pre_activation_network(tap: Tap) -> None:
    """Stem and bottlenecks have a norm of their own; what is concatenated or pooled first is read as it is."""
    model = randomise(zoo.densenet121(weights=None))
    images = torch.randn(2, 3, 64, 64)
    values = Recorder.record(model, images)
    found = tap_all(model, images, tap=tap)
    for layer in layers_of(model):
        own_norm = {"conv0": "norm0", "conv1": "norm2"}.get(layer.rpartition(".")[2])
        where = layer if tap == "conv" or own_norm is None else f"{layer.rpartition('.')[0]}.{own_norm}"
        assert_same(found[layer][0], values[node(where)])
