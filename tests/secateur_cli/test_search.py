"""A search by itself: it stops at the plan, goes on where it was stopped, and a run goes on from it."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from runs_for_tests import User, contents, results
from secateur import reconstruction_scores, training
from secateur.checkpoint import load_plan
from secateur.journal import Remembering
from secateur.protocols import Kept, Worth
from secateur_cli.stages import error_curves, job, pipeline, planning
from started_for_tests import Started

FILES = {"run.json", "plan.json", "stages/dense.safetensors", "stages/scores.json", "stages/plan.json"}
GREEDY = ("plan.search=greedy", "plan.delta=0.02", "plan.round_to=1")


@pytest.fixture(scope="module")
def searched(user: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed greedy search, and what it printed. Only to be read."""
    output = tmp_path_factory.mktemp("searched") / "run"
    code, said, complained = user.command(output, *GREEDY, name="search")
    assert (code, complained) == (0, "")
    return output, said


def evaluations(folder: Path) -> int:
    connection = sqlite3.connect(folder / "journal.sqlite")
    try:
        return int(connection.execute("SELECT count(*) FROM evaluations WHERE exact").fetchone()[0])
    finally:
        connection.close()


class Stopping:
    """Stops the process, as Ctrl-C would, before the exact worth of a certain number is stored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
        self.stored = 0
        keep = Remembering._keep

        def stop(memory: Remembering, kept: Kept, worth: Worth, *args: Any, **kwargs: Any) -> Worth:
            if worth.exact and self.stored == at - 1:
                raise KeyboardInterrupt
            self.stored += worth.exact
            return keep(memory, kept, worth, *args, **kwargs)

        monkeypatch.setattr(Remembering, "_keep", stop)


def test_a_search_leaves_a_plan_and_prints_it(searched: tuple[Path, str]) -> None:
    output, said = searched
    assert set(contents(output)) == FILES | {"journal.sqlite"}
    plan = load_plan(output)
    assert f"fingerprint {plan.fingerprint}" in said
    assert "2 groups" in said
    table = said[said.index("2 groups") : said.index("the plan is in")]  # where it lies may take more
    assert max(len(line) for line in table.splitlines()) <= 80
    assert f"the plan is in {output / 'plan.json'}" in said


def test_a_search_without_evaluations_keeps_no_journal_and_needs_no_onnx(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("check_installation", "describe_machine", "export"):
        monkeypatch.delattr(pipeline.secateur_onnx, name)
    code, _, complained = user.command(tmp_path / "run", name="search")
    assert (code, complained) == (0, "")
    assert set(contents(tmp_path / "run")) == FILES


def test_a_run_goes_on_from_a_search(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"
    user.command(output, name="search")
    plan = load_plan(output)
    with monkeypatch.context() as searched_already:
        for name in ("scores_by_name", "search_to_latency"):
            searched_already.delattr(planning, name)
        code, said, complained = user.command(output)
    assert (code, complained) == (0, "")
    assert "done so far: training, scores, plan" in said
    assert json.loads((output / "report.json").read_text())["plan"]["fingerprint"] == plan.fingerprint
    applied = (output / "plan.json").read_bytes()
    code, said, _ = user.command(output, name="search")  # there is nothing left to do
    assert code == 0
    assert f"fingerprint {plan.fingerprint}" in said
    assert (output / "plan.json").read_bytes() == applied


@pytest.mark.parametrize("name", ["search", "run"])
def test_a_stopped_search_goes_on_where_it_ended(
    user: User, searched: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    output, whole = tmp_path / "run", evaluations(searched[0])
    with monkeypatch.context() as stopped:
        Stopping(stopped, at=whole - 3)
        code, _, complained = user.command(output, *GREEDY, name="search")
    assert (code, complained) == (130, "stopped; the same command with --resume continues where this one ended\n")
    assert evaluations(output) == whole - 4
    before = contents(output)
    code, _, complained = user.command(output, *GREEDY, name="search")
    assert code == 2
    assert complained.startswith(f"error: {output} holds a search that is not finished; continue it with --resume")
    assert contents(output) == before
    rest = Stopping(monkeypatch, at=-1)  # never; it counts
    code, said, complained = user.command(output, *GREEDY, name=name, flags=("--resume",) if name == "search" else ())
    assert (code, complained) == (0, "")
    assert f"the journal of the search holds {whole - 4} evaluations: going on from there" in said
    assert 0 < rest.stored <= 4
    for file in ("stages/plan.json", *(["plan.json"] if name == "search" else [])):
        assert (output / file).read_bytes() == (searched[0] / file).read_bytes()


def test_a_search_from_the_curves_that_scores_anew_goes_on_where_it_ended(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*GREEDY, "plan.greedy_from=80%", "plan.rescore=2", "score.criterion=l1")
    whole, output = tmp_path / "whole", tmp_path / "run"
    code, said, _ = user.command(whole, *settings, name="search", flags=("--resume",))
    assert code == 0
    assert f"{whole} holds no search to go on with: a new one begins" in " ".join(said.split())
    found = load_plan(whole).settings
    assert found["start"]["search"] == "curves"
    assert found["rescored"] == (found["steps"] - 1) // 2 > 0
    with monkeypatch.context() as stopped:
        Stopping(stopped, at=evaluations(whole) - 1)
        assert user.command(output, *settings, name="search")[0] == 130
    code, said, complained = user.command(output, *settings, name="search", flags=("--resume",))
    assert (code, complained) == (0, "")
    assert "going on from there" in said
    assert (output / "stages/plan.json").read_bytes() == (whole / "stages/plan.json").read_bytes()


def test_a_search_from_curves_below_the_budget_is_refused(user: User, tmp_path: Path) -> None:
    code, _, complained = user.command(tmp_path / "run", *GREEDY, "plan.greedy_from=50%", name="search")
    assert code == 2
    assert "plan.greedy_from: 50%: the search has to begin above a budget" in complained
    assert not (tmp_path / "run").exists()


def test_resuming_begins_where_there_is_nothing(user: User, tmp_path: Path) -> None:
    code, _, complained = user.command(tmp_path / "run", name="search", flags=("--resume",))
    assert (code, complained) == (0, "")


def test_a_journal_of_other_weights_is_refused(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"
    with monkeypatch.context() as stopped:
        Stopping(stopped, at=3)
        user.command(output, *GREEDY, name="search")
    dense = output / "stages" / "dense.safetensors"
    save_file({name: tensor + (name == "first.weight") for name, tensor in load_file(dense).items()}, dense)
    record = json.loads((output / "run.json").read_text())
    del record["files"]  # by which it would be told at once that the weights are not what was written
    (output / "run.json").write_text(json.dumps(record))
    code, _, complained = user.command(output, *GREEDY, name="search", flags=("--resume",))
    assert code == 2
    assert f"the journal {output / 'journal.sqlite'} is of another search or comparison: weights: " in complained
    for other in ("data", "structure", "seed", "settings"):
        assert f"{other}: " not in complained


def test_several_searches_have_a_folder_each(user: User, tmp_path: Path) -> None:
    code, said, _ = user.command(tmp_path, "plan.search=[uniform, greedy]", name="search")
    assert code == 0
    for name in ("uniform", "greedy"):
        assert f"fingerprint {load_plan(tmp_path / name).fingerprint}" in said


@pytest.mark.parametrize("name", ["search", "run"])
def test_several_searches_begin_with_one_trained_network(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trained = list[Path]()

    def fine_tune(*given: Any, checkpoint: Path, **more: Any) -> Any:
        trained.append(checkpoint.parent.parent)
        return training.fine_tune(*given, checkpoint=checkpoint, **more)

    monkeypatch.setattr(job, "fine_tune", fine_tune)
    settings = ("plan.search=[uniform, curves]", "fine_tune=null")
    code, said, _ = user.command(tmp_path / "both", *settings, name=name)
    assert code == 0
    assert trained == [tmp_path / "both" / "uniform"]
    assert f"those of the run in {trained[0]}" in said
    user.command(tmp_path / "alone", "plan.search=curves", "fine_tune=null", name=name)
    assert results(tmp_path / "both" / "curves") == results(tmp_path / "alone")


def test_error_curves_are_made_once_whichever_searches_lie_between(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[int]()

    def curves(*given: Any, **more: Any) -> Any:
        made.append(1)
        return reconstruction_scores(*given, **more)

    monkeypatch.setattr(error_curves, "reconstruction_scores", curves)
    settings = ("plan.search=[curves, uniform, greedy]", "plan.greedy_from=80%", "train=null")
    assert user.command(tmp_path, *settings, name="search")[0] == 0
    assert made == [1]


def test_several_budgets_are_met_and_shown(user: User, tmp_path: Path) -> None:
    budgets = "plan.budget={macs: 60%, parameters: 900, bytes: 70%}"
    code, said, complained = user.command(tmp_path / "run", budgets, "fine_tune=null")
    assert (code, complained) == (0, "")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    spent = {report["plan"]["cost"]: report["plan"], **report["plan"]["further"]}
    assert list(spent) == ["macs", "parameters", "bytes"]
    assert all(cost["after"] <= cost["budget"] < cost["before"] for cost in spent.values())
    assert spent["parameters"]["budget"] == 900
    assert spent["parameters"]["before"] == report["cost"]["parameters"]["before"]
    rows = [line.split("  ")[0].strip() for line in said.splitlines() if "allowed" in line and "plan" not in line]
    assert rows == ["MACs", "parameters", "bytes of the tensors"]
    assert max(map(len, said[said.index("top-1, held out") :].splitlines())) <= 80
    page = (tmp_path / "run" / "report.html").read_text()
    assert "% of the MACs and " in page
    assert "% of the bytes of the tensors." in page


@pytest.mark.parametrize("cost", ["flops2", "thop", "hrank", "hrank_parameters"])
def test_budgets_as_papers_count(user: User, tmp_path: Path, cost: str) -> None:
    code, _, complained = user.command(tmp_path / "run", f"plan.budget={{{cost}: 60%}}", name="search")
    assert (code, complained) == (0, "")
    plan = load_plan(tmp_path / "run")
    assert plan.cost == cost
    assert plan.cost_after <= plan.budget == pytest.approx(0.6 * plan.cost_before)


@pytest.mark.parametrize(
    "worth", ["{measure: loss}", "{measure: fidelity, recovery: recalibrate}", "{recovery: compensate}"]
)
def test_candidates_are_worth_what_is_asked_for(user: User, tmp_path: Path, worth: str) -> None:
    code, _, complained = user.command(tmp_path / "run", "plan.search=greedy", f"plan.worth={worth}", name="search")
    assert (code, complained) == (0, "")
    found, asked = load_plan(tmp_path / "run").settings["evaluation"], yaml.safe_load(worth)
    assert {key: found[key] for key in asked} == asked
    assert found["images"] == 32
    assert found.get("calibration_images") == (64 if "recovery" in asked else None)


def test_a_search_that_is_killed_is_continued(user: User, searched: tuple[Path, str], tmp_path: Path) -> None:
    output, dice = tmp_path / "run", random.Random(4)
    changes = [word for setting in GREEDY for word in ("--set", setting)]
    command = ("-m", "secateur_cli", "search", user.config, "--output", output, "--resume", *changes)
    journal = output / "journal.sqlite"
    for number in range(3):
        process = Started(*command, folder=tmp_path, output=tmp_path / f"killed-{number}")
        while not journal.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.2) if number == 0 else dice.uniform(0.1, 0.8))  # it takes some time to start
        process.send(signal.SIGKILL)
        process.wait(seconds=60)
    code, printed, complained = Started(*command, folder=tmp_path, output=tmp_path / "done").wait()
    assert code == 0, printed + complained
    assert (output / "plan.json").read_bytes() == (searched[0] / "plan.json").read_bytes()
    assert torch.equal(*(load_file(d / "stages/dense.safetensors")["first.weight"] for d in (output, searched[0])))
