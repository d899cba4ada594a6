"""`secateur compare`: what it measures, that it goes on after a stop, that two share the work, and what it refuses."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from runs_for_tests import User, write_user
from secateur import accuracy, apply_plan, channel_groups, compensate, precision, uniform_plan
from secateur.channel_graph import host_importance_scores
from secateur.cost import cost_model
from secateur.errors import DataError
from secateur.weights import load_weights
from secateur_cli.comparison import measuring
from secateur_cli.comparison.document import MARKS, render_comparison
from secateur_cli.comparison.schema import CompareRun, CompareSearch
from secateur_cli.comparison.setting import check_folder
from secateur_cli.inputs.data import load_data
from secateur_cli.inputs.sources import build_network
from secateur_cli.settings.config import load_config
from started_for_tests import Started

CONFIG = """
network: {build: secateur_user_networks:Small}
data: {source: secateur_user_data:load}
train: {epochs: 5, learning_rate: 0.1}
plan: {round_to: 2, worth: {images: 32}, delta: 0.2}
fine_tune: {epochs: 1}
onnx: {batch_sizes: [1], seconds: 0.05}
threads: 1
compare:
  criteria: [{name: "torch-pruning:magnitude", options: {p: 1}}, "nni:l1", hrank, random]
  searches: [uniform, curves]
  budgets: [60%]
  seeds: [0, 1]
  stages: [cut, recalibrated, compensated]
"""
SMALL = ("compare.criteria=[l1,random]", "compare.searches=[uniform]")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a comparison to make."""
    user = write_user(tmp_path_factory.mktemp("compared"))
    user.config.write_text(CONFIG, encoding="utf-8")
    return user


