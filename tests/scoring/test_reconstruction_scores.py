"""Scores by what the next layers can do without, over networks: against rows and regressions made by loops."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual, randomise_batch_norm
from references_reconstruction import IMAGES, LABELS, NaiveReader, naive_readers, naive_scores
from secateur import MacsCost, ScoreTable, channel_groups, uniform_plan
from secateur.errors import ConfigError, DataError, NetworkError, SecateurWarning
from secateur.fingerprints import structure_of
from secateur.records import ChannelGroup, Member

# the naive twins below count errors in the reader's own unit
reconstruction_scores = partial(secateur.reconstruction_scores, relative=False)
BATCHES = [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]


class Chain(nn.Module):
    """Two convolutions with batch norm, one without, and a linear layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(6, 4, 1, bias=False)
        self.head = nn.Linear(4 * 9, 3)
        randomise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(self.second_norm(self.second(x)))
        return self.head(torch.relu(self.third(x)).flatten(1))


def ones(width: int) -> list[list[int]]:
    return [[c] for c in range(width)]


def scores_of(network: nn.Module, batches: Any = BATCHES, **options: Any) -> ScoreTable:
    return reconstruction_scores(network, channel_groups(network, IMAGES), batches, **options)


# --- the formula ------------------------------------------------------------------------------------------------------

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


# --- what must hold ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_the_split_into_batches_changes_nothing() -> None:
    net = Chain()
    whole, single = scores_of(net, [IMAGES]), scores_of(net, [image[None] for image in IMAGES])
    for name in whole:
        torch.testing.assert_close(whole[name], single[name], rtol=1e-4, atol=1e-8)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_little_memory_takes_more_passes_and_changes_nothing() -> None:
    net = Chain()
    passes: list[int] = []
    net.register_forward_hook(lambda *_: passes.append(1))
    groups = channel_groups(net, IMAGES)
    passes.clear()
    whole = reconstruction_scores(net, groups, [IMAGES])
    at_once = len(passes)
    need = IMAGES.nbytes + 5 * 8 * 36 * (36 + 3)  # the head's equations, which are the largest
    little = reconstruction_scores(net, groups, iter([IMAGES]), memory=need)
    assert len(passes) - at_once > at_once
    for name in whole:
        assert torch.equal(whole[name], little[name])


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_readers_too_large_for_the_memory_are_named_with_what_they_need() -> None:
    net = Chain()
    table = scores_of(net, [IMAGES], memory=IMAGES.nbytes + 5 * 8 * 36 * (36 + 3) - 1)
    assert list(table) == ["first", "second"]
    assert list(table.settings["skipped"]) == ["third"]
    assert "by what head reads needs 0 MiB" in table.settings["skipped"]["third"]
    assert "allow more memory, or score it by another criterion" in table.settings["skipped"]["third"]
    groups = channel_groups(net, IMAGES)
    large = {name: groups[name] for name in ("first", "third")}
    with pytest.raises(NetworkError, match=r"no group can be scored: first: .*third: ranking"):
        reconstruction_scores(net, large, [IMAGES], memory=2 * IMAGES.nbytes)
    with pytest.raises(DataError, match=r"12 images .* half of the memory allowed"):
        scores_of(net, [IMAGES], memory=2 * IMAGES.nbytes - 1)


def test_rows_are_drawn_where_there_are_more() -> None:
    net = Grouped()
    table = scores_of(net, rows=36)
    assert table.settings["rows"] == {"grouped": 36, "after": 36, "head": 12}
    again = scores_of(net, rows=36)
    assert all(torch.equal(table[name], again[name]) for name in table)
    with pytest.warns(SecateurWarning, match=r"fewer rows than unknowns, .*grouped \(18 for 36\)"):
        scores_of(net, rows=18)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_outputs_that_batch_norm_silences_do_not_count() -> None:
    net = Chain()
    with torch.no_grad():
        net.second_norm.weight[1:] = 0
        net.second.weight[0, [1, 3]] = 0
    scores = scores_of(net, ridge=1e-8)["first"]
    assert set(scores.argsort()[:2].tolist()) == {1, 3}
    assert float(scores.sort().values[1]) < 1e-5 * float(scores.max())


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_dead_channels_score_lowest() -> None:
    net = Chain()
    with torch.no_grad():
        net.first_norm.weight[[0, 4]] = 0
        net.first_norm.bias[[0, 4]] = -1
    scores = scores_of(net)["first"]
    assert scores.argsort(stable=True)[:2].tolist() == [0, 4]
    assert float(scores[0]) == pytest.approx(float(scores[4]))


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_the_network_is_left_as_it_was() -> None:
    net = Chain().train()
    net.first_norm.eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    scores_of(net)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_settings_tell_how_the_scores_were_made() -> None:
    net = Chain()
    table = scores_of(net, samples=9, ridge=0.1, labels=0.5)
    assert {name: table.settings[name] for name in ("criterion", "samples", "skipped", "unread", "structure")} == {
        "criterion": "reconstruction",
        "samples": 9,
        "skipped": {},
        "unread": {},
        "structure": structure_of(net),
    }
    assert table.settings["options"]["labels"] == 0.5
    assert table.settings["rows"] == {"second": 9 * 9, "third": 9 * 9, "head": 9}
    again = ScoreTable.from_json(json.loads(json.dumps(table.to_json())))
    assert all(torch.equal(table[name], again[name]) for name in table)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_searches_take_the_scores_as_they_are() -> None:
    for net in (Chain(), Residual(), Grouped(), Depthwise(), ConcatTwice()):
        groups = channel_groups(net, IMAGES)
        table = reconstruction_scores(net, groups, BATCHES)
        plan = uniform_plan(groups, table, MacsCost(net, IMAGES[:1], groups), "70%", round_to=1)
        for name, group in groups.items():
            scores = group.combine(table)
            assert sorted(scores.argsort(stable=True)[-len(plan[name]) :].tolist()) == list(plan[name])


# --- bad input --------------------------------------------------------------------------------------------------------


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


def test_a_network_in_half_precision_is_solved_in_float64() -> None:
    net = Grouped()
    groups = channel_groups(net, IMAGES)
    expected = reconstruction_scores(net, groups, [IMAGES])
    found = reconstruction_scores(net.bfloat16(), groups, [IMAGES.bfloat16()])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0.1, atol=1e-3)


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


class Wide(nn.Sequential):
    """A linear layer of 144 inputs behind a flatten, of which twelve images tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.flatten = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()
        self.wide, self.end, self.head = nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3)


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


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_few_rows_need_little_memory_and_a_tiny_ridge_goes_by_products() -> None:
    net = Wide().eval()
    by_products, by_rows = 8 * 144 * (144 + 20), 2 * 8 * 12 * (144 + 20)
    room = IMAGES.nbytes + 5 * by_rows
    assert room < by_products
    assert "conv" in scores_of(net, memory=room)
    assert "conv" in scores_of(net, memory=room - 1).settings["skipped"]
    assert "conv" in scores_of(net, memory=room, ridge=1e-6).settings["skipped"]
