"""What a journal remembers of candidates: each is evaluated once, and told apart by what it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from journals_for_tests import IDENTITY, Counting, rows
from secateur.errors import JournalError
from secateur.journal import Journal, Remembering
from secateur.journal.remembering import candidate_key
from secateur.protocols import Evaluate, Kept, Race, Worth


def test_a_candidate_is_evaluated_once(path: Path, journal: Journal) -> None:
    inner = Counting()
    evaluate = journal.remembering(inner)
    assert [evaluate({"a": (1, 2)}), evaluate({"a": (1,)}), evaluate({"a": (1, 2)})] == [0.3, 0.1, 0.3]
    with Journal.open(path, IDENTITY) as again:
        assert again.remembering(Counting())({"a": (1, 2)}) == 0.3
        assert again.evaluations == 2
    assert len(inner.seen) == evaluate.made == 2
    assert rows(path, "SELECT worth, exact, widths FROM evaluations ORDER BY worth") == [
        (0.1, 1, '{"a": 1}'),
        (0.3, 1, '{"a": 2}'),
    ]


@given(st.dictionaries(st.text(max_size=3), st.sets(st.integers(0, 9)).map(lambda s: tuple(sorted(s)))), st.randoms())
def test_candidates_are_told_apart_by_what_they_keep(kept: dict[str, tuple[int, ...]], random: Any) -> None:
    shuffled = list(kept.items())
    random.shuffle(shuffled)
    assert candidate_key(dict(shuffled)) == candidate_key(kept)
    assert candidate_key(kept | {"more": (0,)}) != candidate_key(kept)
    for group, channels in kept.items():
        assert candidate_key(kept | {group: (*channels, 10)}) != candidate_key(kept)


@pytest.mark.parametrize("worth", [0.1 + 0.2, 1 / 3, -1e300, 5e-324, 0.0, 7])
def test_worths_come_back_to_the_bit(path: Path, journal: Journal, worth: float) -> None:
    assert journal.remembering(lambda kept: worth)({}) == worth
    with Journal.open(path, IDENTITY) as again:
        found = again.remembering(Counting())({})
    assert (found, type(found)) == (worth, float)


@pytest.mark.parametrize("worth", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_returned_and_not_stored(path: Path, journal: Journal, worth: float) -> None:
    assert str(journal.remembering(lambda kept: worth)({})) == str(worth)
    assert rows(path, "SELECT * FROM evaluations") == []


def test_an_evaluation_that_fails_leaves_nothing(path: Path, journal: Journal) -> None:
    def fail(kept: Kept) -> float:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        journal.remembering(fail)({})
    assert rows(path, "SELECT * FROM evaluations") == []
    assert journal.remembering(Counting())({}) == 0


def test_settings_are_carried_and_keep_evaluations_apart(journal: Journal) -> None:
    accuracy, loss = (journal.remembering(Counting({"measure": name})) for name in ("accuracy", "loss"))
    assert accuracy.settings == {"measure": "accuracy"}
    assert accuracy({"a": (1,)}) == loss({"a": (1,)}) == 0.1
    assert (accuracy.made, loss.made, journal.evaluations) == (1, 1, 2)
    assert not hasattr(journal.remembering(lambda kept: 0.0), "settings")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"recovery": {"samples": 5, "by": torch.nn.ReLU()}},
            r"must be plain data .*; recovery\.by is not: .*ReLU",
        ),
        ({"images": torch.ones(2)}, "images is not: Object of type Tensor"),
        ({("a", 1): 2}, "must be a mapping from text to plain data: keys must be str"),
        (5, "must be a mapping from text to plain data: 'int' object"),
    ],
)
def test_settings_that_are_no_plain_data_are_named(journal: Journal, settings: Any, message: str) -> None:
    with pytest.raises(JournalError, match=message):
        journal.remembering(Counting(settings))


class Bounding:
    """A race that ends in one worth or bound; meanwhile something else may happen."""

    def __init__(self, worth: Worth, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.worth, self.meanwhile = worth, meanwhile

    def __call__(self, kept: Kept) -> float:
        raise NotImplementedError

    def race(self, candidates: Sequence[Kept], **_: Any) -> list[Worth]:
        self.meanwhile()
        return [self.worth] * len(candidates)


@pytest.mark.parametrize(
    ("mine", "theirs", "stays"),
    [
        (Worth(0.8, False), Worth(0.7, False), (0.7, 0)),
        (Worth(0.6, False), Worth(0.7, False), (0.6, 0)),
        (Worth(0.5), Worth(0.7, False), (0.5, 1)),
        (Worth(0.4, False), Worth(0.5), (0.5, 1)),
        (Worth(0.4), Worth(0.5), (0.5, 1)),
    ],
)
def test_of_two_processes_whoever_says_more_is_believed(
    path: Path, journal: Journal, mine: Worth, theirs: Worth, stays: tuple[float, int]
) -> None:
    def other() -> None:
        with Journal.open(path, IDENTITY) as same:
            same.remembering(Bounding(theirs)).race([{}])  # type: ignore[attr-defined]  # a race stays one

    found = journal.remembering(Bounding(mine, other)).race([{}])  # type: ignore[attr-defined]  # as above
    assert rows(path, "SELECT worth, exact FROM evaluations") == [stays]
    assert found == [Worth(stays[0], bool(stays[1]))]


def test_a_candidate_is_judged_once_more_past_the_memory(path: Path, journal: Journal) -> None:
    numbers = iter([0.5, 0.6])
    evaluate = journal.remembering(lambda kept: next(numbers))
    for _ in range(2):  # both judgements are remembered, each by itself
        assert [evaluate({}), evaluate.fresh({})] == [0.5, 0.6]


def test_an_evaluation_stays_what_it_was(journal: Journal) -> None:
    plain: Evaluate = journal.remembering(Counting())
    assert isinstance(plain, Remembering)
    assert not isinstance(plain, Race)