def compare(user: User, output: Path, *settings: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
    return user.command(output, *settings, name="compare", flags=flags, columns=100)


def report(output: Path) -> Any:
    return json.loads((output / "comparison.json").read_text(encoding="utf-8"))


def facts(output: Path, beginning: str = "") -> dict[str, str]:
    """Name -> what the journal holds, with when it was stored."""
    connection = sqlite3.connect(output / "comparison.sqlite")
    try:
        rows = connection.execute("SELECT name, fact FROM facts ORDER BY rowid").fetchall()
    finally:
        connection.close()
    return {name: fact for name, fact in rows if name.startswith(beginning)}


def shares(found: Any) -> list[Any]:
    """What a comparison has measured, without how long it took."""
    return [[cell["plan"], cell["macs"], cell["accuracy"], cell["not_measured"]] for cell in found["cells"]]


@pytest.fixture(scope="module")
def finished(owner: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed comparison, and what it printed. Only to be read."""
    output = tmp_path_factory.mktemp("finished") / "comparison"
    code, printed, complained = compare(owner, output)
    assert code == 0, printed + complained
    return output, printed


def test_every_cell_is_measured_at_every_stage(finished: tuple[Path, str]) -> None:
    found = report(finished[0])
    cells = {(c["house"], c["criterion"], c["search"], c["seed"]) for c in found["cells"]}
    names = [("Torch-Pruning", "magnitude p=1"), ("NNI", "l1"), ("secateur", "hrank"), ("secateur", "random")]
    assert cells == {(*name, search, seed) for name in names for search in ("uniform", "curves") for seed in (0, 1)}
    for cell in found["cells"]:
        assert cell["not_measured"] is None
        assert all(0 <= cell["accuracy"][stage] <= 1 for stage in ("cut", "recalibrated", "compensated"))
        assert cell["macs"] <= 0.6 * found["dense"]["macs"]
        assert cell["score_seconds"] > 0
    assert len(facts(finished[0], "accuracy dense")) == 1
    for row in found["rows"]:
        for stage, seed in itertools.product(found["stages"], ("0", "1")):
            judged = row["right"][stage][seed]
            assert judged["images"] == found["dense"]["images"]
            right = np.unpackbits(np.frombuffer(base64.b64decode(judged["bits"]), np.uint8), count=judged["images"])
            assert right.mean() == pytest.approx(row["by_seed"][stage][seed])
    assert any(f"over {found['dense']['images']:,} images)" in said for said in found["verdicts"])


def test_a_cell_is_what_its_parts_give_by_hand(owner: User, finished: tuple[Path, str]) -> None:
    """The first cell, made anew from the plugin's own functions."""
    config = load_config(owner.config, kind=CompareRun)
    network = build_network(config.network, owner.folder).eval()
    load_weights(network, finished[0] / "dense.safetensors")
    data = load_data(config.data, folder=owner.folder, seed=0)
    groups = channel_groups(network, data.example)
    macs = cost_model("macs", network, data.example, groups)
    scores = host_importance_scores(network, groups, data.calibration, "magnitude", options={"p": 1})
    plan = uniform_plan(groups, scores, macs, "60%", round_to=2)
    pruned = apply_plan(network, plan)
    cell = next(c for c in report(finished[0])["cells"] if c["search"] == "uniform" and c["seed"] == 0)
    assert cell["criterion"] == "magnitude p=1"
    assert cell["macs"] == plan.cost_after
    assert cell["accuracy"]["cut"] == accuracy(pruned, data.test)
    torch.manual_seed(0)
    compensate(network, pruned, plan, data.calibration)
    assert cell["accuracy"]["compensated"] == pytest.approx(accuracy(pruned, data.test), abs=1 / 48)


def test_what_seeds_share_is_measured_once_and_said(finished: tuple[Path, str]) -> None:
    output, _ = finished
    rows = {(r["criterion"], r["search"]): r for r in report(output)["rows"]}
    fixed, drawn = rows["magnitude p=1", "uniform"], rows["random", "uniform"]
    assert fixed["scores_shared"]
    assert fixed["plans"][0] == fixed["plans"][1]
    assert fixed["accuracy"]["cut"]["count"] == 1
    assert fixed["accuracy"]["cut"]["reach"] is None
    assert fixed["accuracy"]["compensated"]["count"] == 2
    assert {fixed[key]["count"] for key in ("macs", "parameters", "plan_seconds", "score_seconds")} == {1}
    assert rows["magnitude p=1", "curves"]["curve_seconds"]["count"] == drawn["plan_seconds"]["count"] == 2
    assert not drawn["scores_shared"]
    assert drawn["plans"][0] != drawn["plans"][1]
    assert len(facts(output, "scores")) == 2 + 2 * 2


def test_it_prints_tables_within_100_columns(finished: tuple[Path, str]) -> None:
    _, printed = finished
    assert "60% of the MACs, uniform" in printed
    assert "is first (compensated:" in printed, "48 images and two seeds make no lead"
    tables = printed[printed.index("60% of the MACs, uniform\n" if "uniform\n" in printed else "criterion  ") :]
    rows = [line for line in tables.splitlines() if line.startswith((" magnitude", " l1", " hrank", " random"))]
    assert len(rows) == 8
    assert max(map(len, rows)) <= 100
    assert "dense:" in printed
    assert "about" in printed
    assert all(said in printed for said in report(finished[0])["verdicts"])


def test_csv_and_page(finished: tuple[Path, str]) -> None:
    output, _ = finished
    assert b"\r" not in (output / "comparison.csv").read_bytes()
    with (output / "comparison.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = report(output)
    assert [float(line["accuracy_cut"]) for line in lines] == [c["accuracy"]["cut"] for c in found["cells"]]
    assert {line["house"] for line in lines} == {"secateur", "Torch-Pruning", "NNI"}
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "top-1 accuracy (%; dashed: dense)" in page
    assert "Small: 4 criteria compared" in page


def test_the_page_tells_of_busy_machines_and_of_devices(finished: tuple[Path, str]) -> None:
    found = report(finished[0])
    calm, busy = {"batch_size": 1, "measured": "end to end"}, {"caution": "the times of the dense network scatter"}
    latency = {"comparisons": [calm | busy, calm]}
    cells = [found["cells"][0] | {"latency": latency}, *found["cells"][1:]]
    page = render_comparison(found | {"cells": cells, "config": found["config"] | {"device": "cuda"}})
    assert "Speeds to be doubted: 1 of 2, of the first of which the times of the dense network scatter." in page
    assert "what cuda takes is not in them" in page
    plain = render_comparison(found)
    assert "to be doubted" not in plain
    assert "is not in them" not in plain


def test_the_page_names_the_marks_of_the_searches_that_were_compared(finished: tuple[Path, str]) -> None:
    assert set(MARKS) == set(get_args(CompareSearch))
    found = report(finished[0])
    more = [row | {"budget": "40% of the MACs"} for row in found["rows"]]
    page = render_comparison(found | {"rows": [*found["rows"], *more]})
    assert "all on one scale. Hollow circles, dashed: uniform widths; squares: widths by error curves.</p>" in page


def test_the_same_command_measures_nothing_again_and_more_criteria_join(
    owner: User, tmp_path: Path, finished: tuple[Path, str]
) -> None:
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
    assert shares(report(killed)) == shares(report(whole))


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
    assert all(cell["not_measured"] is None for cell in report(output)["cells"])


def test_the_same_channels_are_measured_once_whoever_chose_them(owner: User, tmp_path: Path) -> None:
    """Our L1 and NNI's are the same numbers, also where the error curves leave a layer as it is."""
    output = tmp_path / "comparison"
    settings = ("compare.criteria=[l1,'nni:l1']", "compare.searches=[curves]", "compare.seeds=[0]")
    code, printed, complained = compare(owner, output, *settings, "compare.budgets=[90%,60%]")
    assert code == 0, complained
    found = report(output)
    ours, theirs = ([c["plan"] for c in found["cells"] if c["house"] == house] for house in ("secateur", "NNI"))
    assert ours == theirs
    assert len(facts(output, "accuracy compensated")) == 2
    assert [row["same_channels_as"] for row in found["rows"]] == [["l1 (NNI)"], ["l1 (secateur)"]] * 2
    assert "l1 (NNI) chooses the same channels as l1 (secateur)" in printed
    widths = [json.loads(fact)["kept"] for fact in facts(output, "plan").values()]
    assert any(len(kept) == 1 for kept in widths), "no layer was left as it is"


def test_what_cannot_be_scored_says_so_and_the_others_go_on(owner: User, tmp_path: Path) -> None:
    """The second layer has no batch norm, by which Slim masks; the first one alone cannot meet the budget."""
    output = tmp_path / "comparison"
    code, printed, complained = compare(
        owner,
        output,
        "compare.criteria=[l1,'nni:slim','torch-pruning:bn-scale']",
        "compare.searches=[uniform]",
        "compare.seeds=[0]",
        "compare.budgets=[20%]",
    )
    assert code == 0, complained
    cells = {c["name"]: c for c in report(output)["cells"]}
    assert cells["l1"]["not_measured"] is None
    assert "SlimPruner masks by batch norm, and 'second' has none" in cells["nni:slim"]["not_measured"]
    assert "the lowest cost that can be reached is" in cells["torch-pruning:bn-scale"]["not_measured"]
    assert cells["nni:slim"]["accuracy"] == {"cut": None, "recalibrated": None, "compensated": None}
    assert "not measured: slim (NNI)" in printed
    assert cells["l1"]["unscored"] == {}
    assert "bn-scale (Torch-Pruning) leaves groups as they are (second: Torch-Pruning's importance has no" in printed
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert "SlimPruner masks by batch norm" in page


def test_what_fails_under_one_seed_is_measured_under_the_others(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both seeds share the plan, and what follows it reads the images of each."""
    compensated = measuring._Work.compensated

    def diverging(work: measuring._Work) -> dict[str, Any]:
        if work.cell.seed == 0:
            raise DataError("it diverged")
        return compensated(work)

    monkeypatch.setattr(measuring._Work, "compensated", diverging)
    code, printed, complained = compare(owner, tmp_path / "comparison", *SMALL, "compare.criteria=[l1]")
    assert code == 0, complained
    first, second = report(tmp_path / "comparison")["cells"]
    assert first["plan"] == second["plan"]
    assert (first["not_measured"], second["not_measured"]) == ("it diverged", None)
    assert first["accuracy"]["compensated"] is None
    assert second["accuracy"]["compensated"] is not None
    assert "not measured: l1 (secateur) (60% of the MACs, uniform, seed 0): it diverged" in printed


def test_an_option_that_is_not_finite_stops_no_results(owner: User, tmp_path: Path) -> None:
    """Torch-Pruning's magnitude takes any p, and gives no scores by the largest weight."""
    output, largest = tmp_path / "comparison", "{name: 'torch-pruning:magnitude', options: {p: .inf}}"
    code, _, complained = compare(owner, output, *SMALL, f"compare.criteria=[l1, {largest}]", "compare.seeds=[0]")
    assert (code, complained) == (0, "")
    ours, theirs = report(output)["cells"]
    assert (ours["not_measured"], theirs["options"]) == (None, {"p": None})
    assert theirs["criterion"] == "magnitude p=inf"
    assert "NaN or infinite" in theirs["not_measured"]


def test_greedy_and_latency(owner: User, tmp_path: Path) -> None:
    output = tmp_path / "comparison"
    settings = ("compare.criteria=[l1]", "compare.searches=[greedy]", "compare.seeds=[0]", "compare.stages=[cut]")
    code, printed, complained = compare(owner, output, *settings, "compare.latency=true", "compare.budgets=[80%,60%]")
    assert code == 0, complained
    first, second = report(output)["cells"]
    assert second["macs"] < first["macs"]
    assert first["latency"]["comparisons"][0]["ratio"] > 0
    assert "speed, 1" in printed
    with (output / "comparison.csv").open(newline="", encoding="utf-8") as file:
        line = next(csv.DictReader(file))
    timed = first["latency"]["comparisons"][0]
    assert float(line["milliseconds_batch_1"]) == timed["pruned"]["median_ms"]
    assert float(line["speed_batch_1"]) == timed["ratio"]
    assert len(list((output / "greedy").glob("*.sqlite"))) == 1, "both budgets go the same way"
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert "speed, batch 1" in page
    assert "Accuracy against MACs" in page


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("network.build=secateur_user_networks:Plain", 'network.build: "secateur_user_networks:Small" before'),
        ("plan.round_to=4", "settings.plan.round_to: 2 before, 4 now"),
        ("fine_tune.epochs=2", "settings.fine_tune.epochs: absent before, 2 now"),
        ("seed=3", "seed: 0 before, 3 now"),
    ],
)
def test_another_schedule_is_refused_with_what_differs(
    owner: User, finished: tuple[Path, str], setting: str, difference: str
) -> None:
    before = facts(finished[0])
    code, _, complained = compare(owner, finished[0], setting)
    assert code == 2
    assert difference in complained
    assert facts(finished[0]) == before


def test_other_folders_are_refused(owner: User, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    code, _, complained = compare(owner, tmp_path)
    assert code == 2
    assert "holds 'letter.txt', which is no comparison's" in complained
    code, _, complained = compare(owner, tmp_path / "letter.txt")
    assert code == 2
    assert "is a file" in complained
    code, _, complained = compare(owner, tmp_path / "nothing", flags=("--show",))
    assert code == 2
    assert "holds no comparison yet" in complained
    assert not (tmp_path / "nothing").exists()


def test_what_a_killed_process_left_unfinished_is_no_other_folder(tmp_path: Path) -> None:
    for name in ("claims", ".dense.safetensors.4242.tmp"):  # killed while the dense network was written
        (tmp_path / name).touch()
    check_folder(tmp_path)


def _accuracies(found: Any) -> set[str]:
    """The names, in the journal, of the accuracies that a comparison shows."""
    return {"accuracy dense"} | {name for cell in found["cells"] for name in cell["measured_as"].values()}


def test_show_measures_nothing(owner: User, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts(finished[0])
    code, printed, _ = compare(owner, finished[0], "compare.criteria=[l1,hrank]", flags=("--show",))
    assert code == 0
    assert "4 of 8 cells are not measured yet." in printed
    beside = len({name for name in before if name.startswith("accuracy ")} - _accuracies(report(finished[0])))
    assert beside > 0
    assert f"The journal holds {beside} accuracies more" in printed
    assert facts(finished[0]) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a figure without anything to draw
        code, printed, _ = compare(owner, finished[0], "compare.criteria=[l1,l2]", flags=("--show",))
    assert code == 0
    assert "8 of 8 cells are not measured yet." in printed
    assert "<svg" not in (finished[0] / "comparison.html").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["secateur", "compare", "a b.yaml", "--show", "--output", "out"])
    code, printed, _ = compare(owner, finished[0], flags=("--show",))
    assert code == 0
    assert "accuracies more" not in printed
    assert report(finished[0])["command"] == "secateur compare 'a b.yaml' --output out"  # what has measured it all


def test_without_the_packages_of_the_page_the_rest_is_written(
    owner: User, tmp_path: Path, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "secateur_cli.comparison.document", None)
    output = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    (output / "comparison.html").unlink()
    code, printed, _ = compare(owner, output, flags=("--show",))
    assert code == 0
    assert "comparison.html is not: the page needs jinja2 and matplotlib" in printed
    assert 'pip install "secateur[report]"' in printed
    assert not (output / "comparison.html").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system makes no copies of a process")
def test_without_nni_its_pruners_are_refused_before_any_work(owner: User, tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    script.write_text("import sys\nsys.modules['nni'] = None\nfrom secateur_cli.main import app\napp()\n")
    words = (script, "compare", owner.config, "--output", tmp_path / "out")
    code, _, complained = Started(*words, folder=tmp_path, output=tmp_path / "printed").wait()
    assert code == 2
    assert "NNI 3.0 cannot be imported" in complained
    assert 'pip install "secateur[nni]"' in complained
    assert not (tmp_path / "out").exists()


def test_a_training_that_cannot_be_is_refused_before_any_work(owner: User, tmp_path: Path) -> None:
    output, compared = tmp_path / "comparison", ("fine_tune.feature_weight=1", "compare.stages=[cut, fine-tuned]")
    code, _, complained = compare(owner, output, *SMALL, *compared)
    assert code == 2
    assert "fine_tune.feature_weight: no module of the network ends a residual block" in complained
    assert not output.exists()
    code, _, complained = compare(owner, output, *SMALL, "compare.seeds=[0]", *compared, "compare.stages=[cut]")
    assert code == 0, complained  # nothing is trained by that schedule


def test_a_precision_that_is_emulated_is_warned_of_before_any_work_if_anything_is_trained_in_it(
    owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_is_native", lambda _: False)
    precision._warn_of_emulation.cache_clear()
    said, output = "warning: this processor does not compute in bfloat16", tmp_path / "comparison"
    schedule = (*SMALL, "compare.criteria=[l1]", "compare.seeds=[0]", "fine_tune.precision=bfloat16")
    code, printed, complained = compare(owner, output, *schedule, "compare.stages=[cut]")
    assert (code, said in printed) == (0, False), complained
    code, printed, complained = compare(owner, output, *schedule, "compare.stages=[cut, fine-tuned]")
    assert code == 0, complained
    assert printed.count(said) == 1
    assert printed.index(said) < printed.index("dense:")


def test_a_budget_out_of_reach_is_refused_before_any_work(owner: User, tmp_path: Path) -> None:
    code, _, complained = compare(owner, tmp_path / "out", "compare.budgets=[60%,1%]")
    assert code == 2
    assert "the lowest cost that can be reached is" in complained
    assert not (tmp_path / "out").exists()
