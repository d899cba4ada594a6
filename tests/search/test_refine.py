"""Local search by swaps, beside a twin that tries every width one after another."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.protocols import Kept, Worth
from secateur.records import PruningPlan
from secateur.search import RefineStep
from swaps_for_tests import Case, Widths


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
@settings(max_examples=200)
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
@settings(max_examples=60)
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
@settings(max_examples=60)
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
