"""The way to a latency: plans are timed by a truth that the table does not know, until the budget is met."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import curve_plan, uniform_plan
from secateur.cost import MacsCost, TermCost
from secateur.cost.terms import Count, Term
from secateur.errors import BudgetError, ConfigError, DataError, SecateurWarning
from secateur.journal import Journal
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable
from secateur_onnx import LatencyCost, WholeRun, WholeRuns, latency_cost, latency_search
from secateur_onnx.latency import whole_runs
from secateur_onnx.latency.layer_tables import Remembered

IMAGES = torch.zeros(2, 1, 8, 8)
Truth = Callable[[float], float]
TRUTHS: dict[str, Truth] = {
    "as the table says": lambda share: share,
    "much lies outside the layers": lambda share: 0.35 + 0.65 * share,
    "faster than the table says": lambda share: max(0.02, 1 - 1.3 * (1 - share)),
    "bent": lambda share: share**1.7,
    "bent the other way": lambda share: share**0.6,
}


@pytest.fixture(scope="module")
def cost(digits: nn.Module, groups: ChannelGroups) -> LatencyCost:
    return latency_cost(
        digits, IMAGES, groups, round_to=1, time=lambda _, pairs: [0.05 + 0.001 * i * o for i, o in pairs]
    )


@pytest.fixture(scope="module")
def scores(groups: ChannelGroups) -> ScoreTable:
    random = torch.Generator().manual_seed(0)
    return ScoreTable({n: torch.rand(g.width, generator=random, dtype=torch.float64) for n, g in groups.items()})


class Runs:
    """Whole networks as a truth has it, and how many were timed."""

    def __init__(self, cost: LatencyCost, truth: Truth) -> None:
        self.layers, self.truth, self.timed = cost.share, truth, 0

    def __call__(self, plan: PruningPlan | None) -> WholeRun:
        self.timed += plan is not None
        share = 1.0 if plan is None else self.truth(self.layers(plan.widths))
        return WholeRun(share, 0.99 * share, 1.01 * share, 4.0)


@pytest.mark.parametrize(("search", "name"), [*(("uniform", name) for name in TRUTHS), ("curves", "bent")])
def test_the_budget_is_met_from_below_whatever_the_truth(
    groups: ChannelGroups, scores: ScoreTable, cost: LatencyCost, name: str, search: str
) -> None:
    find, round_to = {"uniform": (uniform_plan, 1), "curves": (curve_plan, 4)}[search]
    runs = Runs(cost, TRUTHS[name])
    found = latency_search(lambda c: find(groups, scores, c, "60%", round_to=round_to), cost, "60%", runs)
    last = found.rounds[found.chosen]
    assert found.met
    assert 0.95 * 0.6 <= last.measured.share <= 0.6
    assert runs.timed == len(found.rounds) <= 8
    assert last.measured.share == pytest.approx(TRUTHS[name](cost.share(found.plan.widths)))
    assert found.plan.cost_before == 4.0
    assert found.plan.cost_after == pytest.approx(4.0 * last.measured.share)
    assert found.plan.budget == pytest.approx(2.4)
    stored = PruningPlan.from_json(found.plan.to_json())
    assert stored.settings["latency"] == found.to_json()
    for each in found.rounds:
        assert each.error == pytest.approx(each.predicted / each.measured.share - 1)


def test_a_plan_between_two_is_found_though_others_were_found_again() -> None:
    """Widths go in steps of 8, so that a looser cost may find a plan again that was timed before."""
    group = ChannelGroup("a", 128, (Member("a", "producer", tuple((c,) for c in range(128))),))
    layers = TermCost("latency", "ms", {"a": group}, [Term(1.0, (Count.of(128, {"a": [1] * 128}),))])

    def find(c: LatencyCost) -> PruningPlan:
        width = max(w for w in range(8, 128, 8) if c({"a": w}) <= 0.4 * c({}))
        return PruningPlan((group,), {"a": tuple(range(width))}, "latency", c({}), c({"a": width}), 0.4 * c({}))

    cost = LatencyCost(layers, 1.0)
    found = latency_search(find, cost, "40%", Runs(cost, lambda share: 0.15 + 0.85 * share**1.5))
    assert found.plan.widths == {"a": 56}
    assert 0.95 * 0.4 <= found.rounds[found.chosen].measured.share <= 0.4


def test_predictions_improve(groups: ChannelGroups, scores: ScoreTable, cost: LatencyCost) -> None:
    runs = Runs(cost, TRUTHS["much lies outside the layers"])
    found = latency_search(lambda c: uniform_plan(groups, scores, c, "60%", round_to=1), cost, "60%", runs)
    first, *_, last = found.rounds
    assert abs(first.error) > 0.1
    assert abs(last.error) < 1e-9  # one run settles a line
    assert "60.0% allowed; predicted" in found.verdict


def test_milliseconds_and_another_budget_beside(
    digits: nn.Module, groups: ChannelGroups, scores: ScoreTable, cost: LatencyCost
) -> None:
    macs = MacsCost(digits, IMAGES, groups)
    runs = Runs(cost, TRUTHS["bent"])
    budgets = {"macs": "90%", "latency": 3.0}
    found = latency_search(lambda c: uniform_plan(groups, scores, [macs, c], budgets, round_to=1), cost, 3.0, runs)
    assert found.allowed == pytest.approx(0.75)
    spent = found.plan.spent
    assert spent["macs"].after <= 0.9 * spent["macs"].before
    assert 0.95 * 3.0 <= spent["latency"].after <= 3.0 == spent["latency"].budget
    binding = latency_search(
        lambda c: uniform_plan(groups, scores, [macs, c], budgets | {"macs": "20%"}, round_to=1),
        cost,
        3.0,
        Runs(cost, lambda s: s),
    )
    assert binding.met
    assert len(binding.rounds) == 1  # the MACs bind: more latency would not be spent


def test_a_budget_that_no_round_meets_is_said(groups: ChannelGroups, scores: ScoreTable, cost: LatencyCost) -> None:
    stubborn = Runs(cost, lambda share: 0.7 + 0.3 * share)
    with pytest.warns(SecateurWarning, match=r"the latency is not met after \d+ rounds: .* missed by"):
        found = latency_search(lambda c: uniform_plan(groups, scores, c, "60%", round_to=1), cost, "60%", stubborn)
    assert not found.met
    assert found.rounds[found.chosen].measured.share == min(each.measured.share for each in found.rounds)
    assert found.plan.cost_after > found.plan.budget
    runs = Runs(cost, stubborn.truth)
    with pytest.warns(SecateurWarning, match="not met after 2 rounds"):
        latency_search(lambda c: uniform_plan(groups, scores, c, "60%", round_to=1), cost, "60%", runs, rounds=2)
    assert runs.timed == 2 < stubborn.timed


def test_a_correction_that_goes_too_far_is_halved(groups: ChannelGroups, scores: ScoreTable, cost: LatencyCost) -> None:
    out_of_reach = []

    def find(c: LatencyCost) -> PruningPlan:  # no layer may lose more than a third of its channels
        try:
            return uniform_plan(groups, scores, c, "80%", round_to=1, min_keep=64)
        except BudgetError:
            out_of_reach.append(c.known)
            raise

    runs = Runs(cost, lambda share: 0.97 if share > 0.72 else 0.78)  # little is gained at first, then much
    found = latency_search(find, cost, "80%", runs)
    assert out_of_reach
    assert found.met


def test_bad_input_is_refused(groups: ChannelGroups, scores: ScoreTable, cost: LatencyCost) -> None:
    def find(c: LatencyCost) -> PruningPlan:
        return uniform_plan(groups, scores, c, "60%", round_to=1)

    with pytest.raises(ConfigError, match="tolerance must lie between"):
        latency_search(find, cost, "60%", Runs(cost, lambda s: s), tolerance=0.0)
    with pytest.raises(ConfigError, match="batch is '2'; it must be a whole number, at least 1"):
        WholeRuns(nn.Linear(8, 4), torch.zeros(1, 8), batch="2")  # type: ignore[arg-type]  # as from a file
    with pytest.raises(ConfigError, match="rounds is 0; it must be a whole number, at least 1"):
        latency_search(find, cost, "60%", Runs(cost, lambda s: s), rounds=0)
    with pytest.raises(DataError, match="must be positive and finite"):
        latency_search(find, cost, "60%", Runs(cost, lambda s: float("nan")))
    with pytest.raises(BudgetError, match="lowest cost that can be reached"):
        latency_search(
            lambda c: uniform_plan(groups, scores, c, "0.1%", round_to=1), cost, "0.1%", Runs(cost, lambda s: s)
        )
    with pytest.raises(BudgetError, match=r"the budget 0\.01 allows 0\.01 ms, but the lowest cost that can be reached"):
        latency_search(lambda c: uniform_plan(groups, scores, c, 0.01, round_to=1), cost, 0.01, Runs(cost, lambda s: s))


def test_whole_runs_are_real_and_remembered(
    digits: nn.Module, groups: ChannelGroups, scores: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = latency_cost(digits, IMAGES, groups, threads=1)
    plan = uniform_plan(groups, scores, cost, "50%", round_to=8)
    settings = {"threads": 1, "rounds": 6, "seconds": 0.01}
    with Journal.open(tmp_path / "times.sqlite", {"holds": "times"}) as journal:
        with WholeRuns(digits, IMAGES, memory=journal, **settings) as runs:  # type: ignore[arg-type] # one mapping
            first = runs(plan)
        assert first.lower <= first.share <= first.upper
        assert first.dense_ms > 0
        monkeypatch.delattr(whole_runs, "export")
        with WholeRuns(digits, IMAGES, memory=journal, **settings) as runs:  # type: ignore[arg-type] # one mapping
            assert runs(plan) == first


class Squared(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


def test_runs_of_another_network_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(runs: WholeRuns, plan: PruningPlan | None) -> list[float]:
        asked.append(len(asked))
        return [1.0, 1.0, 1.0, float(len(asked))]

    monkeypatch.setattr(WholeRuns, "_measured", measured)
    memory = Remembered()
    for width in (4, 8, 4):
        WholeRuns(nn.Linear(8, width), torch.zeros(1, 8), memory=memory)(None)
    assert asked == [0, 1]
    WholeRuns(nn.Linear(8, 4), torch.zeros(1, 5, 8), memory=memory)(None)  # inputs of another size
    WholeRuns(nn.Linear(8, 4), torch.zeros(1, 8), memory=memory, batch=2)(None)
    assert len(asked) == 4
    images = torch.zeros(1, 1, 8, 8)
    for other in (nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3, stride=2), Squared(1, 2, 3), nn.Conv2d(1, 2, 3)):
        WholeRuns(other, images, memory=memory)(None)  # other strides, or other code
    assert len(asked) == 7
    WholeRuns(nn.Conv2d(1, 2, 3).half(), images.half(), memory=memory)(None)
    assert len(asked) == 8


def test_runs_are_known_by_what_is_left_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a concatenation: the same width may be all of one layer and one channel of the other, or the reverse."""
    found = iter([2.0, 3.0])
    monkeypatch.setattr(WholeRuns, "_measured", lambda *_: [1.0, 1.0, 1.0, next(found)])
    none, own = ((),) * 4, tuple((c,) for c in range(4))
    members = (Member("a", "producer", own + none), Member("b", "producer", none + own))
    groups = (ChannelGroup("dw", 8, (*members, Member("dw", "producer", tuple((c,) for c in range(8))))),)
    runs = WholeRuns(nn.Linear(8, 4), torch.zeros(1, 8))
    plans = [
        PruningPlan(groups, {"dw": kept}, "latency", 1.0, 0.5, 0.5)
        for kept in ((0, 1, 2, 3, 4), (0, 4, 5, 6, 7), (0, 1, 2, 3, 7))
    ]
    assert [runs(plan).dense_ms for plan in plans] == [2.0, 3.0, 2.0]


@pytest.mark.parametrize("other", [{"rounds": 60}, {"seconds": 9.0}, {"seed": 1}, {"clock": time.process_time}])
def test_runs_that_were_timed_otherwise_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """Such as those of a short trial before the measurement."""
    found = iter([2.0, 3.0])
    monkeypatch.setattr(WholeRuns, "_measured", lambda *_: [1.0, 1.0, 1.0, next(found)])
    network, memory = nn.Linear(8, 4), Remembered()
    times = [
        WholeRuns(network, torch.zeros(1, 8), memory=memory, **settings)(None).dense_ms
        for settings in ({}, other, other, {})
    ]
    assert times == [2.0, 3.0, 3.0, 2.0]
