"""The report: its sections and figures, what each says, and what is left where parts are absent."""

from __future__ import annotations

import copy
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from reports_for_tests import Page, full_report, minimal_report, quantized_report, rendered
from secateur.errors import MissingDependencyError
from secateur_cli.report.plots import widths_plot
from secateur_cli.report.report import render_report, write_report

MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(rendered(full_report))


def test_full_report_has_every_section_and_figure(page: Page) -> None:
    assert page.section_names == [
        "summary", "accuracy", "speed", "recovery", "widths", "scores", "search", "cost", "onnx", "removal", "skipped",
        "training", "fine-tuning", "settings", "repeat",
    ]  # fmt: skip
    figures = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert len(figures) == 7 + 6  # accuracy, speed, times, errors, widths, path, training, and a panel for each group
    assert figures[0] == (
        "Accuracy after each step: dense 98.5%; channels removed 81.2%; compensated 94.8%; fine-tuned 97.5%"
    )


def test_summary_says_the_result_in_plain_words(page: Page) -> None:
    assert (
        "The pruned network needs 49.4% of the MACs. It reaches 97.5% top-1 on 400 held-out images (dense: 98.5%). "
        "The ONNX file agrees with torch on 400 of 400 images (largest difference 3.1e-07 of the largest output). "
        "Against the dense network in ONNX Runtime on CPU it is 1.83 times as fast at batch 32 (95% interval 1.78 to "
        "1.90); 1.62 times as fast at batch 8 (95% interval 1.55 to 1.70); not faster at batch 1 (1.02 times the "
        "speed, 95% interval 0.97 to 1.06)."
    ) in page.words
    assert (
        f"top-1 accuracy 98.5% 97.5% {MINUS}1.0 points before fine-tuning 98.5% 94.8% {MINUS}3.7 points" in page.words
    )
    assert f"MACs of one image 12.0 M 5.93 M {MINUS}50.6%" in page.words
    assert f"ONNX file 1.12 MB 581 kB {MINUS}48.1%" in page.words
    assert "time, batch 1 0.310 ms 0.304 ms not faster" in page.words


def test_fewer_bits_are_told(page: Page) -> None:
    told = Page(rendered(quantized_report))
    added = [name for name in told.section_names if name not in page.section_names]
    assert added == ["few-bits", "int8", "execution", "quantization-fine-tuning"]
    for text in (
        "With 4.25 bits a weight it takes 81.2 kB on disk instead of 577 kB, and reaches 97.2%.",
        "In static INT8 it reaches 97.0%; beside its float file on the CPU that is 1.90 times as fast at batch 1",
        "pruned, in float32 97.5% rounded 93.0% fine-tuned through the rounding 97.2%",
        f"packed, safetensors 577 kB 81.2 kB {MINUS}85.9% ONNX 581 kB 93.0 kB {MINUS}84.0%",
        "2 layers read activations of 8 bits",
        "3 INT4 onnx does not know it",
        "up a transposed convolution in groups",
        "block1.conv1 8 of 3 bits, 8 of 6 bits",
        "few bits and activations CPU dequantised floats slower than floats seen in its graph",
        "few bits and activations CUDA dequantised floats no speed is claimed not seen here",
    ):
        assert text in told.words, text


def test_uniform_bits_are_not_said_of_the_ends_of_the_network() -> None:
    report = quantized_report()
    report["quantization"]["order"] = "uniform"
    for ends, said in ((8, " Those of the first and the last layer have 8."), (None, "")):
        report["config"]["quantize"] = {"order": "uniform", "bits": [4], "ends": ends, "learning_rate": 0.01}
        words = Page(render_report(report)).words
        assert f"All filters have as many bits.{said} On average a weight" in words
        assert "At a learning rate of 0.01." in words


def test_evidence_names_what_ran(page: Page) -> None:
    for text in (
        "390 of 400 97.5% 95.5% to 98.6%",
        "pruned CPUExecutionProvider 21 3 Add, 9 Conv, 1 Gemm",
        "its channels are the network's outputs",
        "33b17dfa592c94ff",
        "secateur run examples/digits.yaml",
        "norm mixes channels",
        "version of torch 2.15.0",
        "data digits: 1257 train, 140 validation, 400 test, 10 classes weights",
        f"batch 1 14.6 MB 12.1 MB {MINUS}17.1% batch 8 16.9 MB 13.3 MB {MINUS}21.3%",
    ):
        assert text in page.words, text


