"""A search that is killed at any moment, and begun again, ends as if nothing had been; so do two on one journal."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import searches_for_tests
from cases_for_tests import cases

KILLS = 30
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system makes no copies of a process")


@pytest.fixture(scope="module", params=cases(["one by one", "race"], thorough=["one by one"]))
def searches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `searches_for_tests.main` leaves."""
    folder = tmp_path_factory.mktemp("searches")
    script = Path(searches_for_tests.__file__)
    done = subprocess.run(
        [sys.executable, str(script), request.param, str(folder), str(KILLS)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def begun(folder: Path) -> int:
    return (folder / "count").stat().st_size


def stored(folder: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(folder / "journal.sqlite")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_killed_thirty_times_it_ends_in_the_same_plan_and_loses_one_evaluation_each_time(searches: Path) -> None:
    plan, undisturbed = (searches / "undisturbed" / "plan.json").read_bytes(), begun(searches / "undisturbed")
    kills = 0
    for folder in searches.glob("killed-*"):
        times = int((folder / "kills").read_text())
        assert (folder / "plan.json").read_bytes() == plan
        assert begun(folder) <= undisturbed + times
        assert list(folder.glob("*-wal")) == []  # the last process has tidied up
        kills += times
    assert kills == KILLS


def test_two_at_once_store_each_evaluation_once_and_end_in_the_same_plan(searches: Path) -> None:
    together, undisturbed = searches / "together", searches / "undisturbed"
    assert (together / "plan.json").read_bytes() == (undisturbed / "plan.json").read_bytes()
    assert begun(together) <= 2 * begun(undisturbed)
    for table in ("decisions", "plans", "scores", "identity"):
        query = f"SELECT * FROM {table}"
        at = -1 if table in ("decisions", "plans") else None  # all but the time of day
        found = [[row[:at] for row in stored(folder, query)] for folder in (together, undisturbed)]
        assert found[0] == found[1] != []


def test_what_the_journal_holds_is_what_was_decided(searches: Path) -> None:
    folder = searches / "undisturbed"
    ((record,),) = stored(folder, "SELECT plan FROM plans")
    assert json.loads((folder / "plan.json").read_text()) == json.loads(record)
    best = (
        "SELECT d.worth, max(e.worth) FROM decisions d, evaluations e WHERE e.exact AND e.worth = d.worth GROUP BY step"
    )
    assert all(decided == found for decided, found in stored(folder, best))
    assert len(stored(folder, best)) == stored(folder, "SELECT count(*) FROM decisions")[0][0]
