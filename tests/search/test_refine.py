"""Local search by swaps, beside a twin that tries every width one after another."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.errors import BudgetError, ConfigError, EvaluationError, PlanError, SecateurWarning
from secateur.protocols import Kept, Worth
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.search import RefineStep, curve_plan, refine_plan, uniform_plan

Widths = dict[str, int]


@dataclass
class Chain:
    """Layers in a row, each reading the one before; all of `inputs` of them read so many channels first."""

    dense: Mapping[str, int]
    inputs: int = 3
    name: str = "macs"
    unit: str = "MACs"

    def __call__(self, widths: Mapping[str, int]) -> float:
        total, before = 0, self.inputs
        for name, dense in self.dense.items():
            total += before * widths.get(name, dense)
            before = widths.get(name, dense)
        return float(total + 2 * before)


@dataclass
class Case:
    """Groups with scores that are whole numbers, and a worth that the scores do not know."""

    scores: dict[str, list[int]]
    merit: dict[str, list[int]]
    round_to: int = 1
    asked: list[dict[str, tuple[int, ...]]] = field(default_factory=list)

    @property
    def dense(self) -> Widths:
        return {name: len(scores) for name, scores in self.scores.items()}

    @property
    def cost(self) -> Chain:
        return Chain(self.dense)

    @property
    def groups(self) -> dict[str, ChannelGroup]:
        return {
            name: ChannelGroup(name, width, (Member(name, "producer", tuple((c,) for c in range(width))),))
            for name, width in self.dense.items()
        }

    @property
    def table(self) -> ScoreTable:
        return ScoreTable({n: torch.tensor(s, dtype=torch.float64) for n, s in self.scores.items()})

    @property
    def allowed(self) -> dict[str, list[int]]:
        return {
            name: [w for w in range(1, width + 1) if w == width or w % self.round_to == 0]
            for name, width in self.dense.items()
        }

    def worth(self, kept: Kept) -> float:
        self.asked.append(dict(kept))
        return float(sum(self.merit[n][c] for n in self.dense for c in kept.get(n, range(self.dense[n]))) // 2)

    def start(self, budget: float) -> PruningPlan:
        return uniform_plan(self.groups, self.table, self.cost, budget, round_to=self.round_to)

    def refine(self, budget: float, **more: Any) -> PruningPlan:
        start = more.pop("start", None) or self.start(budget)
        evaluate = more.pop("evaluate", self.worth)
        return refine_plan(
            self.groups, self.table, self.cost, budget, evaluate, start, **{"round_to": self.round_to, **more}
        )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, float]:
    names = "abc"[: draw(st.integers(2, 3))]
    sizes = {name: draw(st.integers(2, 7)) for name in names}

    def numbers(width: int) -> list[int]:
        return draw(st.lists(st.integers(0, 9), min_size=width, max_size=width))

    case = Case({n: numbers(w) for n, w in sizes.items()}, {n: numbers(w) for n, w in sizes.items()})
    case.round_to = draw(st.sampled_from([1, 1, 2]))
    lowest = case.cost({name: allowed[0] for name, allowed in case.allowed.items()})
    budget = lowest + draw(st.floats(0, 0.95)) * (case.cost({}) - lowest)
    assume(budget < case.cost({}))
    return case, budget


def keep_best(scores: Sequence[int], width: int) -> tuple[int, ...]:
    order = sorted(range(len(scores)), key=lambda c: (scores[c], c))
    return tuple(sorted(order[len(scores) - width :]))


def loss(scores: Sequence[int], width: int, promise: str) -> float:
    gone = sorted(scores)[: len(scores) - width]
    if promise == "curves":
        return float(gone[-1]) if gone else 0.0
    return sum(gone) / (sum(scores) or 1)


def refine_by_trying(
    case: Case, start: Widths, budget: float, *, breadth: int, most: int, promise: str
) -> tuple[Widths, list[Widths], int]:
    """The search of the docstring, with every width tried one after another; the widths of each step, and how many
    candidates were judged.
    """

    def fits(widths: Widths) -> bool:
        return case.cost(widths) <= budget

    def worth(widths: Widths) -> float:
        kept = {n: keep_best(case.scores[n], w) for n, w in widths.items() if w < case.dense[n]}
        return Case(case.scores, case.merit).worth(kept)

    def swaps(widths: Widths) -> list[tuple[tuple[str, ...], Widths]]:
        found = []
        for wide in widths:
            wider = [w for w in case.allowed[wide] if w > widths[wide]]
            if not wider:
                continue
            once = {**widths, wide: wider[0]}
            if fits(once):
                found.append(((wide,), once))
                continue
            for narrow in widths:
                if narrow == wide:
                    continue
                below = [w for w in case.allowed[narrow] if w < widths[narrow] and fits({**once, narrow: w})]
                if below:
                    paid = {**widths, narrow: max(below)}
                    further = max(w for w in wider if fits({**paid, wide: w}))
                    found.append(((wide, narrow), {**paid, wide: further}))
        return found

    def promised(widths: Widths) -> float:
        return sum(loss(case.scores[n], w, promise) for n, w in widths.items())

    now, steps, judged, used = dict(start), [], [dict(start)], 1
    refused: Counter[tuple[str, ...]] = Counter()
    while True:
        queue = [(who, after) for who, after in swaps(now) if after not in judged]
        # L is summed over the groups that change, so that rounding is the same
        queue.sort(
            key=lambda each: (
                refused[each[0]],
                sum(loss(case.scores[n], each[1][n], promise) - loss(case.scores[n], now[n], promise) for n in each[0]),
            )
        )
        accepted = False
        while queue and used < most and not accepted:
            batch, queue = queue[: min(breadth, most - used)], queue[min(breadth, most - used) :]
            used += len(batch)
            judged += [after for _, after in batch]
            best = max(batch, key=lambda each: worth(each[1]))
            if worth(best[1]) > worth(now):
                now, accepted = best[1], True
                steps.append(now)
            else:
                refused.update(who for who, _ in batch)
        if not accepted:
            return now, steps, used


@given(cases(), st.sampled_from([1, 3, 8]), st.sampled_from([1, 2, 4, 9, 99]), st.sampled_from(["curves", "scores"]))
@settings(max_examples=200, deadline=None)
def test_refine_equals_its_twin(case: tuple[Case, float], breadth: int, most: int, promise: Any) -> None:
    of, budget = case
    start = of.start(budget)
    steps: list[RefineStep] = []
    plan = of.refine(budget, breadth=breadth, max_evaluations=most, promise=promise, on_step=steps.append)
    widths, expected, used = refine_by_trying(of, start.widths, budget, breadth=breadth, most=most, promise=promise)
    assert (plan.widths, plan.settings["evaluations"]) == (widths, used)
    now = start.widths
    for step, after in zip(steps, expected, strict=True):
        now = {**now, **step.widths}
        assert (now, step.cost) == (after, of.cost(after))
    assert plan.kept == {name: keep_best(of.scores[name], width) for name, width in widths.items()}


@given(cases())
@settings(max_examples=60, deadline=None)
def test_it_never_ends_below_its_start_and_meets_the_budget(case: tuple[Case, float]) -> None:
    of, budget = case
    steps: list[RefineStep] = []
    plan = of.refine(budget, on_step=steps.append)
    worths = [plan.settings["worth_at_start"], *(step.worth for step in steps)]
    assert all(after > before for before, after in itertools.pairwise(worths))
    assert plan.settings["evaluations"] == len(of.asked) - 1  # the start is judged twice
    assert worths[-1] == plan.settings["worth"] == of.worth(plan.kept)
    assert plan.cost_after == of.cost(plan.widths) <= budget == plan.budget
    assert plan.settings["steps"] == len(steps)
    assert all(width in of.allowed[name] for name, width in plan.widths.items())
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@dataclass
class Sprint:
    """A race that knows the best alone exactly; the bounds of the others are above it."""

    case: Case
    known: list[int] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=lambda: {"measure": "merit"})

    def __call__(self, kept: Kept) -> float:
        return self.case.worth(kept)

    def race(
        self,
        candidates: Sequence[Kept],
        *,
        known: Mapping[int, Worth] | None = None,
        record: Callable[[int, Worth], None] = lambda idx, worth: None,
    ) -> list[Worth]:
        self.known.append(len(known or {}))
        worths = [self.case.worth(kept) for kept in candidates]
        found = [Worth(w, True) if w == max(worths) else Worth(max(worths) + w / 100, False) for w in worths]
        for idx, worth in enumerate(found):
            record(idx, worth)
        return found


@given(cases(), st.sampled_from([1, 4]))
@settings(max_examples=60, deadline=None)
def test_a_race_ends_in_the_same_plan_and_knows_what_the_plan_as_it_is_is_worth(
    case: tuple[Case, float], breadth: int
) -> None:
    of, budget = case
    sprint = Sprint(of)
    raced, one_by_one = of.refine(budget, evaluate=sprint, breadth=breadth), of.refine(budget, breadth=breadth)
    assert raced.settings["evaluation"] == {"measure": "merit"}
    assert replace(raced, settings={}) == replace(one_by_one, settings={})
    assert sprint.known[0] == 0
    assert set(sprint.known[1:]) <= {1}


def pair(merit_b: int = 9) -> Case:
    scores = {"a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6]}
    return Case(scores, {"a": [0] * 6, "b": [merit_b] * 6})


def test_swaps_by_hand() -> None:
    """3a + ab + 2b <= 30. Three of each cost 24, four of b 29; of two more a pays one, with one of its own."""
    case, steps = pair(), []
    plan = case.refine(30.0, on_step=steps.append, breadth=1, promise="scores")
    assert case.start(30.0).widths == {"a": 3, "b": 3}
    assert steps[0] == RefineStep(1, {"b": 4}, 29.0, 18.0, 2)  # a would be wider first, and is worth no more
    assert steps[1].widths == {"b": 6, "a": 2}  # 6 + 12 + 12 = 30: as far as a's channel pays for
    assert plan.widths == {"a": 2, "b": 6}
    assert (plan.settings["worth_at_start"], plan.settings["worth"]) == (13.0, 27.0)
    assert plan.settings["search"] == "refine"
    assert plan.settings["start"]["search"] == "uniform"


def test_nothing_is_accepted_that_is_worth_the_same() -> None:
    case = pair(0)
    plan = case.refine(24.0)
    assert plan.kept == case.start(24.0).kept
    assert plan.settings["steps"] == 0
    assert plan.settings["evaluations"] > 1


def test_evaluations_are_counted_and_end_the_search() -> None:
    case = pair()
    plan = case.refine(24.0, max_evaluations=1)
    assert plan.kept == case.start(24.0).kept
    assert len(case.asked) == 2  # the start, twice
    case.asked.clear()
    assert case.refine(24.0, max_evaluations=3, breadth=8).settings["evaluations"] == 3
    assert len(case.asked) == 4


def test_a_group_keeps_the_starts_own_channels_at_the_starts_width() -> None:
    case = pair()
    start = replace(case.start(24.0), kept={"a": (0, 1, 2), "b": (0, 2, 4)}, ties={"a": 2})
    plan = case.refine(24.0, start=start, max_evaluations=1)
    assert plan.kept == start.kept
    assert plan.ties == {"a": 2}
    assert case.asked[0] == start.kept
    moved = case.refine(30.0, start=start, breadth=1, max_evaluations=3)
    assert moved.kept == {"a": (0, 1, 2), "b": (2, 3, 4, 5)}


def test_it_starts_from_curves_and_widths_that_rounding_does_not_allow() -> None:
    case = pair()
    start = curve_plan(case.groups, case.table, case.cost, 24.0, round_to=1)
    plan = case.refine(24.0, start=start)
    assert plan.settings["worth"] >= plan.settings["worth_at_start"]
    rounded = case.refine(24.0, start=case.start(24.0), round_to=2)
    assert {width % 2 for name, width in rounded.widths.items() if width != 3} <= {0}


def test_groups_without_scores_keep_what_they_keep_in_the_start() -> None:
    case = pair()
    start = case.start(24.0)
    alone = ScoreTable({"b": case.table["b"]})
    with pytest.warns(SecateurWarning, match="1 of 2 groups stay as they are.*: a"):
        plan = refine_plan(case.groups, alone, case.cost, 30.0, case.worth, start, round_to=1)
    assert plan["a"] == start["a"]
    assert plan.widths == {"a": 3, "b": 4}
    assert plan.cost_after == case.cost(plan.widths)


def test_several_budgets_are_all_met() -> None:
    case = pair()
    second = Chain(case.dense, inputs=9, name="other")
    both, budgets = (case.cost, second), {"macs": 30.0, "other": 45.0}
    start = uniform_plan(case.groups, case.table, both, budgets, round_to=1)
    plan = refine_plan(case.groups, case.table, both, budgets, case.worth, start, round_to=1)
    assert plan.cost_after <= 30
    assert plan.further["other"].after == second(plan.widths) <= 45
    assert plan.settings["worth"] > plan.settings["worth_at_start"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_worth_that_is_no_number_is_refused_by_the_swap(bad: float) -> None:
    case = pair()
    with pytest.raises(EvaluationError, match="gives 'b' 4 channels in step 1 gave"):
        case.refine(30.0, evaluate=lambda kept: bad if len(kept["b"]) == 4 else 1.0)
    with pytest.raises(EvaluationError, match="evaluating the start gave"):
        case.refine(24.0, evaluate=lambda kept: bad)


def test_an_evaluation_that_fails_is_named_by_the_swap() -> None:
    def evaluate(kept: Kept) -> float:
        if len(kept["a"]) < 3:
            raise RuntimeError("out of memory")
        return 1.0

    with pytest.raises(EvaluationError, match="'b' 4 channels and 'a' 2 channels in step 1 failed: RuntimeError: out"):
        pair().refine(24.0, evaluate=evaluate)


def test_an_evaluation_that_does_not_repeat_is_noticed() -> None:
    worths = iter(range(100))
    with pytest.warns(SecateurWarning, match="not deterministic: the start was worth 0"):
        pair().refine(24.0, evaluate=lambda kept: next(worths), max_evaluations=1)


def test_a_start_that_does_not_fit_is_refused() -> None:
    case = pair()
    with pytest.raises(BudgetError, match=r"the start costs 24 MACs, above the budget 20\.0, which allows 20 MACs"):
        case.refine(20.0, start=case.start(24.0))
    other = Case({"a": [1, 2], "c": [1, 2]}, {"a": [1, 1], "c": [1, 1]})
    with pytest.raises(PlanError, match="plan of the same groups; it differs in a, b, c"):
        case.refine(24.0, start=other.start(8.0))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_evaluations": 0}, "max_evaluations is 0; it must be a whole number, at least 1"),
        ({"max_evaluations": 1.5}, "max_evaluations is 1.5"),
        ({"breadth": 0}, "breadth is 0"),
        ({"promise": "luck"}, "unknown promise 'luck'; allowed: curves, scores"),
        ({"round_to": 0}, "round_to is 0"),
    ],
)
def test_settings_out_of_range(setting: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pair().refine(24.0, **setting)
