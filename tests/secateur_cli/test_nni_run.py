"""`secateur nni run`: what it refuses before NNI starts, and what it says in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runs_for_tests import give
from secateur_nni.experiments import following, manager

GREEDY = """
trialCommand: python t.py
trialCodeDirectory: ~/code
trialConcurrency: 1
searchSpace: {}
trainingService: {platform: local}
tuner: {name: SecateurGreedy, classArgs: {search: "a:b", output: out}}
"""


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user with an experiment whose code lies in another folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "code").mkdir()
    (tmp_path / "experiment.yml").write_text(GREEDY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def _as_if_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """NNI does not start, and what would have run is at its end at once."""

    @contextmanager
    def running(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(url="http://localhost:1")

    monkeypatch.setattr(manager, "running", running)
    monkeypatch.setattr(following, "follow", lambda *_, **__: [])
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_run_refuses_before_nni_starts(tmp_path: Path) -> None:
    config = tmp_path / "experiment.yml"
    (tmp_path / "run.yaml").write_text("network: {build: a:b}\n", encoding="utf-8")
    config.write_text(
        "trialCommand: python t.py\ntrialConcurrency: 1\nsearchSpace: {}\ntrainingService: {platform: local}\n"
        "tuner: {name: SecateurGreedy, classArgs: {search: 'secateur_cli.nni_search:plan_of_run', output: out, "
        "arguments: {config: run.yaml}}}\n",
        encoding="utf-8",
    )
    code, _, complained = give("nni", "run", str(config), "--output", str(tmp_path / "out"), columns=300)
    assert code == 2
    assert "run.yaml" in complained
    assert "data: missing" in complained
    assert not (tmp_path / "out").exists()


def test_run_reads_the_search_in_the_folder_of_the_code(me: Path) -> None:
    (me / "code" / "run.yaml").write_text("network: {build: a:b}\n", encoding="utf-8")
    search = "search: 'secateur_cli.nni_search:plan_of_run', arguments: {config: run.yaml}"
    (me / "experiment.yml").write_text(GREEDY.replace('search: "a:b"', search), encoding="utf-8")
    code, _, complained = give("nni", "run", str(me / "experiment.yml"), "--output", str(me / "out"), columns=300)
    assert code == 2
    assert "data: missing" in complained


@pytest.mark.usefixtures("_as_if_run")
def test_run_refuses_a_search_on_a_gpu_that_nni_hides_from_its_tuner(me: Path) -> None:
    """NNI starts the tuner with an empty CUDA_VISIBLE_DEVICES where tunerGpuIndices are left out."""
    run = "network: {build: a:b}\ndata: {source: digits}\ndevice: cuda\nplan: {search: greedy, budget: {macs: 50%}}\n"
    (me / "code" / "run.yaml").write_text(run, encoding="utf-8")
    search = "search: 'secateur_cli.nni_search:plan_of_run', arguments: {config: run.yaml}"
    text = GREEDY.replace('search: "a:b"', search)
    command = ("nni", "run", str(me / "experiment.yml"), "--output", str(me / "here"))
    (me / "experiment.yml").write_text(text, encoding="utf-8")
    code, _, complained = give(*command, columns=300)
    assert code == 2
    assert f"tunerGpuIndices: missing; {me / 'code' / 'run.yaml'} has device: cuda" in complained
    assert not (me / "here").exists()
    (me / "experiment.yml").write_text(f"{text}tunerGpuIndices: [0]\n", encoding="utf-8")
    code, _, complained = give(*command, columns=300)
    assert code == 0, complained


@pytest.mark.usefixtures("_as_if_run")
def test_run_says_where_the_plan_lies(me: Path) -> None:
    code, printed, _ = give("nni", "run", str(me / "experiment.yml"), "--output", str(me / "here"), columns=300)
    assert code == 0
    assert f"the plan is in {me / 'code' / 'out' / 'plan.json'}" in printed


HOLDING = """
import sys
from pathlib import Path
from secateur_cli.commands.nni import claimed
with claimed(Path(sys.argv[1]), sys.argv[2], "another"):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path, what: str) -> Iterator[None]:
    """Within the block, another process does something in a folder."""
    command, pipe = [sys.executable, "-c", HOLDING, str(folder), what], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield
        process.communicate()


@pytest.mark.usefixtures("_as_if_run")
def test_run_leaves_a_folder_to_the_experiment_that_runs_there(me: Path) -> None:
    command = ("nni", "run", str(me / "experiment.yml"), "--output", str(me / "here"))
    with another_process(me / "here", "experiment"):
        code, _, complained = give(*command, columns=300)
    assert code == 2
    assert f"another experiment runs in {me / 'here'}" in complained
    assert give(*command)[0] == 0


@pytest.mark.usefixtures("_as_if_run")
def test_run_leaves_an_output_to_the_search_that_writes_there(me: Path) -> None:
    """Both would tell of themselves in one search.json, and the first would end by the second's error."""
    command = ("nni", "run", str(me / "experiment.yml"), "--output", str(me / "here"))
    output = me / "code" / "out"
    with another_process(output, "search"):
        (output / "search.json").write_text('{"state": "searching"}', encoding="utf-8")
        code, _, complained = give(*command, columns=300)
    assert code == 2
    assert f"another search runs in {output}; wait for its end, or choose another tuner.classArgs.output" in complained
    assert (output / "search.json").read_text(encoding="utf-8") == '{"state": "searching"}'
    assert not (me / "here").exists()
    assert give(*command)[0] == 0


@pytest.mark.usefixtures("_as_if_run")
def test_run_whose_search_writes_beside_its_trials(me: Path) -> None:
    command = ("nni", "run", str(me / "experiment.yml"), "--output", str(me / "code" / "out"))
    assert give(*command)[0] == 0


def test_run_into_what_is_no_folder(me: Path) -> None:
    (me / "here").touch()
    code, _, complained = give("nni", "run", str(me / "experiment.yml"), "--output", str(me / "here"), columns=300)
    assert code == 2
    assert "here cannot be used (File exists); choose another folder with --output" in complained


def test_run_keeps_an_earlier_experiment(me: Path) -> None:
    (me / "trials.json").write_text("[]", encoding="utf-8")
    code, _, complained = give("nni", "run", str(me / "experiment.yml"), "--output", str(me), columns=300)
    assert code == 2
    assert "holds an experiment already" in complained
    assert "the same run continues there" not in give("nni", "run", "--help", columns=300)[1]
