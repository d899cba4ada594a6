"""What cannot be scored by what the next layers can do without: skipped with the reason, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconstruction_for_tests import Chain, reconstruction_scores, scores_of
from references_reconstruction import IMAGES, LABELS
from secateur import channel_groups
from secateur.errors import ConfigError, DataError, NetworkError
from secateur.records import ChannelGroup, Member


def with_transposed(*, alone: bool) -> nn.Module:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
            self.up, self.side, self.last = (
                nn.ConvTranspose2d(5, 4, 2),
                nn.Conv2d(5, 4, 2, padding=1),
                nn.Conv2d(4, 2, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.middle(torch.relu(self.first(x))))
            return self.last(self.up(x) if alone else torch.relu(self.up(x)) + torch.relu(self.side(x)))

    return Up()


def test_readers_that_cannot_be_solved_for_are_told() -> None:
    own = tuple((c,) for c in range(5))
    members = (Member("middle", "producer", own), Member("up", "consumer", own), Member("side", "consumer", own))
    plain = ChannelGroup("first", 4, (Member("first", "producer", own[:4]), Member("middle", "consumer", own[:4])))
    groups: Mapping[str, ChannelGroup] = {"first": plain, "middle": ChannelGroup("middle", 5, members)}

    table = reconstruction_scores(with_transposed(alone=False), groups, [IMAGES])
    assert list(table) == ["first", "middle"]
    assert list(table.settings["unread"]) == ["up"]
    assert "transposed" in table.settings["unread"]["up"]

    table = reconstruction_scores(with_transposed(alone=True), groups, [IMAGES])
    assert list(table) == ["first"]
    reason = table.settings["skipped"]["middle"]
    assert "up: the inputs that one output of a transposed convolution reads" in reason
    assert "side: no forward pass calls it as a layer" in reason


def test_a_reader_whose_output_a_hook_changes_is_asked_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    net[2].register_forward_hook(lambda _module, _inputs, output: output.tanh())
    table = reconstruction_scores(net, channel_groups(net, IMAGES), [IMAGES])
    assert list(table) == ["2"]
    assert "a forward hook changes what it gives" in table.settings["unread"]["2"]


def test_channels_that_own_different_numbers_of_inputs_are_skipped() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1))
    members = (Member("0", "producer", ((0, 1), (2,))), Member("1", "consumer", ((0, 1), (2,))))
    with pytest.raises(NetworkError, match="own different numbers of the inputs of 1"):
        reconstruction_scores(net, {"0": ChannelGroup("0", 2, members)}, [IMAGES])


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "the batches are empty"),
        ([IMAGES], {"labels": 1.0}, "labels=1.0 reads labels, but the batches hold inputs alone"),
        ([(IMAGES, torch.zeros(12).long())], {"labels": 1.0}, "belong to class 0"),
        ([IMAGES * torch.nan], {}, "NaN"),
    ],
    ids=["empty", "no labels", "one class", "NaN"],
)
def test_bad_data_are_refused(batches: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scores_of(Chain(), batches, **options)


@pytest.mark.parametrize("ridge", [1e-2, 1e-6])  # rows are held themselves, and multiplied out
@pytest.mark.filterwarnings("ignore:fewer rows")
def test_rows_that_are_all_of_one_class_are_told(ridge: float) -> None:
    with pytest.raises(DataError, match="rows that were drawn of layer 'second' are all of one class"):
        scores_of(Chain(), [(IMAGES, LABELS)], rows=1, labels=0.5, ridge=ridge)


def test_layers_that_give_no_numbers_are_named() -> None:
    net = Chain()
    groups = channel_groups(net, IMAGES)
    with torch.no_grad():
        net.second.weight[0, 0] = torch.inf
    with pytest.raises(DataError, match="layer 'second' gives or reads NaN or infinite values"):
        reconstruction_scores(net, groups, [IMAGES])
    assert all(not module._forward_hooks for module in net.modules())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="ridge is 0"):
        scores_of(Chain(), ridge=0)
