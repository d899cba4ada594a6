"""GreedyTuner under NNI's real manager: the plan of the in-process search, whatever happens to trials."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import started_for_tests
from experiments_for_tests import write_experiment
from secateur import load_plan
from secateur.errors import ProcessError
from secateur_nni.experiments.following import follow
from secateur_nni.experiments.manager import running
from secateur_nni.experiments.results import Trial, read_trials
from secateur_nni.experiments.setting import load_experiment

pytestmark = [pytest.mark.nni, pytest.mark.timeout(600)]  # seconds on a machine with nothing else to do

DIES_BEFORE_IT_ASKS = "test -e died || { touch died; exit 7; }; "
IN_PROCESS = "import searching; print(searching.search(lambda worth, identity='': worth).fingerprint)"


def in_process(folder: Path) -> str:
    """Return the fingerprint of the plan that the same search finds within one process."""
    return started_for_tests.run("-c", IN_PROCESS, folder=folder).strip()


def run(folder: Path, path: Path) -> tuple[list[Trial], list[Any]]:
    """Run an experiment as `secateur nni run` does; return its trials, and what was heard of the search."""
    heard: list[Any] = []
    with running(load_experiment(path), folder=folder / "experiment") as experiment:
        with urllib.request.urlopen(experiment.url, timeout=10) as page:
            assert page.status == 200
            assert b"<html" in page.read()
        trials = follow(experiment, on_change=lambda _, search: heard.append(search), timeout=500)
    return trials, heard


@pytest.mark.parametrize(
    ("worth", "concurrency", "failed"),
    [
        ("worth", 2, 1),
        *(pytest.param("troubled", number, 3, marks=pytest.mark.thorough) for number in (1, 2)),
    ],
)
def test_plan_is_that_of_the_search_in_one_process(user: Path, worth: str, concurrency: int, failed: int) -> None:
    """One trial dies before it reads its parameters; where there is more trouble, one crashes and one hangs."""
    path = write_experiment(user, worth, concurrency=concurrency, timeout=20, before=DIES_BEFORE_IT_ASKS)
    home = {name: os.environ.get(name) for name in ("HOME", "NNI_CONFIG_DIR", "PATH")}
    trials, heard = run(user, path)
    plan = load_plan(user / "out")
    assert plan.fingerprint == in_process(user)
    assert dict(plan.widths) == {"a": 2, "b": 1, "c": 1}
    assert sorted(trial.status for trial in trials).count("FAILED") == failed
    assert heard[-1] == {"state": "done", "judged": plan.settings["evaluations"] + 1, "plan": plan.fingerprint}
    assert {name: os.environ.get(name) for name in home} == home
    for trial in trials:
        if trial.metrics:
            assert trial.parameters is not None
            assert trial.result["candidate"] == trial.parameters["candidate"]
    assert [trial.name for trial in read_trials(user / "experiment")] == [trial.name for trial in trials]


SPOILING = """
import os
from pathlib import Path
def search(in_trials):
    Path(f"out/.search.json.{os.getpid()}.tmp").mkdir()
    raise ValueError("no plan")
"""
DISPATCHER = """
import time
from secateur_nni.experiments.tuner import GreedyTuner
GreedyTuner("spoiling:search", "out").update_search_space({})
time.sleep(20)
"""
UNSAID = "the search failed (ValueError: no plan), which could not be written: IsADirectoryError"


def test_search_that_cannot_write_why_it_failed_ends_its_process(user: Path) -> None:
    (user / "spoiling.py").write_text(SPOILING, encoding="utf-8")
    code, printed, _ = started_for_tests.ended("-c", DISPATCHER, folder=user)
    assert code == 1
    assert UNSAID in printed


REFUSING = """
from secateur_nni.experiments.tuner import GreedyTuner
tuner = GreedyTuner("nowhere:search", "out")
tuner.update_search_space({})
tuner._thread.join()
"""


def test_search_that_is_refused_says_so_in_its_files_and_log_alone(user: Path) -> None:
    """The standard error of NNI's dispatcher is that of the command that has started the experiment."""
    done = subprocess.run([sys.executable, "-c", REFUSING], cwd=user, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "the search failed: ConfigError: 'nowhere:search'" in done.stdout
    assert "Traceback" in done.stdout
    said = json.loads((user / "out" / "search.json").read_text(encoding="utf-8"))
    assert (said["state"], said["judged"]) == ("failed", 0)


@pytest.mark.thorough
def test_search_that_cannot_write_why_it_failed_ends_the_experiment(user: Path) -> None:
    """NNI waits 30 seconds for a tuner that has ended."""
    (user / "spoiling.py").write_text(SPOILING, encoding="utf-8")
    path = write_experiment(user, "worth")
    path.write_text(path.read_text(encoding="utf-8").replace("searching:", "spoiling:"), encoding="utf-8")
    with pytest.raises(ProcessError, match=f"has not said why in .*out.*{re.escape(UNSAID)}"):
        run(user, path)


@pytest.mark.thorough
def test_candidate_that_always_fails_ends_the_experiment(user: Path) -> None:
    path = write_experiment(user, "hopeless", concurrency=2, retries=0)
    with pytest.raises(ProcessError, match=r"failed in 1 trials.*MemoryError: no memory for \['[abc]'\]"):
        run(user, path)
    assert not (user / "out" / "plan.json").exists()
