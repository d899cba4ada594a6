"""Structure distillation: the shares of a shallow plan in a deep network, beside a twin that tries every factor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from networks_for_tests import Depthwise, Residual, torchvision_network
from secateur.channel_graph import channel_groups
from secateur.cost import MacsCost
from secateur.errors import BudgetError, NetworkError, PlanError
from secateur.networks.cifar_resnet import CifarResNet
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable
from secateur.search import Stage, distilled_plan, stages_of, uniform_plan

INNER, STREAM = "inner", "stream"


class Channels:
    """So much for each channel of each group."""

    name, unit = "channels", "channels"

    def __init__(self, dense: Mapping[str, int], prices: Mapping[str, int] | None = None) -> None:
        self.dense, self.prices = dense, prices or {}

    def __call__(self, widths: Mapping[str, int]) -> float:
        return float(sum(self.prices.get(n, 1) * widths.get(n, dense) for n, dense in self.dense.items()))


def group_of(name: str, width: int, writers: int = 1) -> ChannelGroup:
    own = tuple((c,) for c in range(width))
    return ChannelGroup(name, width, tuple(Member(f"{name}{'+' * k}", "producer", own) for k in range(writers)))


def plan_of(groups: list[ChannelGroup], widths: Mapping[str, int]) -> PruningPlan:
    return PruningPlan(tuple(groups), {n: tuple(range(w)) for n, w in widths.items()}, "macs", 2.0, 1.0, 1.0)


def scores_of(groups: Mapping[str, ChannelGroup]) -> ScoreTable:
    return ScoreTable({name: torch.arange(float(group.width)) for name, group in groups.items()})


def shares_by_hand(
    teacher: list[tuple[int, str, int, int, int]], wanted: list[tuple[int, str]]
) -> dict[tuple[int, str], Fraction]:
    """Shares from rows of (stage, role, width, kept, layers that write the group)."""
    shares = {}
    for stage, role in wanted:
        alike = [row for row in teacher if row[:2] == (stage, role)] or [row for row in teacher if row[0] == stage]
        total = sum(Fraction(width - kept, width) * layers for _, _, width, kept, layers in alike)
        shares[stage, role] = total / sum(layers for *_, layers in alike)
    return shares


def least_factor_by_trying(
    rows: list[tuple[int, str, int, int]], shares: dict[tuple[int, str], Fraction], largest: float, allowed: Any
) -> list[int] | None:
    """Widths for rows of (stage, role, width, price): factors are tried from below, in exact fractions."""
    factors = {Fraction(0)}
    for stage, role, width, _ in rows:
        if shares[stage, role]:
            factors |= {Fraction(removed, width) / shares[stage, role] for removed in range(width + 1)}
    for factor in sorted(factors):
        widths = []
        for stage, role, width, _ in rows:
            rate = min(Fraction(1), factor * shares[stage, role])
            keep = width - (rate * width).__floor__()
            widths.append(min(w for w in allowed(width) if w >= keep))
        if sum(price * width for (*_, price), width in zip(rows, widths, strict=True)) <= largest:
            return widths
    return None


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[tuple[int, str, int, int, int]], list[tuple[int, str, int, int]]]:
    stages = range(1, 1 + draw(st.integers(1, 3)))
    teacher, deep = [], []
    for stage in stages:
        for role in draw(st.sampled_from([[INNER], [STREAM], [INNER, STREAM], [INNER, INNER, STREAM]])):
            width = draw(st.integers(1, 8))
            teacher.append((stage, role, width, draw(st.integers(1, width)), draw(st.integers(1, 3))))
        for role in draw(st.sampled_from([[INNER, INNER], [INNER, STREAM]])):
            deep.append((stage, role, draw(st.integers(1, 12)), draw(st.integers(1, 4))))
    return teacher, deep


@given(cases(), st.floats(0.05, 0.99), st.sampled_from([(1, 1), (4, 1), (2, 3)]))
@settings(max_examples=200)
def test_widths_are_those_of_the_least_factor_that_meets_the_budget(
    case: tuple[list[Any], list[Any]], share: float, rules: tuple[int, int]
) -> None:
    (shallow, deep), (round_to, min_keep) = case, rules
    assume(any(kept < width for _, _, width, kept, _ in shallow))
    teacher_groups = [group_of(f"t{i}", width, writers) for i, (_, _, width, _, writers) in enumerate(shallow)]
    teacher = plan_of(teacher_groups, {f"t{i}": row[3] for i, row in enumerate(shallow)})
    groups = {f"g{i}": group_of(f"g{i}", width) for i, (_, _, width, _) in enumerate(deep)}
    cost = Channels({n: g.width for n, g in groups.items()}, {f"g{i}": row[3] for i, row in enumerate(deep)})
    largest = share * cost({})
    assume(largest > 0.01 * cost({}))

    def allowed(width: int) -> list[int]:
        return [w for w in range(1, width + 1) if w == width or (w % round_to == 0 and w >= min_keep)]

    shares = shares_by_hand(shallow, [row[:2] for row in deep])
    expected = least_factor_by_trying(deep, shares, largest, allowed)

    def distil() -> PruningPlan:
        return distilled_plan(
            groups,
            scores_of(groups),
            cost,
            largest,
            teacher=teacher,
            stages={f"g{i}": Stage(row[0], row[1]) for i, row in enumerate(deep)},
            teacher_stages={f"t{i}": Stage(row[0], row[1]) for i, row in enumerate(shallow)},
            round_to=round_to,
            min_keep=min_keep,
        )

    if expected is None:
        with pytest.raises(BudgetError, match="the lowest cost that can be reached"):
            distil()
        return
    plan = distil()
    assert list(plan.widths.values()) == expected
    assert plan.cost_after <= largest == plan.budget
    assert plan.settings["ratios"] == pytest.approx({f"{s} {r}": float(x) for (s, r), x in shares.items()})
    assert all(plan[n] == tuple(range(groups[n].width - w, groups[n].width)) for n, w in plan.widths.items())
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_role_that_the_teacher_does_not_have_gets_the_mean_of_its_stage() -> None:
    """Layers count, not groups: a stream of three layers that loses half, and one inner layer that loses nothing."""
    teacher_groups = [group_of("s", 4, writers=3), group_of("i", 4), group_of("x", 4)]
    stages = {"s": Stage(1, STREAM), "i": Stage(1, INNER), "x": Stage(2, INNER)}
    teacher = plan_of(teacher_groups, {"s": 2, "i": 4, "x": 3})
    groups = {"a": group_of("a", 16), "b": group_of("b", 16), "c": group_of("c", 16)}
    deep = {"a": Stage(1, STREAM), "b": Stage(2, STREAM), "c": Stage(1, INNER)}
    plan = distilled_plan(
        groups,
        scores_of(groups),
        Channels(dict.fromkeys("abc", 16)),
        "75%",
        round_to=1,
        **_stages(teacher, deep, stages),
    )
    assert plan.settings["ratios"] == {"1 inner": 0.0, "1 stream": 0.5, "2 stream": 0.25}
    assert plan.widths == {"a": 8, "b": 12, "c": 16}
    assert plan.settings["factor"] == 1.0
    del stages["i"], deep["b"]
    fewer = plan_of([teacher_groups[0]], {"s": 2})
    alone = {"a": groups["a"], "c": groups["c"]}
    plan = distilled_plan(
        alone, scores_of(alone), Channels(dict.fromkeys("ac", 16)), "50%", round_to=1, **_stages(fewer, deep, stages)
    )
    assert plan.widths == {"a": 8, "c": 8}


def _stages(teacher: PruningPlan, deep: Mapping[str, Stage], shallow: Mapping[str, Stage]) -> dict[str, Any]:
    return {"teacher": teacher, "stages": deep, "teacher_stages": shallow}


# --- stages of real networks ------------------------------------------------------------------------------------------


def prepared(net: nn.Module, size: int) -> tuple[ChannelGroups, MacsCost, dict[str, Stage]]:
    images = torch.zeros(1, 3, size, size)
    groups = channel_groups(net, images, check=False)
    cost = MacsCost(net, images, groups)
    return groups, cost, stages_of(groups, cost.layers)


@pytest.mark.parametrize(("shallow", "deep"), [(20, 32), (56, 164)])
def test_cifar_resnets(shallow: int, deep: int) -> None:
    teacher_groups, teacher_cost, teacher_stages = prepared(CifarResNet(shallow), 32)
    groups, cost, stages = prepared(CifarResNet(deep), 32)
    assert (
        set(stages.values())
        == set(teacher_stages.values())
        == {Stage(n, r) for n in (1, 2, 3) for r in (INNER, STREAM)}
    )
    for name, stage in stages.items():
        block = "layer1" if name == "conv1" else name.split(".")[0]
        role = STREAM if name == "conv1" or name.endswith("conv2") else INNER
        assert stage == Stage(int(block[-1]), role)
    kept = {n: g.width * (3 if teacher_stages[n].role == STREAM else 2) // 4 for n, g in teacher_groups.items()}
    teacher = PruningPlan(
        tuple(teacher_groups.values()), {n: tuple(range(w)) for n, w in kept.items()}, "macs", 2.0, 1.0, 1.0
    )
    assert teacher_cost(teacher.widths) < teacher_cost({})
    plan = distilled_plan(
        groups, scores_of(groups), cost, "50%", round_to=1, **_stages(teacher, stages, teacher_stages)
    )
    assert plan.settings["ratios"] == {
        f"{n} {r}": {INNER: 0.5, STREAM: 0.25}[r] for n in (1, 2, 3) for r in (INNER, STREAM)
    }
    assert 0.97 * plan.budget < plan.cost_after <= plan.budget
    shares = {
        role: {1 - plan.widths[n] / groups[n].width for n in groups if stages[n].role == role}
        for role in (INNER, STREAM)
    }
    assert max(shares[INNER]) == pytest.approx(2 * max(shares[STREAM]), abs=0.1)


def test_basic_blocks_to_bottlenecks() -> None:
    """conv1 of a basic block stands for conv1 and conv2 of a bottleneck, the stream for the stream."""
    teacher_groups, teacher_cost, teacher_stages = prepared(torchvision_network("resnet18"), 64)
    groups, cost, stages = prepared(torchvision_network("resnet50"), 64)
    assert {n: str(s) for n, s in teacher_stages.items() if n in ("conv1", "layer1.0.conv1", "layer3.1.conv1")} == {
        "conv1": "1 stream",
        "layer1.0.conv1": "1 inner",
        "layer3.1.conv1": "3 inner",
    }
    for name, stage in stages.items():
        expected = 1 if name == "conv1" else int(name[5])
        inner = name == "conv1" or name.endswith((".conv1", ".conv2"))
        assert stage == Stage(expected, INNER if inner else STREAM), name
    teacher = uniform_plan(teacher_groups, scores_of(teacher_groups), teacher_cost, "60%", round_to=1)
    plan = distilled_plan(
        groups, scores_of(groups), cost, "60%", round_to=1, **_stages(teacher, stages, teacher_stages)
    )
    assert 0.97 * plan.budget < plan.cost_after <= plan.budget
    assert plan.settings["teacher"] == teacher.fingerprint
    assert len({round(plan.widths[n] / groups[n].width, 1) for n in groups}) == 1  # uniform stays uniform


def test_what_only_hands_channels_on_writes_no_stream() -> None:
    net, images = Depthwise(), torch.zeros(1, 3, 8, 8)
    groups = channel_groups(net, images)
    layers = MacsCost(net, images, groups).layers
    assert stages_of(groups, layers)["expand"].role == INNER
    net = Residual()
    masked = channel_groups(net, images, residual="mask")
    stages = stages_of(masked, MacsCost(net, images, masked).layers)
    assert {name: stage.role for name, stage in stages.items()} == {"stem": STREAM, "first": INNER, "second": STREAM}
    with pytest.raises(NetworkError, match="write the group 'expand' has run"):
        stages_of(groups, {})


# --- bad input --------------------------------------------------------------------------------------------------------


def small() -> tuple[dict[str, ChannelGroup], Channels, PruningPlan, dict[str, Stage]]:
    groups = {name: group_of(name, 8) for name in "ab"}
    stages = {"a": Stage(1, INNER), "b": Stage(2, INNER)}
    return groups, Channels(dict.fromkeys("ab", 8)), plan_of([*groups.values()], {"a": 4}), stages


def test_stages_that_do_not_match_are_refused() -> None:
    groups, cost, teacher, stages = small()

    def distil(teacher: PruningPlan, deep: Mapping[str, Stage], shallow: Mapping[str, Stage]) -> PruningPlan:
        return distilled_plan(groups, scores_of(groups), cost, "75%", round_to=1, **_stages(teacher, deep, shallow))

    assert distil(teacher, stages, stages).widths == {"a": 4, "b": 8}
    for deep, shallow in (({**stages, "b": Stage(3, INNER)}, stages), (dict.fromkeys("ab", Stage(1, INNER)), stages)):
        with pytest.raises(PlanError, match=r"the network has the stages \[1.*\], the teacher \[1, 2\]; they must be"):
            distil(teacher, deep, shallow)
    with pytest.raises(PlanError, match="no stage is given for b; each group of the network needs one"):
        distil(teacher, {"a": stages["a"]}, stages)
    with pytest.raises(PlanError, match="no stage is given for b; each group of the teacher needs one"):
        distil(teacher, stages, {"a": stages["a"]})
    with pytest.raises(PlanError, match="the teacher removes no channel: there is no structure to distil"):
        distil(plan_of([*groups.values()], {"a": 8}), stages, stages)


def test_a_budget_that_the_teachers_stages_cannot_meet_is_refused() -> None:
    groups, cost, teacher, stages = small()
    with pytest.raises(BudgetError, match=r"is 9 channels .* with the teacher's ratios, min_keep=1"):
        distilled_plan(groups, scores_of(groups), cost, "50%", round_to=1, **_stages(teacher, stages, stages))
