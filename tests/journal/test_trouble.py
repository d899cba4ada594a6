"""A disk that is full, a file that is read-only or locked: told in a line, and nothing that was stored is lost."""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

import pytest

from secateur.errors import JournalError
from secateur.journal import Journal
from secateur.protocols import Evaluate
from started_for_tests import ended

IDENTITY = {"seed": 0}


def worth(kept: object) -> float:
    return 0.5


def test_a_full_disk_is_told_and_loses_nothing(path: Path) -> None:
    with Journal.open(path, IDENTITY) as journal:
        evaluate = journal.remembering(worth)
        pages = journal._store.read("PRAGMA page_count")[0][0]
        journal._store.read(f"PRAGMA max_page_count={pages + 1}")
        with pytest.raises(JournalError, match=r"cannot be written \(database or disk is full\); what it holds stays"):
            fill(evaluate)
        stored = journal.evaluations
        assert stored == evaluate.made - 1 > 0  # the last one had no room
        journal._store.read(f"PRAGMA max_page_count={2**30}")
        evaluate({"group": tuple(range(stored))})  # there is room again
    with Journal.open(path, IDENTITY) as journal:
        assert journal.evaluations == stored + 1


def fill(evaluate: Evaluate) -> None:
    for number in range(1000):
        evaluate({"group": tuple(range(number))})


LIMITED = """
import resource, sys
from secateur.errors import JournalError
from secateur.journal import Journal

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
with Journal.open(sys.argv[1], {"seed": 0}) as journal:
    evaluate = journal.remembering(lambda kept: 0.5)
    try:
        for number in range(10_000):
            evaluate({"group": tuple(range(number))})
            print(number)
    except JournalError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_a_process_without_room_ends_in_a_line_and_the_next_goes_on(path: Path) -> None:
    code, printed, complained = ended("-c", LIMITED, path, folder=path.parent)
    assert code == 3, complained
    assert "cannot be written" in complained
    assert complained.count("\n") == 1
    with Journal.open(path, IDENTITY) as journal:
        assert journal.evaluations == len(printed.splitlines()) > 0
        made = journal.remembering(worth)
        for number in range(journal.evaluations + 1):
            made({"group": tuple(range(number))})
        assert made.made == 1


def test_a_journal_that_may_only_be_read_is_told(path: Path) -> None:
    with Journal.open(path, IDENTITY) as journal:
        evaluate = journal.remembering(worth)
        evaluate({})
        journal._store.read("PRAGMA query_only=1")  # as a file without the right to write, also for root
        assert evaluate({}) == 0.5
        with pytest.raises(JournalError, match=r"cannot be written .*readonly"):
            evaluate({"a": (0,)})


def test_a_journal_that_stays_locked_is_told(path: Path) -> None:
    with Journal.open(path, IDENTITY, patience=0.2) as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(JournalError, match=r"was locked for more than 0\.2 s by another process"):
            journal.remembering(worth)({})
        assert time.monotonic() - begun < 5
        assert journal.evaluations == 0  # reading does not wait
        other.execute("ROLLBACK")
        assert journal.remembering(worth)({}) == 0.5
        other.close()
