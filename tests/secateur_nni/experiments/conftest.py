"""Real experiments of NNI: a folder of a user's, and the proof that no process of NNI outlives a test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments_for_tests import MARK, SEARCHING, WORTHS, processes_of
from started_for_tests import forkserver


@pytest.fixture(autouse=True)
def _no_process_of_nni_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test starts, managers, tuners, trials and their children, has the mark of the test."""
    forkserver()  # if it is not there yet: it stays for other tests
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    deadline = time.monotonic() + 5
    while (left := processes_of(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder with a search and the worths of its candidates."""
    (tmp_path / "searching.py").write_text(SEARCHING, encoding="utf-8")
    (tmp_path / "worths.py").write_text(WORTHS, encoding="utf-8")
    return tmp_path
