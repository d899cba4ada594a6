"""Candidates handed out to trials that crash, hang, and get one another's parameters: the search ends in its plan."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

import pytest
import torch

from secateur import greedy_plan
from secateur.errors import ConfigError, EvaluationError
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable
from secateur_nni.experiments import candidate_trials
from secateur_nni.experiments.candidate_trials import CandidateTrials

WEIGHTS = {"a": 0.5, "b": 0.1, "c": 0.3}
GROUPS = {name: ChannelGroup(name, 4, (Member(name, "producer", ((0,), (1,), (2,), (3,))),)) for name in WEIGHTS}
SCORES = ScoreTable({name: torch.tensor([4.0, 3.0, 2.0, 1.0]) for name in WEIGHTS})


class Channels:
    name, unit = "channels", "channels"

    def __call__(self, widths: Mapping[str, int]) -> float:
        return float(sum(widths.get(name, 4) for name in WEIGHTS))


def worth(kept: Mapping[str, Any]) -> float:
    return 1.0 - sum(WEIGHTS[name] * (4 - len(channels)) ** 2 for name, channels in kept.items())


def search(evaluate: Any) -> PruningPlan:
    return greedy_plan(GROUPS, SCORES, Channels(), "60%", evaluate, round_to=1)


class FakeManager:
    """NNI's manager as its compat.js is: parameters in one queue, handed to whichever trial asks next."""

    def __init__(
        self, trials: CandidateTrials, *, concurrency: int, fate: Callable[[int, dict[str, Any]], str]
    ) -> None:
        self.trials, self.fate, self.begun, self.ids = trials, fate, 0, iter(range(1000))
        self.queue: deque[dict[str, Any]] = deque()
        self.idle = concurrency
        self.random = random.Random(0)
        self.jobs = 0

    def ask(self) -> None:
        while self.idle:
            self.idle -= 1
            for parameters in self.trials.requested([next(self.ids)], self.new_trial):
                self.new_trial(-1, parameters)

    def new_trial(self, _number: int, parameters: dict[str, Any]) -> None:
        self.queue.append(parameters)
        self.jobs += 1

    def work(self) -> bool:
        """Let the next trial live and die; return whether there was one."""
        if not self.jobs:
            return False
        self.jobs -= 1
        number, self.begun = self.begun, self.begun + 1
        fate = self.fate(number, self.queue[0])
        if fate != "dies before it asks":
            parameters = self.queue.popleft()
            name = {"candidate": parameters["candidate"]}
            if fate == "well":
                self.trials.reported({"default": 0.0, "worth": worth(parameters["kept"])} | name)
                if self.random.random() < 0.3:
                    self.trials.reported({"worth": -1.0} | name)  # NNI may tell a result twice
            elif fate == "forgets its name":
                self.trials.reported({"default": 0.0, "worth": worth(parameters["kept"])})
            elif fate == "raises":
                self.trials.reported({"default": -1e9, "error": "RuntimeError: out of memory"} | name)
        self.trials.ended()
        self.idle += 1
        return True


def found(trials: CandidateTrials, manager: FakeManager) -> tuple[PruningPlan | None, list[BaseException]]:
    plans: list[PruningPlan] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            plans.append(search(trials.judging(worth)))
        except EvaluationError as error:
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        manager.ask()
        if not manager.work():
            thread.join(0.01)
    return (plans or [None])[0], errors


@pytest.fixture(autouse=True)
def _no_time_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_trials, "SETTLING", 0.01)


@pytest.mark.parametrize("concurrency", [1, 2, 5])
@pytest.mark.parametrize(
    "fates",
    [{}, {1: "raises"}, {0: "dies"}, {2: "dies", 3: "dies", 4: "raises"}, {0: "dies before it asks"}],
    ids=["all well", "one raises", "the first dies", "several fail", "one dies before it asks"],
)
def test_plan_is_that_of_the_search_in_one_process(concurrency: int, fates: dict[int, str]) -> None:
    trials = CandidateTrials(retries=3)
    manager = FakeManager(trials, concurrency=concurrency, fate=lambda number, _: fates.get(number, "well"))
    plan, errors = found(trials, manager)
    expected = search(worth)
    assert not errors
    assert plan is not None
    assert plan.to_json() == expected.to_json()
    assert plan.fingerprint == expected.fingerprint


