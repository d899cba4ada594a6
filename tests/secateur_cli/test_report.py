"""The report: complete, inert, the same each time, and legible in a real browser."""

from __future__ import annotations

import copy
import functools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import matplotlib
import pytest

from references import wilson_bounds
from reports_for_tests import Page, full_report, hostile_report, minimal_report, quantized_report
from secateur.errors import MissingDependencyError
from secateur.search.selection import Variant
from secateur_cli.report import choosing
from secateur_cli.report.drawing import BLUE, RUST
from secateur_cli.report.plots import widths_plot
from secateur_cli.report.report import render_report, write_report
from secateur_cli.report.verdict import agreement, verdict
from secateur_cli.wording import amount, speed, spread, wilson_interval
from secateur_cli.workspace import LEARNT

MINUS = "\N{MINUS SIGN}"


@functools.cache
def rendered(make: Callable[[], dict[str, Any]]) -> str:
    return render_report(make())


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


def planned(how: dict[str, Any]) -> dict[str, Any]:
    """A run that scored and planned one group and did nothing else."""
    report = minimal_report()
    plan = report["plan"] | {"groups": report["plan"]["groups"][:1]} | how
    return report | {"scores": {"criterion": "hrank"}, "plan": plan}


@pytest.mark.parametrize(
    ("search", "variant", "heading", "gone"),
    [
        ("greedy", "low", "by hrank", "those of the lowest scores by hrank were removed. "),
        ("cross_layer", "low", "by hrank", "those of the lowest scores by hrank were removed. "),
        ("uniform", "reverse", "by hrank, reversed (an ablation)", "those of the highest scores by hrank were removed"),
        ("uniform", "edge", "by hrank, from both ends (an ablation)", "those at both ends of the scores by hrank were"),
        ("rates", "middle", "by hrank, from the middle (an ablation)", "those in the middle of the scores by hrank "),
        ("uniform", "random", "at random (an ablation of hrank)", "those drawn at random were removed"),
        ("uniform", "best", "by hrank, best (an ablation)", "those that go by the variant best by hrank were removed"),
    ],
)
def test_a_page_says_what_chose_the_channels(search: str, variant: str, heading: str, gone: str) -> None:
    report = planned({"search": search, "settings": {"search": search, "variant": variant}})
    words = Page(render_report(report)).words
    assert f"digits_resnet, pruned {heading} 2026-11-20" in words
    assert f"Of the channels of a group, {gone}" in words
    is_method = variant == "low"
    assert ("an ablation: the method removes those of the lowest scores" in words) is not is_method
    assert ("crosses removed, the dashed line is the cut. Scores" in words) is is_method
    assert ("crosses removed, in this ablation those" in words) is not is_method
    assert ("dashed line" in words) is is_method
    assert ("Ties are channels that share the score at the cut" in words) is (variant != "random")


@pytest.mark.parametrize(("search", "name"), [("autopruner", "autopruner"), ("soft_clusters", "soft clusters")])
def test_what_was_learnt_is_not_said_of_a_criterion(search: str, name: str) -> None:
    report = planned({"search": search})
    report["plan"]["groups"][0]["scores"] = None
    words = Page(render_report(report)).words
    assert f"digits_resnet, pruned by {name} 2026-11-20" in words
    for text in ("by hrank", "Of the channels of a group", "Ties are", "dashed line"):
        assert text not in words, text


def test_no_line_is_drawn_where_it_is_not_the_cut() -> None:
    """A search that scores the network anew removes other channels than those of the lowest first scores."""
    report = planned({"search": "greedy"})
    lines = [panel.count("stroke-dasharray") for panel in panels(render_report(report))]
    group = report["plan"]["groups"][0]
    best = max(range(group["width"]), key=lambda channel: group["scores"][channel])
    worst = min(range(group["width"]), key=lambda channel: group["scores"][channel])
    group["kept_channels"] = sorted({*group["kept_channels"], worst} - {best})
    page = render_report(report)
    assert lines == [1]
    assert [panel.count("stroke-dasharray") for panel in panels(page)] == [0]
    assert "Circles are kept, crosses removed. Scores of different groups" in Page(page).words


def test_of_equal_scores_the_removed_ones_lie_beyond_the_cut() -> None:
    report = planned({"search": "greedy"})
    report["plan"]["groups"][0] |= {"width": 5, "kept": 3, "kept_channels": [2, 3, 4], "scores": [1, 1, 1, 1, 5]}
    (panel,) = panels(render_report(report))
    use = r'<use href="[^"]*" x="([\d.]+)" y="[\d.]+" style="fill: '
    crosses, circles = ([float(x) for x in re.findall(use + colour, panel)] for colour in (RUST, BLUE))
    assert (len(crosses), len(circles)) == (2, 3)
    assert min(crosses) > max(circles)


def test_a_sketch_keeps_no_channels_and_none_is_drawn_as_kept() -> None:
    report = planned({"search": "uniform"}) | {"recovery": {"method": "sketch", "taken": {}, "norms": [], "left": {}}}
    words = Page(render_report(report)).words
    for text in ("Circles are kept", "dashed line", "Which channels are kept", " kept Scores", "crosses"):
        assert text not in words, text
    assert "Scores of different groups are not on one scale" in words


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


