"""How the greedy search asks what candidates are worth: races, evaluations that fail or are moody, new scores."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur import MacsCost, channel_groups
from secateur.channel_graph import cut_scores
from secateur.errors import ConfigError, EvaluationError, JournalError, ProcessError, ScoreError, SecateurWarning
from secateur.evaluation import MaskedAccuracy
from secateur.protocols import Race, Worth
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur.search import GreedyStep, greedy_plan

Kept = Mapping[str, tuple[int, ...]]
DENSE = {"a": 8, "b": 8, "c": 4}


class Channels:
    """So much for each channel; those of c cost nothing."""

    name, unit = "channels", "channels"

    def __call__(self, widths: Mapping[str, int]) -> float:
        return float(2 * widths.get("a", 8) + 3 * widths.get("b", 8))


def groups() -> dict[str, ChannelGroup]:
    own = {name: tuple((c,) for c in range(width)) for name, width in DENSE.items()}
    return {name: ChannelGroup(name, width, (Member(name, "producer", own[name]),)) for name, width in DENSE.items()}


def table(**scores: Sequence[float]) -> ScoreTable:
    given = {name: scores.get(name, range(width)) for name, width in DENSE.items()}
    return ScoreTable({name: torch.tensor(list(values), dtype=torch.float64) for name, values in given.items()})


def worth(kept: Kept) -> float:
    """Channels of b are worth more, the last most."""
    return sum(1.0 + c for c in kept.get("a", range(8))) + sum(3.0 + 2 * c for c in kept.get("b", range(8)))


def plan_by(evaluate: Any, budget: str = "50%", **more: Any) -> PruningPlan:
    return greedy_plan(groups(), table(), Channels(), budget, evaluate, **{"delta": 0.05, "round_to": 1} | more)


# --- races ------------------------------------------------------------------------------------------------------------


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


# --- evaluations that are not what they seem --------------------------------------------------------------------------


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


# --- steps ------------------------------------------------------------------------------------------------------------


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
@settings(max_examples=40, deadline=None)
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


# --- scores made anew -------------------------------------------------------------------------------------------------


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


# --- on a network -----------------------------------------------------------------------------------------------------


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
