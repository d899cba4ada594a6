"""What a comparison does not measure twice: after a stop, beside another process, or chosen by another criterion."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from comparisons_for_tests import SMALL, compare, facts, report_of
from runs_for_tests import User
from started_for_tests import Started


def shares(found: Any) -> list[Any]:
    """What a comparison has measured, without how long it took."""
    return [[cell["plan"], cell["macs"], cell["accuracy"], cell["not_measured"]] for cell in found["cells"]]


def test_the_same_command_measures_nothing_again_and_more_criteria_join(owner: User, tmp_path: Path) -> None:
    output = tmp_path / "comparison"
    assert compare(owner, output, *SMALL)[0] == 0
    before = facts(output)
    code, printed, _ = compare(owner, output, *SMALL)
    assert code == 0
    assert "4 of 4 cells are in the journal already" in printed
    assert facts(output) == before
    assert compare(owner, output, "compare.criteria=[l1,random,l2]", "compare.searches=[uniform]")[0] == 0
    after = facts(output)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system makes no copies of a process")
def test_killed_at_any_moment_it_goes_on_to_the_same_result(owner: User, tmp_path: Path) -> None:
    settings = [
        word
        for setting in (*SMALL, "compare.seeds=[0]", "compare.stages=[cut,compensated,fine-tuned]")
        for word in ("--set", setting)
    ]
    words = ("-m", "secateur_cli", "compare", owner.config, *settings, "--output")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, printed, complained = Started(*words, whole, folder=tmp_path, output=tmp_path / "printed").wait()
    assert code == 0, printed + complained
    goals, kills = [2, 7], 0
    for goal in goals:
        started = Started(*words, killed, folder=tmp_path, output=tmp_path / f"printed-{goal}")
        while started.poll() is None and _known(killed) < goal:
            time.sleep(0.01)
        kills += started.poll() is None
        started.send(signal.SIGKILL)
        assert started.wait()[0] in (-signal.SIGKILL, 0)
    assert kills >= 1
    stored = facts(killed)
    code, printed, complained = Started(*words, killed, folder=tmp_path, output=tmp_path / "printed-last").wait()
    assert code == 0, printed + complained
    assert {name: facts(killed)[name] for name in stored} == stored
    assert shares(report_of(killed)) == shares(report_of(whole))


def _known(output: Path) -> int:
    try:
        return len(facts(output))
    except sqlite3.Error:  # not there yet
        return 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system makes no copies of a process")
def test_two_processes_share_the_work(owner: User, tmp_path: Path) -> None:
    output = tmp_path / "comparison"
    settings = ("--set", "compare.criteria=[l1,l2,random]", "--set", "compare.searches=[uniform]")
    words = ("-m", "secateur_cli", "compare", owner.config, "--output", output, *settings)
    both = [Started(*words, folder=tmp_path, output=tmp_path / f"printed-{n}") for n in range(2)]
    ends = [started.wait() for started in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    worked = [[line for line in printed.splitlines() if line.startswith("[")] for _, printed, _ in ends]
    names = [line.partition("] ")[2].partition(":")[0] for lines in worked for line in lines]
    assert len(names) == len(set(names)) == 6, "each cell by one of the two"
    counts = [[int(line[1:].partition("/")[0]) for line in lines] for lines in worked]
    assert all(own == sorted(own) for own in counts)
    assert max(itertools.chain(*counts)) == 6, "what either has measured counts"
    assert sum("left" not in line for line in itertools.chain(*worked)) >= 1
    assert all(cell["not_measured"] is None for cell in report_of(output)["cells"])


def test_the_same_channels_are_measured_once_whoever_chose_them(owner: User, tmp_path: Path) -> None:
    """Our L1 and NNI's are the same numbers, also where the error curves leave a layer as it is."""
    output = tmp_path / "comparison"
    settings = ("compare.criteria=[l1,'nni:l1']", "compare.searches=[curves]", "compare.seeds=[0]")
    code, printed, complained = compare(owner, output, *settings, "compare.budgets=[90%,60%]")
    assert code == 0, complained
    found = report_of(output)
    ours, theirs = ([c["plan"] for c in found["cells"] if c["house"] == house] for house in ("secateur", "NNI"))
    assert ours == theirs
    assert len(facts(output, "accuracy compensated")) == 2
    assert [row["same_channels_as"] for row in found["rows"]] == [["l1 (NNI)"], ["l1 (secateur)"]] * 2
    assert "l1 (NNI) chooses the same channels as l1 (secateur)" in printed
    widths = [json.loads(fact)["kept"] for fact in facts(output, "plan").values()]
    assert any(len(kept) == 1 for kept in widths), "no layer was left as it is"
