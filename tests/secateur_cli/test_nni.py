"""`secateur nni`: what it shows of an experiment, and the run that its trials are made of."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from runs_for_tests import User, give
from secateur import load_plan
from secateur.errors import CheckpointError, ConfigError
from secateur.protocols import Evaluate
from secateur_cli.nni_search import plan_of_run, run_to_search, worth_of_run
from secateur_cli.report.front_plot import front_plot
from secateur_cli.tuning_trial import as_changes, tuned_run
from secateur_nni.experiments.results import Trial, write_trials

TRIALS = [
    Trial("a", 0, "SUCCEEDED", {"delta": 0.02}, {"default": 0.8, "validation_accuracy": 0.9, "macs": 5e6}, (), 2.0),
    Trial("b", 1, "SUCCEEDED", {"delta": 0.04}, {"default": 0.6, "validation_accuracy": 0.8, "macs": 6e6}, (), 2.0),
    Trial("c", 2, "FAILED", {"delta": 0.05}, {"default": -1e9, "error": "DataError: no images"}, (), 2.0),
    Trial("d", 3, "FAILED", None, None),
]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The folder of an experiment that has ended."""
    (tmp_path / "experiment.json").write_text(json.dumps({"id": "none", "port": 1, "pid": 1}), encoding="utf-8")
    write_trials(TRIALS, tmp_path)
    return tmp_path


