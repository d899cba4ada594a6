"""What the rooms exchange: JSON there and back, and nothing believed unchecked."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import PlanError, ScoreError
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable, Spent

OWN = ((0,), (1,), (2,))


def group(**changes: Any) -> ChannelGroup:
    members = (
        Member("conv", "producer", OWN),
        Member("norm", "carrier", OWN),
        Member("gain", "carrier", OWN, axis=1),
        Member("head", "consumer", ((0, 1), (2, 3), (4, 5))),
    )
    return ChannelGroup(**{"name": "conv", "width": 3, "members": members} | changes)


def plan(**changes: Any) -> PruningPlan:
    return PruningPlan(
        **{
            "groups": (group(),),
            "kept": {"conv": (0, 2)},
            "cost": "macs",
            "cost_before": 30.0,
            "cost_after": 20.0,
            "budget": 21.0,
            "ties": {"conv": 2},
            "settings": {"search": "uniform"},
        }
        | changes
    )


@given(st.integers(1, 6), st.integers(0, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 30), st.booleans())
def test_index_maps_survive_json(width: int, start: int, inner: int, count: int, gap: int, shuffled: bool) -> None:
    stride = gap + inner * count
    indices = [[start + stride * c + inner * k for k in range(count)] for c in range(width)]
    if shuffled:
        indices = indices[::-1]
    member = Member("layer", "consumer", tuple(map(tuple, indices)))
    assert Member.from_json(json.loads(json.dumps(member.to_json())), width) == member


def test_channels_without_positions_survive_json() -> None:
    for indices in (((), (0,), (1,)), ((0,), (), (1,)), ((3,), (1,), ())):
        member = Member("layer", "producer", indices)
        assert Member.from_json(json.loads(json.dumps(member.to_json())), 3) == member


@pytest.mark.parametrize(
    "indices",
    [[[0], [0], [1]], [[0], [-1], [2]], [[0], [1]], [[], [], []], {"start": 0, "stride": 0, "count": 1, "step": 1}],
)
def test_impossible_index_maps_are_refused(indices: Any) -> None:
    with pytest.raises(PlanError, match="their own positions"):
        Member.from_json({"layer": "a", "role": "producer", "indices": indices}, 3)


def test_plans_survive_json_and_keep_their_fingerprint() -> None:
    again = PruningPlan.from_json(json.loads(json.dumps(plan().to_json())))
    assert again == plan()
    assert again.fingerprint == plan().fingerprint
    assert again.fingerprint != plan(kept={"conv": (0, 1)}).fingerprint
    assert again.fingerprint == plan(settings={"search": "greedy"}).fingerprint


def test_plans_tell_what_is_spent_of_each_budget() -> None:
    both = plan(further={"parameters": Spent(9.0, 5.0, 6.5)})
    assert both.spent == {"macs": Spent(30.0, 20.0, 21.0), "parameters": Spent(9.0, 5.0, 6.5)}
    assert PruningPlan.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert both.fingerprint == plan().fingerprint
    assert "further" not in plan().to_json(), "plans with one budget are written as ever, and read"
    assert plan().spent == {"macs": Spent(30.0, 20.0, 21.0)}
    with pytest.raises(PlanError, match="two budgets for the cost 'macs'"):
        plan(further={"macs": Spent(9.0, 5.0, 6.5)})


def test_plans_know_what_goes_and_what_stays() -> None:
    assert plan()["conv"] == (0, 2)
    assert plan().removed("conv") == (1,)
    assert plan(kept={})["conv"] == (0, 1, 2)
    assert plan().widths == {"conv": 2}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"other": (0,)}, "not one of its groups"),
        ({"conv": ()}, "at least one must stay"),
        ({"conv": (2, 0)}, "ascending"),
        ({"conv": (1, 1)}, "ascending"),
        ({"conv": (0, 3)}, r"0\.\.2; found 0\.\.3"),
        ({"conv": (-1, 0)}, r"found -1"),
    ],
)
def test_impossible_plans_are_refused(kept: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(kept=kept)


@pytest.mark.parametrize(
    "damage",
    [{"format": 2}, {"groups": None}, {"kept": [1]}, {"cost": {}}, {"ties": {"a": "b"}}, {"further": {"b": {}}}],
)
def test_damaged_plans_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        PruningPlan.from_json(plan().to_json() | damage)


@pytest.mark.parametrize("channels", [[0.0, 2.0], [0, 1.5], "02", {"0": 2}, [False, True], [float("inf")]])
def test_channels_written_by_hand_must_be_whole_numbers(channels: Any) -> None:
    with pytest.raises(PlanError, match="stands where a whole number should"):
        PruningPlan.from_json(plan().to_json() | {"kept": {"conv": channels}})


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1, True, "30", 10**400])
def test_costs_written_by_hand_must_be_finite(amount: Any) -> None:
    data = plan(further={"bytes": Spent(9.0, 5.0, 6.5)}).to_json()
    for cost in (data["cost"], data["further"]["bytes"]):
        for key in ("before", "after", "budget"):
            kept, cost[key] = cost[key], amount
            with pytest.raises(PlanError, match="stands where a cost should"):
                PruningPlan.from_json(data)
            cost[key] = kept
    assert PruningPlan.from_json(data)


def test_groups_written_by_hand_must_have_names_and_makers_of_their_own() -> None:
    with pytest.raises(PlanError, match="two groups of one name"):
        plan(groups=(group(), group()))
    for members in ((), group().members[1:]):
        with pytest.raises(PlanError, match="no layer produces the channels of the group 'conv'"):
            PruningPlan.from_json(plan(groups=(group(members=members),)).to_json())


@pytest.mark.parametrize(("width", "count"), [(3, 10**9), (10**9, 1)])
def test_an_index_map_that_would_fill_the_memory_is_refused(width: int, count: int) -> None:
    indices = {"start": 0, "stride": 1, "count": count, "step": 1}
    with pytest.raises(PlanError, match="no layer has so many"):
        Member.from_json({"layer": "a", "role": "producer", "indices": indices}, width)


@pytest.mark.parametrize("count", [0, -1, -(10**9)])
def test_an_index_map_must_give_channels_positions(count: int) -> None:
    indices = {"start": 0, "stride": 1, "count": count, "step": 1}
    with pytest.raises(PlanError, match=f"gives channels {count} positions each"):
        Member.from_json({"layer": "a", "role": "producer", "indices": indices}, 3)


@pytest.mark.parametrize("width", [0, -3, 10**9, 10**30])
@pytest.mark.parametrize("count", [1, 0])
def test_a_width_that_no_group_has_is_refused_before_it_is_written_out(width: int, count: int) -> None:
    indices = {"start": 0, "stride": 1, "count": count, "step": 1}
    data = {"name": "a", "width": width, "members": [{"layer": "a", "role": "producer", "indices": indices}]}
    with pytest.raises(PlanError, match="stands where a width should"):
        ChannelGroup.from_json(data)
    with pytest.raises(PlanError, match="stands where a width should"):
        PruningPlan.from_json(plan().to_json() | {"groups": [data], "kept": {}, "ties": {}})


def test_layers_that_would_fill_the_memory_together_are_refused() -> None:
    indices = {"start": 0, "stride": 1, "count": 2**20, "step": 1}
    members = [{"layer": f"layer{idx}", "role": "producer", "indices": indices} for idx in range(9)]
    groups = [{"name": f"group{idx}", "width": 1, "members": members} for idx in range(2)]
    with pytest.raises(PlanError, match=f"have {18 * 2**20} positions; no network has so many"):
        PruningPlan.from_json(plan().to_json() | {"groups": groups, "kept": {}, "ties": {}})


def test_group_scores_are_summed_over_producers() -> None:
    members = (Member("a", "producer", OWN), Member("b", "producer", OWN), Member("n", "carrier", OWN))
    both = group(members=members)
    scores = ScoreTable({"a": torch.tensor([1.0, 2, 3]), "b": torch.tensor([10.0, 20, 60]), "n": torch.ones(3)})
    assert both.combine(scores).tolist() == [11, 22, 63]
    assert both.combine(scores, reduction="mean").tolist() == [5.5, 11, 31.5]
    assert both.combine(scores, reduction="max").tolist() == [10, 20, 60]


def test_group_scores_average_the_positions_of_a_channel() -> None:
    grouped = ChannelGroup("a", 2, (Member("a", "producer", ((0, 2), (1, 3))), Member("b", "producer", ((), (0,)))))
    scores = {"a": torch.tensor([1.0, 2, 5, 8]), "b": torch.tensor([100.0])}
    for reduction, expected in (("sum", [3, 105]), ("mean", [3, 52.5]), ("max", [3, 100])):
        assert grouped.combine(scores, reduction=reduction).tolist() == expected  # type: ignore[arg-type]  # a name that is one of the allowed


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ScoreError, match="needs those of one of: conv"):
        group().combine({"norm": torch.ones(3)})
    with pytest.raises(ScoreError, match="'conv' has 2 scores but its channel 2"):
        group().combine({"conv": torch.ones(2)})
    with pytest.raises(ScoreError, match=r"'a' must be a finite vector.*1 of them"):
        ScoreTable({"a": torch.tensor([1.0, torch.nan])})
    with pytest.raises(ScoreError, match="finite vector"):
        ScoreTable({"a": torch.ones(2, 2)})


def test_score_tables_survive_json_exactly() -> None:
    table = ScoreTable({"a": torch.rand(5, dtype=torch.float64)}, settings={"criterion": "di", "rho": 0.1})
    again = ScoreTable.from_json(json.loads(json.dumps(table.to_json())))
    assert torch.equal(again["a"], table["a"])
    assert dict(again.settings) == {"criterion": "di", "rho": 0.1}
    assert (list(again), len(again)) == (["a"], 1)
    with pytest.raises(ScoreError, match="not a score table"):
        ScoreTable.from_json({"scores": {"a": "x"}})


def test_scores_stay_when_the_tensor_that_they_came_from_changes() -> None:
    values = torch.ones(3, dtype=torch.float64)
    table = ScoreTable({"a": values})
    values.zero_()
    assert table["a"].tolist() == [1.0, 1.0, 1.0]


def pickled(record: Any) -> Any:
    return pickle.loads(pickle.dumps(record))  # noqa: S301  # bytes of our own


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_records_can_be_copied_and_pickled(copied: Callable[[Any], Any]) -> None:
    table = ScoreTable({"a": torch.rand(5)}, settings={"criterion": "di", "options": {"rho": 0.1}})
    again = copied(table)
    assert torch.equal(again["a"], table["a"])
    assert again.settings == table.settings
    assert again.settings["options"] is not table.settings["options"]
    groups = ChannelGroups([group()], skipped={"head": "output"})
    assert dict(copied(groups)) == dict(groups)
    assert copied(groups).skipped == groups.skipped


def test_channel_groups_are_a_mapping() -> None:
    groups = ChannelGroups([group()], skipped={"head": "output"})
    assert list(groups) == ["conv"]
    assert groups["conv"].producers[0].layer == "conv"
    assert groups.skipped == {"head": "output"}