def test_the_path_of_a_search_has_the_unit_of_its_cost_and_says_what_was_judged() -> None:
    report = full_report()
    report["plan"] |= {"cost": "latency", "budget": 0.0512, "search": "greedy"}
    report["plan"]["settings"] = {"evaluation": {"measure": "loss", "images": 500, "recovery": "compensate"}}
    for number, step in enumerate(report["search"]["steps"]):
        step["cost"] = 0.0712 - number / 1e4
    page = render_report(report)
    assert f"steps from 0.0712 ms to {report['search']['steps'][-1]['cost']:.4f} ms, latency" in page
    assert "0.0712 ms" in Page(page).words
    assert "worth, by loss" in page


def test_epochs_say_which_images_judged_them_and_which_was_taken(page: Page) -> None:
    assert "epoch training loss top-1, validation" in page.words
    report = full_report()
    report["fine_tuning"]["chosen"] = 1
    words = Page(render_report(report)).words
    assert "Each epoch was judged on the validation images; the weights are those of epoch 1." in words


@pytest.mark.parametrize("absent", sorted(full_report()))
def test_any_part_may_be_absent(absent: str) -> None:
    report = {key: value for key, value in full_report().items() if key != absent}
    report["plan"] = dict(report.get("plan", {}), groups=report.get("plan", {}).get("groups", [])[:1])
    assert "None" not in Page(render_report(report)).words


def test_any_part_of_onnx_may_be_absent() -> None:
    for absent in ("dense", "pruned", "parity", "benchmark"):
        report = full_report()
        del report["onnx"][absent], report["plan"]["groups"]
        assert "onnx" in Page(render_report(report)).section_names


def test_smoke_run_says_so(page: Page) -> None:
    assert "A smoke run" not in page.words
    assert "A smoke run" in Page(render_report(minimal_report() | {"smoke": True})).words


def test_layers_that_differ_in_the_middle_of_their_names_are_told_apart_in_figures() -> None:
    names = [f"features.denseblock{block}.denselayer1.conv1" for block in (1, 2, 3)]
    svg = widths_plot([{"name": name, "width": 8, "kept": 4} for name in names])
    labels = [text for text in ET.fromstring(svg).itertext() if "denseblock" in text]
    assert labels == [f"…denseblock{block}…ayer1.conv1" for block in (1, 2, 3)]


def test_a_network_that_is_always_right_can_be_drawn() -> None:
    report = minimal_report()
    report["accuracy"] = [
        {"stage": "dense", "accuracy": 1.0, "images": 400},
        {"stage": "channels removed", "accuracy": 0.0, "images": 10_000},
    ]
    page = Page(render_report(report))
    labels = [str(a.get("aria-label")) for tag, a in page.elements if tag == "svg"]
    assert "Accuracy after each step: dense 100.0%; channels removed 0.0%" in labels


def test_write_report_gives_both_files_and_valid_json(tmp_path: Path) -> None:
    report = full_report()
    report["fine_tuning"]["epochs"].append({"epoch": 2, "loss": math.nan, "accuracy": 0.97})
    given = copy.deepcopy(report)
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["fine_tuning"]["epochs"][1]["loss"] is None
    assert read["plan"] == given["plan"]
    assert repr(report) == repr(given)
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_without_its_packages_the_data_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=re.escape('pip install "secateur[report]"')):
        write_report(minimal_report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_times_that_scatter_are_told_of_in_the_page() -> None:
    report = full_report()
    first, *_ = report["onnx"]["benchmark"]["comparisons"]
    first["caution"] = "the times of the dense network scatter"
    page = render_report(report)
    assert f"batch {first['batch_size']}" in page
    assert page.count("the times of the dense network scatter.") == 1
    said = f"The times at batch {first['batch_size']} scatter as on a busy machine: measure again on an idle one."
    assert page.count(said) == 1
