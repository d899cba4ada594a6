"""Scores by what the next layers can do without: what changes nothing in them, their memory, and their record."""

from __future__ import annotations

import json

import pytest
import torch

from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual
from reconstruction_for_tests import BATCHES, Chain, Wide, reconstruction_scores, scores_of
from references_reconstruction import IMAGES
from secateur import MacsCost, ScoreTable, channel_groups, uniform_plan
from secateur.errors import DataError, NetworkError, SecateurWarning
from secateur.fingerprints import structure_of


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


def test_a_network_in_half_precision_is_solved_in_float64() -> None:
    net = Grouped()
    groups = channel_groups(net, IMAGES)
    expected = reconstruction_scores(net, groups, [IMAGES])
    found = reconstruction_scores(net.bfloat16(), groups, [IMAGES.bfloat16()])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0.1, atol=1e-3)


@pytest.mark.filterwarnings("ignore:fewer rows")
def test_few_rows_need_little_memory_and_a_tiny_ridge_goes_by_products() -> None:
    net = Wide().eval()
    by_products, by_rows = 8 * 144 * (144 + 20), 2 * 8 * 12 * (144 + 20)
    room = IMAGES.nbytes + 5 * by_rows
    assert room < by_products
    assert "conv" in scores_of(net, memory=room)
    assert "conv" in scores_of(net, memory=room - 1).settings["skipped"]
    assert "conv" in scores_of(net, memory=room, ridge=1e-6).settings["skipped"]
