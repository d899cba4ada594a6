"""`secateur compare`: what it measures, prints and writes, and what a comparison that is there already answers."""

from __future__ import annotations

import base64
import csv
import itertools
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from comparisons_for_tests import compare, facts, report_of
from runs_for_tests import User
from secateur import accuracy, apply_plan, channel_groups, compensate, uniform_plan
from secateur.channel_graph import host_importance_scores
from secateur.cost import cost_model
from secateur.weights import load_weights
from secateur_cli.comparison.document import MARKS, render_comparison
from secateur_cli.comparison.schema import CompareRun, CompareSearch
from secateur_cli.inputs.data import load_data
from secateur_cli.inputs.sources import build_network
from secateur_cli.settings.config import load_config


@pytest.fixture(scope="module")
def finished(owner: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed comparison, and what it printed. Only to be read."""
    output = tmp_path_factory.mktemp("finished") / "comparison"
    code, printed, complained = compare(owner, output)
    assert code == 0, printed + complained
    return output, printed


def test_every_cell_is_measured_at_every_stage(finished: tuple[Path, str]) -> None:
    found = report_of(finished[0])
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
    cell = next(c for c in report_of(finished[0])["cells"] if c["search"] == "uniform" and c["seed"] == 0)
    assert cell["criterion"] == "magnitude p=1"
    assert cell["macs"] == plan.cost_after
    assert cell["accuracy"]["cut"] == accuracy(pruned, data.test)
    torch.manual_seed(0)
    compensate(network, pruned, plan, data.calibration)
    assert cell["accuracy"]["compensated"] == pytest.approx(accuracy(pruned, data.test), abs=1 / 48)


def test_what_seeds_share_is_measured_once_and_said(finished: tuple[Path, str]) -> None:
    output, _ = finished
    rows = {(r["criterion"], r["search"]): r for r in report_of(output)["rows"]}
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
    assert all(said in printed for said in report_of(finished[0])["verdicts"])


def test_csv_and_page(finished: tuple[Path, str]) -> None:
    output, _ = finished
    assert b"\r" not in (output / "comparison.csv").read_bytes()
    with (output / "comparison.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = report_of(output)
    assert [float(line["accuracy_cut"]) for line in lines] == [c["accuracy"]["cut"] for c in found["cells"]]
    assert {line["house"] for line in lines} == {"secateur", "Torch-Pruning", "NNI"}
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "top-1 accuracy (%; dashed: dense)" in page
    assert "Small: 4 criteria compared" in page


def test_the_page_tells_of_busy_machines_and_of_devices(finished: tuple[Path, str]) -> None:
    found = report_of(finished[0])
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
    found = report_of(finished[0])
    more = [row | {"budget": "40% of the MACs"} for row in found["rows"]]
    page = render_comparison(found | {"rows": [*found["rows"], *more]})
    assert "all on one scale. Hollow circles, dashed: uniform widths; squares: widths by error curves.</p>" in page


def test_greedy_and_latency(owner: User, tmp_path: Path) -> None:
    output = tmp_path / "comparison"
    settings = ("compare.criteria=[l1]", "compare.searches=[greedy]", "compare.seeds=[0]", "compare.stages=[cut]")
    code, printed, complained = compare(owner, output, *settings, "compare.latency=true", "compare.budgets=[80%,60%]")
    assert code == 0, complained
    first, second = report_of(output)["cells"]
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


def _accuracies(found: Any) -> set[str]:
    """The names, in the journal, of the accuracies that a comparison shows."""
    return {"accuracy dense"} | {name for cell in found["cells"] for name in cell["measured_as"].values()}


def test_show_measures_nothing(owner: User, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts(finished[0])
    code, printed, _ = compare(owner, finished[0], "compare.criteria=[l1,hrank]", flags=("--show",))
    assert code == 0
    assert "4 of 8 cells are not measured yet." in printed
    beside = len({name for name in before if name.startswith("accuracy ")} - _accuracies(report_of(finished[0])))
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
    assert report_of(finished[0])["command"] == "secateur compare 'a b.yaml' --output out"  # what has measured it all


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
