"""`secateur figure` killed, given again, given twice at once, and given with other settings."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runs_for_tests import User, contents, give
from secateur_cli.figures import bench
from secateur_cli.figures.bench import Bench
from secateur_cli.stages.job import Job
from secateur_cli.stages.preparation import prepare
from started_for_tests import Started

pytestmark = pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")  # few images, tiny network
NAME, SEEDS = "allocations", 2
ASKED = (
    *("--seeds", str(SEEDS), "--at", "60%,40%", "--lines", "uniform,curves"),
    *("--until", "removed", "--set", "fine_tune=null"),
)


def figure(user: User, output: Path, *words: str) -> tuple[int, str, str]:
    return give("figure", NAME, str(user.config), "--output", str(output), *ASKED, *words, columns=300)


def points(output: Path) -> dict[str, str]:
    """Seed and name of all that is kept, in the order in which it was stored."""
    found: dict[str, str] = {}
    for seed in range(SEEDS):
        journal = output / "points" / NAME / f"seed-{seed}" / "journal.sqlite"
        if not journal.exists():
            continue
        connection = sqlite3.connect(journal)
        try:
            rows = connection.execute("SELECT name, fact FROM facts ORDER BY rowid").fetchall()
        except sqlite3.Error:  # not there yet
            rows = []
        finally:
            connection.close()
        found |= {f"seed {seed} {name}": fact for name, fact in rows}
    return found


def numbers(output: Path) -> dict[str, Any]:
    """The record, but for how long it took, when, and in which folder."""
    record = json.loads((output / f"{NAME}.json").read_text(encoding="utf-8"))
    return {key: value for key, value in record.items() if key not in ("created", "seconds", "command")}


@pytest.fixture(scope="module")
def whole(user: User, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed figure. Only to be read."""
    output = tmp_path_factory.mktemp("whole") / "out"
    code, _, complained = figure(user, output)
    assert code == 0, complained
    return output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system makes no copies of a process")
@pytest.mark.thorough
def test_killed_it_goes_on_in_two_processes_to_the_same_numbers(user: User, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ("-m", "secateur_cli", "figure", NAME, user.config, "--output", output, *ASKED)
    killed = Started(*words, folder=tmp_path, output=tmp_path / "killed")
    while killed.poll() is None and len(points(output)) < 4:  # the dense network, scores, two points
        time.sleep(0.01)
    killed.send(signal.SIGKILL)
    assert killed.wait()[0] == -signal.SIGKILL
    kept = points(output)
    assert not (output / f"{NAME}.csv").exists()
    both = [Started(*words, folder=tmp_path, output=tmp_path / f"printed-{n}") for n in range(2)]
    for started in both:
        code, printed, complained = started.wait()
        assert code == 0, complained
        assert "points are in the journal already" in printed
    known = points(output)
    assert {name: known[name] for name in kept} == kept
    assert known.keys() == points(whole).keys()
    assert (output / f"{NAME}.csv").read_bytes() == (whole / f"{NAME}.csv").read_bytes()
    assert numbers(output) == numbers(whole)


def test_given_again_it_measures_nothing_and_writes_the_same(
    user: User, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: content for name, content in contents(whole).items() if name.startswith(NAME)}
    for work in ("scored", "planned", "judged", "dense"):
        monkeypatch.setattr(Bench, work, None)
    code, printed, complained = figure(user, whole)
    assert code == 0, complained
    assert printed.count("4 of 4 points are in the journal already") == SEEDS
    assert {name: content for name, content in contents(whole).items() if name.startswith(NAME)} == before


def test_more_points_join_what_is_there(user: User, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert figure(user, output, "--seeds", "1", "--at", "60%", "--lines", "uniform")[0] == 0
    kept = points(output)
    code, printed, _ = figure(user, output)
    assert code == 0
    assert "1 of 4 points are in the journal already" in printed
    known = points(output)
    assert {name: known[name] for name in kept} == kept
    assert numbers(output) == numbers(whole)


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        (("train.epochs=1",), "train.epochs: 2 before, 1 now"),
        (("train=null",), "weights: "),
        (("plan.round_to=4",), "plan.round_to: 2 before, 4 now"),
        (("train=null", "network.build=secateur_user_networks:Residual"), "structure: "),
    ],
)
def test_points_of_another_network_or_settings_are_refused(
    user: User, whole: Path, settings: tuple[str, ...], differs: str
) -> None:
    before = points(whole)
    changes = [word for setting in settings for word in ("--set", setting)]
    code, _, complained = figure(user, whole, *changes)
    assert code == 2
    assert differs in complained
    assert points(whole) == before


def test_points_of_other_images_are_refused(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, quick = tmp_path / "out", ("--set", "train=null", "--seeds", "1", "--at", "60%", "--lines", "uniform")
    assert figure(user, output, *quick)[0] == 0
    before = points(output)

    def prepare_other(*given: Any, **more: Any) -> Job:
        job = prepare(*given, **more)
        job.data = replace(job.data, test=job.data.validation)
        return job

    monkeypatch.setattr(bench, "prepare", prepare_other)
    code, _, complained = figure(user, output, *quick)
    assert code == 2
    assert "is of another search or comparison: data: " in complained
    assert points(output) == before


def test_a_training_that_was_stopped_does_not_go_on_with_other_images(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, quick = tmp_path / "out", ("--seeds", "1", "--at", "60%", "--lines", "uniform")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(Job, "keep", stop)
        assert figure(user, output, *quick)[0] == 130
    before = contents(output)

    def prepare_other(*given: Any, **more: Any) -> Job:
        job = prepare(*given, **more)
        job.data = replace(job.data, calibration=job.data.validation)
        return job

    with monkeypatch.context() as other:
        other.setattr(bench, "prepare", prepare_other)
        code, _, complained = figure(user, output, *quick)
    assert code == 2
    assert "holds a run on other training images" in complained
    assert contents(output) == before
    assert figure(user, output, *quick)[0] == 0
