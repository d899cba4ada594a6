"""A tap leaves nothing behind, whatever happens, hands over what was asked for, and refuses what it cannot follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from feature_maps_for_tests import tap_all
from secateur.errors import ConfigError, NetworkError
from secateur.feature_maps import tapped


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_an_error_in_the_forward_pass_leaves_nothing_behind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(5, 4, 3))
    seen: list[str] = []
    with pytest.raises(RuntimeError, match="channels"), tapped(model, lambda layer, maps: seen.append(layer)):
        model(torch.randn(1, 3, 8, 8))
    assert hooks(model) == 0
    model[2] = nn.Conv2d(4, 4, 3)
    seen.clear()
    model(torch.randn(1, 3, 8, 8))
    assert seen == []


def test_a_failed_pass_does_not_reach_into_the_next() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model.append(nn.Linear(2, 2))
    seen: list[str] = []
    with tapped(model, lambda layer, maps: seen.append(f"{layer} {len(maps)}")):
        model[5] = nn.Linear(3, 2)
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.randn(1, 3, 8, 8))
        model[5] = nn.Identity()
        seen.clear()
        model(torch.randn(7, 3, 8, 8))
    assert seen == ["0 7", "4 7"]


def test_an_error_of_the_receiver_comes_through() -> None:
    def refuse(layer: str, maps: Tensor) -> None:
        raise KeyError(layer)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(KeyError, match="0"), tapped(model, refuse):
        model(torch.randn(1, 3, 8, 8))
    assert hooks(model) == 0


def living_maps(model: nn.Module, images: Tensor) -> list[int]:
    """Run the network and return, after each of its smallest modules, how many of their outputs are in memory."""
    made: list[StorageWeakRef] = []
    living: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made.append(StorageWeakRef(output.untyped_storage()))
        living.append(len({storage.cdata for storage in made if not storage.expired()}))

    handles = [m.register_forward_hook(count) for m in model.modules() if not [*m.children()]]
    try:
        model(images)
        living.append(sum(not storage.expired() for storage in made))
    finally:
        for handle in handles:
            handle.remove()
    return living


@pytest.mark.parametrize("build", [zoo.vgg11_bn, zoo.resnet18, zoo.mobilenet_v2, zoo.densenet121, zoo.convnext_tiny])
def test_no_feature_map_outlives_its_layer(build: Any) -> None:
    """At no time does the tap keep more than one map that the network itself has dropped, and none in the end."""
    model, images = build(weights=None).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        bare = living_maps(model, images)
        with tapped(model, lambda layer, maps: None):
            under_tap = living_maps(model, images)
    assert len(bare) == len(under_tap) > 20
    assert max(ours - own for ours, own in zip(under_tap, bare, strict=True)) <= 1
    assert under_tap[-1] == bare[-1]


def test_only_the_layers_asked_for_are_handed_over() -> None:
    model = zoo.resnet18(weights=None).eval()
    seen: list[str] = []
    with torch.no_grad(), tapped(model, lambda layer, maps: seen.append(layer), layers=["fc", "layer1.0.conv1"]):
        model(torch.randn(1, 3, 64, 64))
    assert seen == ["layer1.0.conv1", "fc"]
    seen.clear()
    model(torch.randn(1, 3, 64, 64))
    assert seen == []


def test_wrappers_are_taken_off() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert [*tap_all(nn.DataParallel(network), torch.randn(1, 3, 5, 5))] == ["0"]


class Part(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.body = part


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_networks_whose_operations_cannot_be_seen_are_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    scripted = torch.jit.trace(plain, torch.randn(1, 3, 5, 5))
    in_place = nn.Sequential(nn.Conv2d(3, 4, 3))
    in_place.compile()
    for model, reason in (
        (torch.compile(plain), "the network is compiled"),
        (Part(torch.compile(plain)), "'body' of the network is compiled"),
        (in_place, "compiled"),
        (scripted, "the network is a ScriptModule"),
        (Part(scripted), "'body' of the network is a ScriptModule"),
    ):
        with pytest.raises(NetworkError, match=reason), tapped(model, lambda layer, maps: None):
            pass


def test_bad_arguments_are_named() -> None:
    model = zoo.resnet18(weights=None)
    for layers, message in (
        (["layer1.0.conv3"], "no layer 'layer1.0.conv3'; did you mean 'layer1.0.conv"),
        (["bn1"], "'bn1' is a BatchNorm2d; only convolutions and linear"),
        ("conv1", "a list of names"),
    ):
        with pytest.raises(NetworkError, match=message), tapped(model, lambda layer, maps: None, layers=layers):
            pass
    with pytest.raises(ConfigError, match="'relu'; allowed: act, bn, conv"):
        tapped(model, lambda layer, maps: None, tap="relu").__enter__()  # type: ignore[arg-type] # the error is tested
