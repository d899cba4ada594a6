"""A killed `secateur nni run` leaves no process behind: what watches over NNI's manager ends it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments_for_tests import processes_of, write_experiment
from secateur_nni.experiments import manager as nni_manager
from secateur_nni.experiments.setting import load_experiment
from secateur_nni.experiments.watching import MARK, end_experiment, watched

MANAGER = """
import signal, subprocess, sys, time
trial = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
def end(*_):
    trial.terminate()
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if "--stubborn" in sys.argv else end)
print("up", flush=True)
time.sleep(100)
"""
USER = """
import os, subprocess, sys, time
from secateur_nni.experiments.watching import MARK, watched
with watched("ours"):
    manager = [sys.executable, "-c", sys.argv[1]]
    marked = os.environ | {MARK: "ours"}
    process = subprocess.Popen(manager, stdout=subprocess.PIPE, start_new_session=True, env=marked)
    process.stdout.readline()
    print("up", flush=True)
    time.sleep(100)
"""
RUN = """
import sys, time
from secateur_nni.experiments.manager import running
from secateur_nni.experiments.setting import load_experiment
with running(load_experiment("experiment.yml"), folder="experiment"):
    print("up", flush=True)
    time.sleep(100)
"""


def started(*arguments: str, experiment: str | None = None, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a process of Python, as one of an experiment if that is named, and return when it is up."""
    marked = os.environ | ({} if experiment is None else {MARK: experiment})
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=cwd, start_new_session=True, env=marked
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def come_to(found: Callable[[], Any], wanted: Any) -> bool:
    """Wait until that is what is found. A process that has only just begun does not show its environment yet."""
    deadline = time.monotonic() + 20
    while found() != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(found() == wanted)


def test_killed_user_leaves_nothing_and_nobody_else_is_touched(tmp_path: Path) -> None:
    other = started("-c", MANAGER, experiment="theirs")
    theirs = {other.pid, *(child.pid for child in psutil.Process(other.pid).children())}
    try:
        user = started("-c", USER, MANAGER)
        # the user, the watcher, a manager and its child
        assert come_to(lambda: len(processes_of(str(tmp_path)).keys() - theirs), 4)
        user.kill()
        user.wait()
        assert come_to(lambda: processes_of(str(tmp_path)).keys(), theirs)
    finally:
        other.terminate()
        other.wait()


def test_what_does_not_end_is_killed(tmp_path: Path) -> None:
    started("-c", MANAGER, "--stubborn", experiment="ours")
    end_experiment("ours", patience=0.3)
    assert not processes_of(str(tmp_path))


def test_trials_that_have_lost_their_manager_are_found(tmp_path: Path) -> None:
    killed = started("-c", MANAGER, experiment="ours")
    killed.kill()
    killed.wait()
    assert come_to(lambda: len(processes_of(str(tmp_path))), 1)
    end_experiment("ours")
    assert not processes_of(str(tmp_path))


def test_watcher_ends_with_the_block(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), watched("ours"):
        assert come_to(lambda: len(processes_of(str(tmp_path))), 1)
        raise ZeroDivisionError
    assert not processes_of(str(tmp_path))


def test_what_a_user_starts_within_the_block_is_not_nnis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_experiment(tmp_path, "worth")

    def start(experiment: Any, _folder: Path, _port: int) -> None:
        experiment._proc = started("-c", MANAGER, experiment=experiment.id)

    monkeypatch.setattr(nni_manager, "_start", start)
    with nni_manager.running(load_experiment(path), folder=tmp_path / "experiment"):
        users = started("-c", "import time; print('up', flush=True); time.sleep(100)")
    try:
        assert processes_of(str(tmp_path)).keys() == {users.pid}
    finally:
        users.kill()
        users.wait()


@pytest.mark.nni
@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_killed_run_leaves_no_process_of_nni(user: Path) -> None:
    """One trial hangs, as a search's does when its process is killed in the midst of it."""
    write_experiment(user, "troubled", concurrency=2, timeout=200)
    run = started("-c", RUN, cwd=user)
    try:
        deadline = time.monotonic() + 120
        while not (user / "tried-c").exists():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert any("nni_node" in command for command in processes_of(str(user)).values())
    finally:
        run.kill()
        run.wait()
    assert come_to(lambda: processes_of(str(user)), {})
