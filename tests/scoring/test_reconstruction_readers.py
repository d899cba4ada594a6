"""Scores by what the next layers can do without, reader by reader: against rows and regressions made by loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual
from reconstruction_for_tests import BATCHES, Chain, Wide, ones, reconstruction_scores, scores_of
from references_reconstruction import IMAGES, NaiveReader, naive_readers, naive_scores
from secateur import ScoreTable, channel_groups
from secateur.records import ChannelGroup, Member

READERS: dict[str, Callable[[Any, float], list[NaiveReader]]] = {
    "first": lambda net, w: [*naive_readers(net, "second", ones(5), norm=net.second_norm, labels=w)],
    "second": lambda net, w: [*naive_readers(net, "third", ones(6), intercept=False, labels=w)],
    "third": lambda net, w: [*naive_readers(net, "head", [list(range(9 * c, 9 * c + 9)) for c in range(4)], labels=w)],
}


@pytest.mark.parametrize("labels", [0.0, 0.3, 1e3])
@pytest.mark.filterwarnings("ignore:fewer rows")
def test_a_chain_is_scored_as_by_loops(labels: float) -> None:
    """A strided, dilated convolution with batch norm, one without an intercept, a linear layer behind a flatten."""
    net = Chain()
    table = scores_of(net, labels=labels)
    assert list(table) == list(READERS)
    for name, readers in READERS.items():
        assert table[name].tolist() == pytest.approx(naive_scores(readers(net, labels)), rel=1e-3)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_each_block_of_a_grouped_convolution_is_a_reader() -> None:
    net = Grouped()
    pairs = [[c, c + 4] for c in range(4)]
    found = scores_of(net)["before"].tolist()
    by_channel = naive_scores([*naive_readers(net, "grouped", pairs)])
    assert found == pytest.approx(by_channel * 2, rel=1e-3)


def test_blocks_that_read_other_channels_of_a_group_are_readers_of_those_alone() -> None:
    """By hand, a group of four channels of which each block of the next layer sees two."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    own = ((0,), (1,), (2,), (3,))
    group = ChannelGroup("0", 4, (Member("0", "producer", own), Member("2", "consumer", own)))
    found = reconstruction_scores(net, {"0": group}, [IMAGES])["0"].tolist()
    readers = [*naive_readers(net, "2", ones(4))]
    assert readers[0].owned == [list(range(9)), list(range(9, 18)), [], []]
    assert found == pytest.approx(naive_scores(readers), rel=1e-3)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_errors_of_all_readers_of_a_stream_are_summed() -> None:
    net = Residual()
    readers = [*naive_readers(net, "first", ones(8), norm=net.body_norm), *naive_readers(net, "head", ones(8))]
    assert scores_of(net)["stem"].tolist() == pytest.approx(naive_scores(readers), rel=1e-3)


def test_a_channel_that_is_read_twice_owns_both_places() -> None:
    net = ConcatTwice()
    readers = [*naive_readers(net, "second", [[c, c + 8] for c in range(8)])]
    assert scores_of(net)["first"].tolist() == pytest.approx(naive_scores(readers), rel=1e-3)


def test_depthwise_convolutions_on_the_way_read_nothing() -> None:
    net = Depthwise()
    readers = [*naive_readers(net, "project", ones(8))]
    table = scores_of(net)
    assert table["expand"].tolist() == pytest.approx(naive_scores(readers), rel=1e-3)
    assert set(table.settings["rows"]) == {"project", "head"}


def test_a_layer_that_runs_twice_reads_what_both_calls_read() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.head(torch.relu(self.second(torch.relu(self.second(x)))))

    net, own = Twice(), tuple((c,) for c in range(4))
    group = ChannelGroup("first", 4, (Member("first", "producer", own), Member("second", "consumer", own)))
    table = reconstruction_scores(net, {"first": group}, [IMAGES])
    assert table.settings["rows"] == {"second": 2 * 12 * 36}
    assert table["first"].tolist() == pytest.approx(naive_scores([*naive_readers(net, "second", ones(4))]), rel=1e-3)


def test_a_layer_that_is_called_by_keyword_is_read() -> None:
    class ByKeyword(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](input=torch.relu(self[0](x)))

    net = ByKeyword(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    table = reconstruction_scores(net, channel_groups(net, IMAGES[:2]), [IMAGES])
    assert table["0"].tolist() == pytest.approx(naive_scores([*naive_readers(net, "1", ones(4))]), rel=1e-3)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_in_the_order_of_another_criterion_it_is_that_criterions_error_curve() -> None:
    net = Chain().eval()
    groups = channel_groups(net, IMAGES)
    other = ScoreTable(
        {"first": torch.tensor([3.0, 1.0, 5.0, 1.0, 4.0]), "third": torch.rand(4)}, settings={"criterion": "mine"}
    )
    table = reconstruction_scores(net, groups, [IMAGES], order=other)
    (reader,) = naive_readers(net, "second", ones(5), norm=net.second_norm)
    going = [1, 3, 0, 4, 2]  # of equal scores the lower index goes first
    expected = {channel: reader.error_without({*going[: place + 1]}, 1e-2) for place, channel in enumerate(going)}
    assert table["first"].tolist() == pytest.approx([expected[channel] for channel in range(5)], rel=1e-3)
    assert table["third"].argsort().tolist() == other["third"].argsort().tolist()
    assert table.settings["order"] == {"criterion": "mine", "reduction": "sum"}
    assert set(table) == {"first", "third"}
    assert table.settings["skipped"]["second"] == "the scores to order its channels by are missing"


def test_relative_errors_are_shares_of_what_the_readers_output_is_added_to() -> None:
    """Behind batch norm and, where there is a shortcut, behind the sum."""
    network = Residual().eval()
    groups = channel_groups(network, IMAGES[:2])
    absolute = reconstruction_scores(network, groups, BATCHES)
    relative = secateur.reconstruction_scores(network, groups, BATCHES)
    with torch.no_grad():
        stem = torch.relu(network.stem(IMAGES))
        added = stem + network.norm(network.second(torch.relu(network.body_norm(network.first(stem)))))
    variance = float(added.double().movedim(1, -1).flatten(0, 2).var(0, unbiased=False).sum())
    torch.testing.assert_close(relative["first"], absolute["first"] / variance)


@pytest.mark.filterwarnings("ignore:fewer rows")
@pytest.mark.parametrize("labels", [0.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
def test_readers_with_few_rows_are_scored_by_these_as_by_loops(
    monkeypatch: pytest.MonkeyPatch, *, bias: bool, labels: float
) -> None:
    net = Wide().eval()
    if not bias:
        net.wide.register_parameter("bias", None)
    owned = [list(range(36 * c, 36 * c + 36)) for c in range(4)]
    readers = [*naive_readers(net, "wide", owned, intercept=bias, labels=labels)]
    groups = channel_groups(net, IMAGES)
    order = ScoreTable({"conv": torch.tensor([2.0, 1.0, 4.0, 3.0])})
    found = scores_of(net, labels=labels)
    assert found["conv"].tolist() == pytest.approx(naive_scores(readers), rel=1e-3)
    asked = reconstruction_scores(net, groups, BATCHES, labels=labels, order=order)
    monkeypatch.setattr("secateur.scoring.readers.FEW", 1e9)  # by the products of all columns
    for name, expected in scores_of(net, labels=labels).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=0)
    expected = reconstruction_scores(net, groups, BATCHES, labels=labels, order=order)["conv"]
    torch.testing.assert_close(asked["conv"], expected, rtol=1e-7, atol=0)
