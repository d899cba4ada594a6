"""What a journal promises: what is stored is found, by whoever asks, and nothing else is ever changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from journals_for_tests import IDENTITY, Counting, Step, rows, table
from secateur.errors import JournalError, ScoreError
from secateur.journal import Journal
from secateur.protocols import Kept
from secateur.records import ChannelGroup, Member, PruningPlan, ScoreTable


def test_scores_are_computed_once_and_come_back_to_the_bit(path: Path, journal: Journal) -> None:
    found = journal.scores("hrank", table)
    with Journal.open(path, IDENTITY) as again:
        after = again.scores("hrank", lambda: pytest.fail("computed again"))
    for other in (found, after):
        assert other.to_json() == table().to_json()
        assert list(other) == ["second", "first"]
    assert (
        journal.scores("none", lambda: ScoreTable({}, settings={"criterion": "none"})).settings["criterion"] == "none"
    )
    assert rows(path, "SELECT layer, channel, score FROM scores WHERE score < 0") == [("second", 2, -2.0)]


def test_scores_that_cannot_be_computed_leave_nothing(path: Path, journal: Journal) -> None:
    with pytest.raises(ScoreError):
        journal.scores("hrank", lambda: ScoreTable({"a": torch.tensor([math.nan])}))
    assert rows(path, "SELECT * FROM score_tables") == rows(path, "SELECT * FROM scores") == []


def test_scores_of_a_cut_network_are_computed_once(path: Path, journal: Journal) -> None:
    cut: list[Kept] = []

    def rescore(kept: Kept) -> ScoreTable:
        cut.append(kept)
        return ScoreTable({"first": torch.tensor([1.0 * len(kept["first"])])})

    for _ in range(2):
        again = journal.rescoring("hrank", rescore)
        assert [again({"first": (0, 1)})["first"].item(), again({"first": (1,)})["first"].item()] == [2, 1]
    assert cut == [{"first": (0, 1)}, {"first": (1,)}]


def test_measurements_are_taken_once(path: Path, journal: Journal) -> None:
    times = iter([[2.5], [3.5]])
    assert [journal.measurements(["batch 8"], lambda: next(times), unit="ms") for _ in range(2)] == [[2.5], [2.5]]
    assert rows(path, "SELECT name, value, unit FROM measurements") == [("batch 8", 2.5, "ms")]
    with pytest.raises(JournalError, match="'batch 1' gave nan"):
        journal.measurements(["batch 1"], lambda: [math.nan])
    more = iter([[1.0, 4.0], [5.0, 6.0]])
    for _ in range(2):  # a name that is asked for twice is no missing one
        assert journal.measurements(["a", "a"], lambda: next(more)) == [1.0, 1.0]
    assert next(more) == [5.0, 6.0]


def test_decisions_are_stored_and_compared(path: Path, journal: Journal) -> None:
    steps = [Step(1, "a", 4, 90.0, 0.5), Step(2, "b", 2, 80.0, 0.25)]
    for step in (*steps, *steps):  # the second time by a search that is continued
        journal.decided(step)
    query = "SELECT step, channel_group, width, cost, worth FROM decisions ORDER BY step"
    assert rows(path, query) == [(1, "a", 4, 90.0, 0.5), (2, "b", 2, 80.0, 0.25)]
    with pytest.raises(
        JournalError, match=r'step 2 of the search is .*"c".*, but the journal .* holds .*"b".*determin'
    ):
        journal.decided(Step(2, "c", 2, 80.0, 0.25))


def test_the_plan_is_stored_and_compared(path: Path, journal: Journal) -> None:
    def plan(after: float) -> PruningPlan:
        return PruningPlan(groups=(), kept={}, cost="macs", cost_before=9, cost_after=after, budget=5)

    assert journal.plan is None
    journal.finished(plan(4.5))
    journal.finished(plan(4.5))
    with pytest.raises(JournalError, match="the plan of the search"):
        journal.finished(plan(4.0))
    with Journal.open(path, IDENTITY) as again:
        assert again.plan == plan(4.5)


def test_a_journal_of_another_search_is_refused_by_what_differs(path: Path, journal: Journal) -> None:
    journal.remembering(Counting())({})
    other = IDENTITY | {"weights": "xyz", "settings": {"plan": {"delta": 0.2}, "tap": "act"}}
    before = rows(path, "SELECT * FROM identity")
    with pytest.raises(JournalError) as caught:
        Journal.open(path, other)
    for part in (
        'weights: "abc" before, "xyz" now',
        "settings.plan.delta: 0.1 before, 0.2 now",
        'settings.tap: absent before, "act" now',
    ):
        assert part in str(caught.value)
    assert "seed" not in str(caught.value)
    assert rows(path, "SELECT * FROM identity") == before
    assert journal.evaluations == 1


def test_another_search_is_refused_by_what_is_known_of_it(path: Path, tmp_path: Path) -> None:
    """As where the weights are still to be trained: what is not given is not compared, and nothing is written."""
    Journal.open(path, IDENTITY).close()
    before = rows(path, "SELECT * FROM identity")
    known = {key: value for key, value in IDENTITY.items() if key != "weights"}
    Journal.check(path, known)
    with pytest.raises(JournalError, match=r"is of another search or comparison: settings\.plan\.delta"):
        Journal.check(path, known | {"settings": {"plan": {"delta": 0.2}, "tap": "act"}})
    assert rows(path, "SELECT * FROM identity") == before
    Journal.check(tmp_path / "none.sqlite", known)
    assert not (tmp_path / "none.sqlite").exists()


def test_an_identity_of_nothing_is_refused(path: Path) -> None:
    with pytest.raises(JournalError, match="at least one part"):
        Journal.open(path, {})
    assert not path.exists()


def test_a_fact_is_found_once_and_may_be_anything_plain(path: Path, journal: Journal) -> None:
    assert journal.fact("cell 1", lambda: {"right": [1, None, "x"]}) == {"right": [1, None, "x"]}
    assert journal.fact("cell 2", lambda: 0.1) == 0.1
    with Journal.open(path, IDENTITY) as again:
        assert again.fact("cell 1", lambda: 1 / 0) == {"right": [1, None, "x"]}
        assert again.facts("cell") == {"cell 1": {"right": [1, None, "x"]}, "cell 2": 0.1}
        assert again.facts("dense") == {}


def test_whoever_found_a_fact_first_is_believed(path: Path, journal: Journal) -> None:
    def slowly() -> float:
        with Journal.open(path, IDENTITY) as other:
            assert other.fact("dense", lambda: 0.9) == 0.9
        return 0.8

    assert journal.fact("dense", slowly) == 0.9


@pytest.mark.parametrize("found", [math.nan, object(), {"a": {1}}])
def test_facts_are_finite_plain_data(journal: Journal, found: Any) -> None:
    with pytest.raises(JournalError, match="the fact 'dense' must be finite plain data"):
        journal.fact("dense", lambda: found)
    assert journal.facts() == {}


def test_an_earlier_journal_gets_its_table_of_facts(path: Path) -> None:
    Journal.open(path, IDENTITY).close()
    rows(path, "DROP TABLE facts")
    with Journal.open(path, IDENTITY) as journal:
        assert journal.fact("dense", lambda: 1) == 1


def test_the_numbers_of_numpy_are_stored_as_numbers(path: Path) -> None:
    group = ChannelGroup("first", 3, (Member("first", "producer", ((0,), (1,), (2,))),))
    kept = {"first": tuple(numpy.array([0, 2]))}
    plan = PruningPlan((group,), kept, "macs", 3, 2, 2, settings={"delta": numpy.float32(0.5)})
    scores = ScoreTable({"first": torch.ones(3)}, settings={"samples": numpy.int64(5)})
    with Journal.open(path, IDENTITY) as journal:
        evaluate = journal.remembering(Counting({"images": numpy.int64(90)}))
        assert (evaluate(kept), evaluate({"first": (0, 2)}), evaluate.made) == (0.2, 0.2, 1)
        assert journal.scores("hrank", lambda: scores).settings == {"samples": 5}
        journal.finished(plan)
        assert journal.plan == plan
        assert journal.plan.fingerprint == plan.fingerprint


def test_what_is_no_plain_data_is_not_stored(path: Path) -> None:
    group = ChannelGroup("first", 3, (Member("first", "producer", ((0,), (1,), (2,))),))
    odd = {"weight": torch.ones(1)}
    with Journal.open(path, IDENTITY) as journal:
        with pytest.raises(JournalError, match="the settings of the scores 'hrank' must be plain data"):
            journal.scores("hrank", lambda: ScoreTable({"first": torch.ones(3)}, settings=odd))
        with pytest.raises(JournalError, match=r"the plan of the search must be plain data; it is not: .*Tensor"):
            journal.finished(PruningPlan((group,), {}, "macs", 3, 3, 3, settings=odd))
        with pytest.raises(JournalError, match="a step of the search must be plain data"):
            journal.decided(Step(1, "first", 2, 80.0, torch.ones(1)))  # type: ignore[arg-type]  # a tensor where a number should be
        with pytest.raises(JournalError, match="the channels that they keep"):
            journal.remembering(lambda kept: 0.5)({"first": tuple(torch.arange(2))})  # type: ignore[arg-type]  # tensors, which are no numbers
        assert journal.plan is None
