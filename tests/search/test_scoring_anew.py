"""Scores made anew within the greedy search: they decide what goes next, by hand and on a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from greedy_for_tests import Channels, Kept, groups, plan_by, table, worth
from secateur import MacsCost, channel_groups
from secateur.channel_graph import cut_scores
from secateur.errors import ConfigError, ScoreError
from secateur.evaluation import MaskedAccuracy
from secateur.records import ScoreTable
from secateur.scoring import scores_by_name
from secateur.search import greedy_plan


def a_alone(kept: Kept) -> float:
    return float("b" not in kept)


def test_new_scores_decide_what_goes_next() -> None:
    asked: list[Kept] = []

    def rescore(kept: Kept) -> ScoreTable:
        asked.append(kept)
        return table(a=[9, 9, 9, 9, 0, 9, 1, 9])

    plan = plan_by(a_alone, "85%", rescore=rescore)
    assert asked == [{"a": (1, 2, 3, 4, 5, 6, 7)}, {"a": (1, 2, 3, 5, 6, 7)}]
    assert plan.kept["a"] == (1, 2, 3, 5, 7)
    assert plan_by(a_alone, "85%", rescore=rescore, rescore_every=2).kept["a"] == (2, 3, 5, 6, 7)
    assert plan_by(a_alone, "85%").kept["a"] == (3, 4, 5, 6, 7)


def test_ties_are_those_of_the_last_cut_of_each_group() -> None:
    arguments = (groups(), table(a=[0, 0, 0, 1, 1, 1, 1, 1]), Channels())
    assert greedy_plan(*arguments, "95%", a_alone, delta=0.05, round_to=1).ties == {"a": 3}
    fresh = iter([table(a=[5, 5, 6, 7, 8, 8, 8, 8]), table()])
    plan = greedy_plan(*arguments, "85%", a_alone, delta=0.05, rescore=lambda kept: next(fresh), round_to=1)
    assert (plan.widths["a"], plan.ties) == (5, {})

    def a_once(kept: Kept) -> float:
        return float(len(kept.get("a", range(8))) == 7)

    plan = greedy_plan(*arguments, "88%", a_once, delta=0.05, rescore=lambda kept: table(), round_to=1)
    assert plan.widths == {"a": 7, "b": 7, "c": 4}
    assert plan.ties == {"a": 3}


@pytest.mark.parametrize(
    ("rescore", "words"),
    [
        (lambda kept: 1 / 0, "scoring anew after step 1 failed: ZeroDivisionError"),
        (lambda kept: ScoreTable({"a": torch.ones(8)}), "after step 1 failed: ScoreError: no scores for the group 'b'"),
        (lambda kept: ScoreTable({"a": torch.ones(3)}), "after step 1 failed: ScoreError: layer 'a' has 3 scores"),
    ],
)
def test_scoring_anew_that_fails_names_the_step(rescore: Any, words: str) -> None:
    with pytest.raises(ScoreError, match=words):
        plan_by(worth, rescore=rescore)


def test_rescore_every_must_be_a_number_of_steps() -> None:
    with pytest.raises(ConfigError, match="rescore_every is 0"):
        plan_by(worth, rescore=lambda kept: table(), rescore_every=0)


def network_and_images() -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
    )
    return net, torch.randn(40, 1, 4, 4), torch.randint(0, 5, (40,))


def test_the_greedy_search_goes_on_by_the_scores_of_the_network_as_cut_so_far() -> None:
    net, images, labels = network_and_images()
    before = [parameter.clone() for parameter in net.parameters()]
    found = channel_groups(net, images[:1])

    def score(network: nn.Module, _groups: Any = None) -> ScoreTable:
        return scores_by_name(network, [images], "l1")

    evaluate = MaskedAccuracy(net, found, [(images, labels)])
    arguments = (found, score(net), MacsCost(net, images[:1], found), "50%", evaluate)
    plan = greedy_plan(*arguments, delta=0.02, rescore=cut_scores(net, found, score), round_to=1)
    assert plan.cost_after <= plan.budget
    assert plan.settings["rescored"] == plan.settings["steps"] - 1
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
