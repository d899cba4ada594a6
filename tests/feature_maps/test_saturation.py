"""Layers in which ties decide are noticed and named."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur import collect_scores
from secateur.errors import SaturationWarning
from secateur.feature_maps.saturation import largest_tie, saturated_layers


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), max_size=20))
def test_the_largest_tie_by_counting(values: list[float]) -> None:
    counts = Counter(value for value in values if value)
    most = max(counts.values(), default=0)
    assert largest_tie(torch.tensor(values, dtype=torch.float64)) == (most if most > 1 else 0)


def test_more_than_a_quarter_is_saturated_and_dead_channels_are_not() -> None:
    tables = {
        "quarter": torch.tensor([5.0, 5.0, 1, 2, 3, 4, 6, 7]),
        "more": torch.tensor([5.0, 5.0, 5.0, 2, 3, 4, 6, 7]),
        "dead": torch.tensor([0.0, 0.0, 0.0, 0.0, 3, 4, 6, 7]),
    }
    assert saturated_layers(tables) == {"more": 3}


def test_a_saturated_layer_is_named_with_its_count() -> None:
    """Raw convolution outputs of random images are of full rank throughout."""
    net, images = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()), torch.randn(10, 1, 6, 6)
    with pytest.warns(
        SaturationWarning, match=r"in 1 of 1 layers.*: 0 \(8 of 8\); more images, the tap 'act' or another"
    ):
        table = collect_scores(net, [images], "hrank", tap="conv")
    assert table.settings["saturated"] == {"0": 8}


def test_the_tap_that_is_in_use_is_not_recommended() -> None:
    net, images = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()), torch.ones(4, 1, 6, 6)
    with pytest.warns(SaturationWarning, match=r"; more images or another criterion may tell them apart"):
        collect_scores(net.requires_grad_(False), [0 * images], "hrank")


def test_a_telling_criterion_does_not_warn() -> None:
    net, images = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()), torch.randn(10, 1, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaturationWarning)
        assert collect_scores(net, [images], "variance").settings["saturated"] == {}
