"""What scores cannot be collected over: networks, feature maps, batches and settings that are refused, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collecting_for_tests import MeanMap, Strict, images, network, with_nan
from secateur.errors import ConfigError, DataError, NetworkError
from secateur.feature_maps import collect_scores


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_layer_that_never_runs_is_named() -> None:
    table = collect_scores(Idle(), [images(2)], MeanMap())
    assert list(table) == ["used"]
    assert table.settings["skipped"] == {"idle": "the network never calls it"}
    with pytest.raises(NetworkError, match="'idle'"):
        collect_scores(Idle(), [images(2)], MeanMap(), layers=["used", "idle"])


def test_networks_without_layers_to_score_are_refused() -> None:
    with pytest.raises(NetworkError, match="no convolution"):
        collect_scores(nn.Sequential(nn.Linear(3, 4)), [torch.randn(2, 3)], MeanMap())
    with pytest.raises(NetworkError, match="'0': too small"):
        collect_scores(nn.Sequential(nn.Conv2d(3, 4, 8)), [images(2)], Strict())


class Shifting(nn.Module):
    """A layer whose number of channels depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data = torch.randn(len(x), 3, 3, 3)
        self.conv.bias = None
        return self.conv(x)


def test_bad_feature_maps_name_the_layer() -> None:
    with pytest.raises(DataError, match="layer '3' holds NaN"):
        collect_scores(with_nan(), [images(2)], MeanMap())
    with pytest.raises(DataError, match="layer 'conv' had 4 channels and now has 3"):
        collect_scores(Shifting(), [images(4), images(3)], MeanMap())


def test_labels_of_inputs_that_the_network_takes_apart_do_not_fit() -> None:
    apart = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(3, 4, 3))
    clips, labels = torch.randn(2, 5, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"layer '1': it makes 10 feature maps for 2 labels.*that reads no labels"):
        collect_scores(apart, [(clips, labels)], "di", layers=["1"])
    with pytest.raises(
        NetworkError, match=r"no layer can be scored by 'di': '1': it makes 10 feature maps for 2 labels"
    ):
        collect_scores(apart, [(clips, labels)], "di")
    assert len(collect_scores(apart, [(clips, labels)], "variance")["1"]) == 4


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no image"),
        ([images(4)], "reads labels"),
        ([(images(4), torch.tensor([0, 1, -1, 1]))], "found -1"),
        ([(images(4), torch.rand(4))], "class numbers"),
        ([(images(4), torch.zeros(4, 2, dtype=torch.int64))], "class numbers"),
        ([(images(4), torch.zeros(3, dtype=torch.int64))], "4 inputs but 3 labels"),
        ([images(4).fill_(float("nan"))], "NaN"),
    ],
)
def test_bad_batches_are_refused(batches: list[Any], message: str) -> None:
    model = network()
    with pytest.raises(DataError, match=message):
        collect_scores(model, batches, MeanMap(needs_labels=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="hrnak"):
        collect_scores(network(), [images(2)], "hrnak")
    for samples in (0, 2.5):
        with pytest.raises(ConfigError, match=f"samples is {samples}; it must be a whole number, at least 1"):
            collect_scores(network(), [images(2)], MeanMap(), samples=samples)
