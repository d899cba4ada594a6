"""How the greedy search asks what candidates are worth: races, and evaluations that fail or are moody."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from greedy_for_tests import Kept, plan_by, worth
from secateur.errors import ConfigError, EvaluationError, JournalError, ProcessError, SecateurWarning
from secateur.protocols import Race, Worth
from secateur.records import PruningPlan
from secateur.search import GreedyStep


class Bounded:
    """Tells the best exactly, and of the others only that they are not worth more."""

    def __init__(self) -> None:
        self.raced: list[int] = []

    def __call__(self, kept: Kept) -> float:
        return worth(kept)

    def race(self, candidates: Sequence[Kept], **_: Any) -> list[Worth]:
        self.raced.append(len(candidates))
        worths = [worth(kept) for kept in candidates]
        return [Worth(w) if w == max(worths) else Worth((w + max(worths)) / 2, exact=False) for w in worths]


def test_a_race_is_used_where_there_is_one_and_decides_as_one_by_one() -> None:
    race = Bounded()
    assert isinstance(race, Race)
    steps: list[GreedyStep] = []
    assert plan_by(race, on_step=steps.append) == plan_by(worth)
    assert race.raced == [step.candidates for step in steps]


def test_a_bound_wins_no_race() -> None:
    class Careless(Bounded):
        def race(self, candidates: Sequence[Kept], **_: Any) -> list[Worth]:
            return [Worth(worth(k)) if "b" in k else Worth(float("inf"), exact=False) for k in candidates]

    assert plan_by(Careless(), "93%").widths == {"a": 8, "b": 7, "c": 4}


@pytest.mark.parametrize(
    ("worths", "words"),
    [
        (RuntimeError("out of memory"), "the race of 2 candidates in step 1 failed: RuntimeError: out of memory"),
        ([Worth(1.0)], "the race of 2 candidates in step 1 gave 1 worths, 1 of them exact"),
        ([Worth(1.0, exact=False)] * 2, "gave 2 worths, 0 of them exact; it must give one each"),
        ([Worth(1.0), Worth(float("nan"))], "cuts the group 'b' to 7 channels in step 1 gave nan"),
        ([Worth(1.0), Worth(float("nan"), exact=False)], "'b' to 7 channels in step 1 gave nan"),
        ([Worth(float("inf")), Worth(1.0)], "'a' to 7 channels in step 1 gave inf"),
        ([1.0, 2.0], "the race of 2 candidates in step 1 failed: TypeError"),
    ],
)
def test_a_race_that_fails_names_the_step(worths: Any, words: str) -> None:
    class Failing(Bounded):
        def race(self, *_: Any, **__: Any) -> list[Worth]:
            if isinstance(worths, Exception):
                raise worths
            return worths  # type: ignore[no-any-return]  # what a race must not return

    with pytest.raises(EvaluationError, match=words):
        plan_by(Failing())


@pytest.mark.parametrize("failure", [JournalError("the disk is full"), ProcessError("process 1 failed")])
def test_what_is_not_a_candidate_s_fault_is_not_blamed_on_it(failure: Exception) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise failure

    racing = Bounded()
    racing.race = failing  # type: ignore[method-assign]  # a race of a journal that fails
    for evaluate in (failing, racing):
        with pytest.raises(type(failure)) as caught:
            plan_by(evaluate)
        assert caught.value is failure


def test_an_evaluation_that_is_not_deterministic_is_noticed_with_both_values() -> None:
    calls = itertools.count()
    with pytest.warns(
        SecateurWarning, match=r"not deterministic: .* 'a' to 7 channels in step 1 was worth 1.0 and.* 3.0"
    ):
        plan_by(lambda kept: (1.0, 0.0, 3.0)[min(next(calls), 2)])


@pytest.mark.parametrize("race", [False, True])
def test_one_that_repeats_itself_is_not_warned_of_and_judged_once_more_at_all(race: bool) -> None:
    asked: list[Kept] = []

    class Counting(Bounded):
        def __call__(self, kept: Kept) -> float:
            asked.append(kept)
            return worth(kept)

    counting = Counting()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_by(counting if race else counting.__call__)
    assert len(asked) == 1 + (0 if race else plan.settings["evaluations"])


def test_one_that_remembers_is_judged_afresh() -> None:
    class Remembering:
        def __init__(self) -> None:
            self.known: dict[str, float] = {}
            self.calls = itertools.count()

        def fresh(self, _: Kept) -> float:
            return next(self.calls)

        def __call__(self, kept: Kept) -> float:
            return self.known.setdefault(repr(kept), self.fresh(kept))

    with pytest.warns(SecateurWarning, match=r"'b' to 7 channels in step 1 was worth 1.0 and, judged once more, 2.0"):
        plan_by(Remembering())


def test_what_goes_wrong_when_judged_once_more_is_named_too() -> None:
    values = iter([1.0, 0.0, float("nan")])
    with pytest.raises(EvaluationError, match="'a' to 7 channels in step 1 gave nan"):
        plan_by(lambda kept: next(values))


def test_the_settings_of_an_evaluation_are_recorded_if_they_are_plain() -> None:
    class Told(Bounded):
        settings: Any = {"measure": "accuracy", "images": 1000}  # noqa: RUF012  # a record, not a default

    assert "evaluation" not in plan_by(worth).settings
    plan = plan_by(Told())
    assert plan.settings["evaluation"] == {"measure": "accuracy", "images": 1000}
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for settings_ in ({"images": torch.ones(2)}, {"loss": float("nan")}, ["accuracy"]):
        Told.settings = settings_
        with pytest.raises(ConfigError, match="settings of an evaluation must be a mapping of plain data"):
            plan_by(Told())