@pytest.fixture
def greedy(user: User, tmp_path: Path) -> Path:
    """The configuration of a run that searches greedily, in a folder of its own."""
    for path in user.folder.glob("secateur_user_*.py"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    text = user.config.read_text(encoding="utf-8").replace("search: uniform", "search: greedy")
    config = tmp_path / "run.yaml"
    config.write_text(f"{text}output: {tmp_path / 'trials'}\n", encoding="utf-8")
    return config


def test_status_says_what_each_trial_had_and_found(experiment: Path) -> None:
    code, printed, _ = give("nni", "status", str(experiment), columns=200)
    assert code == 0
    assert printed.splitlines()[0] == "2 succeeded, 2 failed; the experiment has ended"
    assert "trial 0: succeeded, macs 5e+06; delta=0.02" in printed
    assert "trial 2: failed, DataError: no images; delta=0.05" in printed
    assert "trial 3: failed, no result; parameters unknown" in printed
    facts = json.loads(give("nni", "status", str(experiment), "--json")[1])
    assert facts["page"] is None
    assert facts["trials"][1]["metrics"]["macs"] == 6e6


def test_status_as_data_keeps_hyperparameters_and_metrics_apart(experiment: Path) -> None:
    found = {"default": 0.8, "parameters": 9e4, "status": 1.0}
    write_trials([Trial("a", 0, "SUCCEEDED", {"delta": 0.02}, found)], experiment)
    (trial,) = json.loads(give("nni", "status", str(experiment), "--json")[1])["trials"]
    assert trial == {"trial": "a", "status": "SUCCEEDED", "parameters": {"delta": 0.02}, "metrics": found}


def test_status_of_a_killed_experiment_calls_nothing_running(experiment: Path) -> None:
    reported = Trial("f", 5, "RUNNING", {"delta": 0.1}, {"default": 0.7}, (), None)
    write_trials([TRIALS[0], Trial("e", 4, "RUNNING", None, None), Trial("g", 6, "WAITING", None, None)], experiment)
    printed = give("nni", "status", str(experiment), columns=200)[1]
    assert printed.splitlines()[0] == "1 succeeded, 2 unfinished; the experiment was ended before they were"
    assert "trial 4: unfinished, no result; parameters unknown" in printed
    assert json.loads(give("nni", "status", str(experiment), "--json")[1])["trials"][1]["status"] == "UNFINISHED"
    write_trials([TRIALS[0], reported], experiment)  # a greedy search is done once the last trial has reported
    printed = give("nni", "status", str(experiment), columns=200)[1]
    assert printed.splitlines()[0] == "1 succeeded, 1 reported; the experiment has ended"


@pytest.mark.parametrize("command", ["status", "export"])
def test_no_experiment_is_called_ended_behind_a_proxy(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:80")
    code, printed, complained = give("nni", command, str(experiment), columns=300)
    assert (code, printed) == (2, "")
    assert "requests to localhost would go to the proxy of HTTP_PROXY" in complained


def test_export_writes_tables_and_the_front(experiment: Path) -> None:
    code, printed, _ = give("nni", "export", str(experiment), columns=200)
    assert code == 0
    assert "5e+06" in printed
    assert "6e+06" not in printed
    assert len((experiment / "trials.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert len((experiment / "front.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert ET.parse(experiment / "front.svg").getroot().tag.endswith("svg")


def test_export_of_what_nobody_has_measured(experiment: Path) -> None:
    code, _, complained = give("nni", "export", str(experiment), "--cost", "latency", columns=200)
    assert code == 2
    assert "no trial has found both validation_accuracy and latency; there are default, macs" in complained
    assert not (experiment / "trials.csv").exists()


@pytest.mark.parametrize("command", ["status", "export"])
def test_folder_that_is_none(tmp_path: Path, command: str) -> None:
    code, _, complained = give("nni", command, str(tmp_path), columns=300)
    assert code == 2
    assert "is not the folder of an experiment of NNI" in complained


def test_trials_judge_as_the_search_would(greedy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is that of `secateur search`, where each worth is that of what a trial makes on its own."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"dense\.safetensors is not on this machine"):
        worth_of_run(str(greedy))
    asked: list[str] = []

    def in_trials(worth: Evaluate, *, identity: str = "") -> Evaluate:
        there, name = worth_of_run(str(greedy))
        assert name == identity
        asked.append(name)
        return there

    plan = plan_of_run(in_trials, str(greedy))
    assert len(asked) == 1
    code, *_ = give("search", str(greedy), "--output", str(tmp_path / "here"))
    assert code == 0
    assert load_plan(tmp_path / "here").to_json() == plan.to_json()


def test_trials_read_the_images_that_a_search_draws(
    greedy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader of the user shuffles what compensation reads; a trial has drawn other numbers before than the run."""
    text = greedy.read_text(encoding="utf-8")
    wanted = "worth: {images: 32, recovery: compensate}"
    greedy.write_text(text.replace("worth: {images: 32}", wanted), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def in_trials(worth: Evaluate, *, identity: str = "") -> Evaluate:
        there, name = worth_of_run(str(greedy))
        assert name == identity
        return there

    plan_of_run(in_trials, str(greedy))


@pytest.mark.parametrize("search", ["uniform", "[greedy, refine]"])
def test_searches_that_are_no_experiment(greedy: Path, search: str) -> None:
    greedy.write_text(
        greedy.read_text(encoding="utf-8").replace("search: greedy", f"search: {search}"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="judges the candidates of one search by evaluation: greedy or refine"):
        run_to_search(str(greedy))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "search: [greedy, uniform]",
            "plan.search: greedy, uniform: a trial is one run, of one search and one variant",
        ),
        ("search: uniform, variant: [low, reverse]", "plan.variant: low, reverse: a trial is one run"),
    ],
)
def test_trial_of_several_runs(greedy: Path, tmp_path: Path, given: str, message: str) -> None:
    greedy.write_text(greedy.read_text(encoding="utf-8").replace("search: greedy", given), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        tuned_run({}, print, config=greedy, output=tmp_path / "run", smoke=True)
    assert not (tmp_path / "run").exists()


def test_trial_of_a_whole_run(greedy: Path, tmp_path: Path) -> None:
    parameters = {"score.criterion": {"_name": "di", "score.options.rho": 0.1}, "plan.budget.macs%": 60.0}
    steps: list[Any] = []
    output = tmp_path / "run"
    result = tuned_run(parameters, steps.append, config=greedy, output=output, smoke=True, cost_weight=0.5)
    assert result["default"] == result["validation_accuracy"] - 0.5 * result["macs_share"]
    assert result["macs_share"] <= 0.6
    assert result["latency_ms"] > 0
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    report = json.loads((output / "run.json").read_text(encoding="utf-8"))["settings"]
    assert report["score"]["criterion"] == "di"
    assert report["score"]["options"] == {"rho": 0.1}
    assert as_changes(parameters)[-1] == "plan.budget.macs=60%"


def test_front_as_a_plot() -> None:
    svg = front_plot([(5e6, 0.9), (6e6, 0.8)], [(5e6, 0.9)], cost="macs", worth="accuracy")
    root = ET.fromstring(svg)
    assert root.attrib["aria-label"] == "Front of accuracy against macs: 5.00 M 90"


def test_short_times_on_the_axis_of_a_front_are_told_apart() -> None:
    points = [(0.0311, 0.9), (0.0312, 0.91)]
    root = ET.fromstring(front_plot(points, points, cost="latency_ms", worth="accuracy"))
    assert root.attrib["aria-label"] == "Front of accuracy against latency_ms: 0.0311 90; 0.0312 91"
    ticks = [text for text in root.itertext() if text.startswith("0.031")]
    assert len(ticks) == len(set(ticks)) > 2