def test_parameters_left_behind_cost_no_candidate_its_retries() -> None:
    """A trial that died before it asked leaves its parameters to the next; so each step sees an old candidate."""
    trials = CandidateTrials(retries=1)
    manager = FakeManager(
        trials, concurrency=2, fate=lambda number, _: "dies before it asks" if number == 0 else "well"
    )
    plan, errors = found(trials, manager)
    assert not errors
    assert plan is not None
    assert plan.fingerprint == search(worth).fingerprint
    assert len(manager.queue) == 1


def test_candidate_that_always_fails_ends_the_search() -> None:
    trials = CandidateTrials(retries=2)
    manager = FakeManager(trials, concurrency=2, fate=lambda _, asked: "raises" if "c" in asked["kept"] else "well")
    plan, errors = found(trials, manager)
    assert plan is None
    told = str(errors[0])
    assert "failed in 3 trials" in told
    assert "out of memory" in told
    assert "c keeps 3" in told


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("fate", ["forgets its name", "dies"])
def test_trials_that_never_name_their_candidate_end_the_search(concurrency: int, fate: str) -> None:
    trials = CandidateTrials(retries=2)
    manager = FakeManager(trials, concurrency=concurrency, fate=lambda _number, _asked: fate)
    plan, errors = found(trials, manager)
    assert plan is None
    assert "failed in 3 trials" in str(errors[0])
    assert "no trial reported under its name" in str(errors[0])


@pytest.mark.parametrize("name", [None, "", "0.0", "9.9", 1.0, ["1.0"]])
def test_names_that_are_no_candidate_excuse_nobody(name: Any) -> None:
    trials = CandidateTrials(retries=0)

    def trial(_number: int, _parameters: dict[str, Any]) -> None:
        trials.reported({"candidate": name, "worth": 0.5})
        trials.ended()

    trials.requested([0], trial)
    with pytest.raises(EvaluationError, match="failed in 1 trials"):
        trials.judging(worth)({"a": (0, 1)})


def test_trial_that_says_nothing_counts_as_failed() -> None:
    """A trial that hangs beyond its own timeout holds its place; the candidate goes to another."""
    trials = CandidateTrials(patience=0.5)
    asked: list[dict[str, Any]] = []
    answers: list[float] = []
    thread = Thread(target=lambda: answers.append(trials.judging(worth)({"a": (0, 1)})), daemon=True)
    trials.requested([0, 1], lambda _, parameters: asked.append(parameters))
    thread.start()
    while thread.is_alive() and len(asked) < 2:
        thread.join(0.02)
    assert [parameters["candidate"] for parameters in asked] == ["1.0", "1.0"]
    trials.reported({"candidate": "1.0", "worth": 0.25})
    thread.join(5.0)
    assert answers == [0.25]


def test_no_trial_at_all_is_told() -> None:
    trials = CandidateTrials(patience=0.1)
    with pytest.raises(EvaluationError, match="1 candidates wait for one; look at the machines"):
        trials.judging(worth)({"a": (0,)})


def test_settings_are_those_of_the_evaluation() -> None:
    class Measured:
        def __init__(self) -> None:
            self.settings = {"measure": "accuracy"}

        def __call__(self, kept: Mapping[str, Any]) -> float:
            return worth(kept)

    assert CandidateTrials().judging(Measured()).settings == {"measure": "accuracy"}
    assert not hasattr(CandidateTrials().judging(worth), "settings")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retries": -1}, "retries is -1; it must be a whole number, at least 0"),
        ({"timeout": 0.0}, "timeout is 0.0; it must be a number of seconds above 0"),
        ({"patience": float("inf")}, "patience is inf"),
    ],
)
def test_bad_input(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CandidateTrials(**given)
