"""The steps of the greedy search: what is proposed, how much each frees, and that nothing comes back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greedy_for_tests import DENSE, Channels, Kept, groups, plan_by, table, worth
from secateur.errors import SecateurWarning
from secateur.records import ScoreTable
from secateur.search import GreedyStep, greedy_plan


def test_a_group_whose_channels_cost_nothing_or_that_cannot_be_cut_is_never_proposed() -> None:
    seen: set[str] = set()
    plan = plan_by(lambda kept: (seen.update(kept), worth(kept))[1])
    assert seen == {"a", "b"}
    assert plan.widths["c"] == 4
    assert plan_by(worth, round_to=4).widths["c"] == 4


@pytest.mark.parametrize("delta", [5e-324, 1e-300, 1e-12])
def test_a_delta_next_to_nothing_still_frees_something_in_each_step(delta: float) -> None:
    class Tiny(Channels):
        def __call__(self, widths: Mapping[str, int]) -> float:
            return 1e-3 * super().__call__(widths)

    steps: list[GreedyStep] = []
    greedy_plan(groups(), table(), Tiny(), "60%", worth, delta=delta, on_step=steps.append, round_to=1)
    costs = [Tiny()({}), *(step.cost for step in steps)]
    assert all(after < before for before, after in itertools.pairwise(costs))
    assert "c" not in {step.group for step in steps}


def test_a_delta_that_no_group_can_free_is_halved_and_told_once() -> None:
    with pytest.warns(SecateurWarning, match=r"delta=0.6 of the dense cost takes at least 50% of the channels") as w:
        plan = plan_by(worth, "30%", delta=0.6)
    assert len(w) == 1
    assert plan.widths == {"a": 2, "b": 2, "c": 4}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("delta", "round_to"), [(0.2, 1), (0.2, 4)])
def test_a_delta_is_not_told_of_where_it_takes_less_than_half_or_no_smaller_step_is_allowed(
    delta: float, round_to: int
) -> None:
    plan_by(worth, delta=delta, round_to=round_to)


@given(st.data())
@settings(max_examples=40)
def test_what_a_step_removes_never_comes_back(data: st.DataObject) -> None:
    """Also where scores are made anew after steps: each time others."""
    random = st.lists(st.integers(0, 5), min_size=8, max_size=8)
    every = data.draw(st.integers(1, 3))
    round_to = data.draw(st.sampled_from([1, 2]))
    told: list[Kept] = []

    def rescore(kept: Kept) -> ScoreTable:
        told.append(kept)
        return table(a=data.draw(random), b=data.draw(random))

    asked: dict[int, list[Kept]] = {}
    steps: list[GreedyStep] = []

    def evaluate(kept: Kept) -> float:
        asked.setdefault(len(steps) + 1, []).append(kept)
        return float(len(repr(kept)) % 5)

    variant = data.draw(st.sampled_from(["low", "reverse", "edge", "middle", "random"]))
    plan = plan_by(
        evaluate,
        "30%",
        delta=0.03,
        round_to=round_to,
        variant=variant,
        rescore=rescore,
        rescore_every=every,
        on_step=steps.append,
    )
    accepted: Kept = {}
    for step in steps:
        for kept in asked[step.step]:
            assert all(set(kept[name]) <= set(accepted[name]) for name in accepted)
        accepted = next(k for k in asked[step.step] if len(k.get(step.group, ())) == step.width)
        assert len(accepted[step.group]) == step.width >= round_to
    assert {name: channels for name, channels in plan.kept.items() if len(channels) < DENSE[name]} == accepted
    assert len(told) == plan.settings["rescored"] == (len(steps) - 1) // every
    assert plan.settings["rescore_every"] == every
