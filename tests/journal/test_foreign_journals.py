"""Files that are no journal, of another format, or damaged: refused by name, and left alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from journals_for_tests import IDENTITY, Counting, table
from secateur.errors import JournalError
from secateur.journal import Journal
from secateur.journal.store import FORMAT
from secateur.records import PruningPlan


def foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()


def journal_of_format(path: Path, number: int) -> None:
    Journal.open(path, IDENTITY).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={number}")
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("step 1: a"), "is not a journal of secateur"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(500)), "is not a journal of secateur"),
        (foreign_database, "is not a journal of secateur"),
        *(
            (
                partial(journal_of_format, number=other),
                rf"has format {other}; this version of secateur reads format {FORMAT}",
            )
            for other in (FORMAT + 1, FORMAT - 1)
        ),
        (Path.mkdir, "cannot be read"),
    ],
)
def test_other_files_are_refused_and_left_alone(path: Path, make: Callable[[Path], object], message: str) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(JournalError, match=message):
        Journal.open(path, IDENTITY)
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_of_no_bytes_is_begun(path: Path) -> None:
    path.touch()
    with Journal.open(path, IDENTITY) as journal:
        assert journal.evaluations == 0


def test_a_damaged_journal_is_named(path: Path) -> None:
    with Journal.open(path, IDENTITY) as journal:
        journal.remembering(Counting())({"a": (1,)})
    data = bytearray(path.read_bytes())
    data[100:] = bytes(len(data) - 100)
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"journal\.sqlite is damaged \(.*\); move it away"):
        Journal.open(path, IDENTITY)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE evaluations SET worth = 'much'",
        "UPDATE facts SET fact = '{'",
        "UPDATE measurements SET value = 'long'",
        "UPDATE score_tables SET settings = '{'",
        "UPDATE scores SET score = 'high'",
        "UPDATE scores SET score = 9e999",
        "UPDATE plans SET plan = '{}'",
    ],
)
def test_damage_within_a_table_is_named(path: Path, damage: str) -> None:
    def everything(journal: Journal) -> None:
        journal.remembering(Counting())({})
        journal.fact("cell", lambda: {"right": 1})
        journal.facts()
        journal.measurements(["time"], lambda: [1.0])
        journal.scores("hrank", table)
        assert journal.plan is not None

    with Journal.open(path, IDENTITY) as journal:
        journal.finished(PruningPlan((), {}, "macs", 6, 6, 6))
        everything(journal)
        everything(journal)
    connection = sqlite3.connect(path)
    assert connection.execute(damage).rowcount
    connection.commit()
    connection.close()
    with (
        Journal.open(path, IDENTITY) as journal,
        pytest.raises(JournalError, match=r"journal\.sqlite is damaged \(.*\); move it away"),
    ):
        everything(journal)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"gone/journal\.sqlite cannot be used: unable to open"):
        Journal.open(tmp_path / "gone" / "journal.sqlite", IDENTITY)