def test_spaces_of_any_kind_are_shown() -> None:
    report = full_report() | {"command": "secateur run '/a/My\N{NO-BREAK SPACE}runs/x\N{RIGHT-TO-LEFT OVERRIDE}.yaml'"}
    assert "/a/My\N{NO-BREAK SPACE}runs/x\N{REPLACEMENT CHARACTER}.yaml" in render_report(report)


def panels(page: str) -> list[str]:
    return re.findall(r'<svg[^>]*aria-label="Scores of .*?</svg>', page, flags=re.DOTALL)


def test_every_search_that_learns_and_every_ablation_has_words() -> None:
    assert set(choosing.LEARNT) == set(LEARNT)
    assert {"low", *choosing.ABLATIONS} == set(get_args(Variant))


@pytest.mark.parametrize("make", [full_report, quantized_report, minimal_report, hostile_report, dict])
def test_page_is_inert_and_links_nowhere(make: Any) -> None:
    parsed = Page(rendered(make))
    tags = Counter(tag for tag, _ in parsed.elements)
    assert not {"script", "img", "iframe", "object", "embed", "link", "form", "image"} & set(tags)
    for tag, attributes in parsed.elements:
        assert not [key for key in attributes if key.startswith("on")], tag
        for key in ("src", "href", "xlink:href", "action", "style"):
            value = attributes.get(key) or ""
            assert key == "style" or not value or value.startswith("#"), (tag, value)
            assert "http" not in value
            assert not re.search(r"url\((?!#)", value)


@pytest.mark.parametrize("make", [full_report, quantized_report, hostile_report])
def test_identifiers_are_unique_and_every_reference_is_met(make: Any) -> None:
    parsed = Page(rendered(make))
    found = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert [name for name, count in found.items() if count > 1] == []
    for _, attributes in parsed.elements:
        for value in attributes.values():
            for name in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert name in found
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in found


def test_hostile_names_are_shown_as_text() -> None:
    words = Page(rendered(hostile_report)).words
    assert "<script>alert('x')</script>" in words
    assert "$\\frac{1}{2}$" in words
    assert not set("\x00\u202e\ud800") & set(words)


def test_same_data_same_page_and_matplotlib_left_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        first = render_report(full_report())
    assert rendered(full_report) == first
    assert dict(matplotlib.rcParams) == before


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


def test_large_network_shows_a_limited_number_of_panels() -> None:
    report = minimal_report()
    report["plan"]["groups"] = [dict(report["plan"]["groups"][0], name=f"layer{i}") for i in range(70)]
    parsed = Page(render_report(report))
    assert sum(tag == "svg" for tag, _ in parsed.elements) == 1 + 12
    assert "layer69: 16 of 32 kept" in parsed.words
    assert "10 more groups are in the table" in parsed.words
    assert "Shown are 12 of 70 groups" in parsed.words


@pytest.mark.parametrize(
    ("lower", "upper", "said"),
    [
        (1.2, 1.4, ("1.30 times as fast", "95% interval 1.20 to 1.40")),
        (1.001, 1.4, ("1.3000 times as fast", "95% interval 1.0010 to 1.4000")),
        (1.0, 1.4, ("not faster", "1.3000 times the speed, 95% interval 1.0000 to 1.4000")),
        (0.7, 0.9, ("slower", "1.30 times the speed, 95% interval 0.70 to 0.90")),
        (0.7, None, ("\N{EN DASH}", "\N{EN DASH}")),
    ],
)
def test_faster_only_where_the_interval_excludes_one(lower: float, upper: float, said: tuple[str, str]) -> None:
    comparison = {"ratio": 1.3, "lower": lower, "upper": upper, "confidence": 0.95}
    assert (speed(comparison), spread(comparison)) == said


def test_failed_parity_is_said_first_hand() -> None:
    parity = full_report()["onnx"]["parity"] | {"passed": False, "max_relative": 0.02, "top1_agreement": 0.75}
    assert agreement(parity) == (
        "The ONNX file does not compute what torch computes: the largest difference is 0.02 of the largest output, "
        "0.0001 is allowed; top-1 agrees on 300 of 400 images."
    )


def test_dense_network_alone_is_not_called_pruned() -> None:
    stages = full_report()["accuracy"][:1]
    assert verdict({"accuracy": stages}) == ["The network (dense) reaches 98.5% top-1 on 400 held-out images."]


@pytest.mark.parametrize("trials", [1, 7, 400])
def test_wilson_interval_is_its_twin(trials: int) -> None:
    for right in range(trials + 1):
        low, high = wilson_interval(right / trials, trials)
        expected = wilson_bounds(right / trials, trials)
        assert low == pytest.approx(expected[0], abs=1e-9)
        assert high == pytest.approx(expected[1], abs=1e-9)
        assert low <= right / trials <= high


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


def test_amounts_keep_three_digits() -> None:
    given = (0, 7, 999, 1000, 5_930_000, 999_499, 999_500, 4.09e9, 2.5)
    assert [amount(v) for v in given] == [
        "0", "7", "999", "1.00 k", "5.93 M", "999 k", "1.00 M", "4.09 G", "2.50",
    ]  # fmt: skip


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
