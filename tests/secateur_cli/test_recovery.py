"""What comes back before any training: in the files, in the words of the command, and in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reports_for_tests import Page, full_report
from runs_for_tests import User
from secateur_cli.report.report import render_report
from secateur_cli.stages import recovery


def test_compensation_is_in_the_report_and_brings_the_layers_nearer(finished: tuple[Path, dict[str, Any]]) -> None:
    found = finished[1]["recovery"]
    assert (found["method"], found["images"], found["left"]) == ("compensate", 64, {})
    assert [fit["layer"] for fit in found["layers"]] == ["second", "head"]
    for fit in found["layers"]:
        assert 0 <= fit["after"] < fit["before"]
    assert found["seconds"] > 0


def test_compensation_is_the_network_that_is_saved(user: User, tmp_path: Path) -> None:
    output = tmp_path / "run"
    user.call(output, "fine_tune=null")
    recovered, saved = (load_file(output / name) for name in ("stages/recovered.safetensors", "model.safetensors"))
    assert recovered.keys() == saved.keys()
    assert all(torch.equal(recovered[name], saved[name]) for name in saved)
    dense, kept = load_file(output / "stages/dense.safetensors"), json.loads((output / "stages/plan.json").read_text())
    inputs = kept["kept"]["second"]
    assert not torch.allclose(saved["head.weight"], dense["head.weight"][:, inputs], atol=1e-3)


def test_too_few_images_are_told_in_plain_words_also_when_the_run_is_continued(user: User, tmp_path: Path) -> None:
    for _ in range(2):
        code, said, complained = user.command(tmp_path / "run", "recover.samples=4", "fine_tune=null")
        assert (code, complained) == (0, "")
        warned = [
            line for line in said.splitlines() if line.startswith("warning: too few images to settle all weights")
        ]
        assert len(warned) == 1
        assert "1 of 2 layers: head (4 positions for " in warned[0]
        assert "ridge" not in said
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Too few images to settle all weights of 1 of 2 layers: head (4 positions for " in page


@pytest.mark.parametrize("solved", [True, False])
def test_layers_that_keep_their_weights_are_named(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: bool
) -> None:
    solve = recovery.compensate

    def leaving(*args: Any, **kwargs: Any) -> Any:
        found = solve(*args, **kwargs)
        return replace(found, layers=found.layers if solved else (), left={"tail": "its <weights> are shared"})

    monkeypatch.setattr(recovery, "compensate", leaving)
    code, said, _ = user.command(tmp_path / "run")
    assert code == 0
    assert "warning: not compensated, though their inputs changed: tail (its <weights> are shared)" in said
    assert ("compensated: " in said) is solved
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "its &lt;weights&gt; are shared" in page
    assert ("No layer could be compensated." in page) is not solved


def test_a_network_without_batch_norm_has_none_to_recalibrate(user: User, tmp_path: Path) -> None:
    code, said, _ = user.command(tmp_path / "run", "network.build=secateur_user_networks:Plain", "recover=recalibrate")
    assert code == 0
    assert "no batch norm that could be recalibrated" in said
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [fact["stage"] for fact in report["accuracy"]] == ["dense", "channels removed", "fine-tuned"]
    assert "no batch norm that could be measured" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_compensation_is_shown_layer_by_layer() -> None:
    page = Page(render_report(full_report()))
    assert "3 layers got new weights" in page.words
    assert "1,000 training images without their labels, and 6.5 s" in page.words
    assert "block2.conv1 49.3% 6.2% 16,000 288" in page.words
    assert "block3.mix its weights are not its own" in page.words
    assert "too few images" not in page.words.lower()
    label = next(a["aria-label"] for t, a in page.elements if t == "svg" and "Error" in str(a["aria-label"]))
    assert label == (
        "Error of each layer: block1.conv1 37.2% before, 0.7% after; block2.conv1 49.3% before, 6.2% after; "
        "head 34.2% before, 7.4% after"
    )


def test_few_positions_are_told_and_a_long_list_of_layers_is_cut() -> None:
    report = full_report()
    fits = [dict(report["recovery"]["layers"][0], layer=f"layer{i}", rows=99 if i < 6 else 999) for i in range(70)]
    report["recovery"]["layers"] = fits
    words = Page(render_report(report)).words
    assert "Too few images to settle all weights of 6 of 70 layers: layer0 (99 positions for 144 weights), " in words
    assert "layer3 (99 positions for 144 weights) and 2 more. There" in words
    assert "10 more layers are in the table." in words
    assert "layer69 37.2% 0.7% 999 144" in words


@pytest.mark.parametrize("absent", ["method", "images", "seconds", "layers", "left"])
def test_any_part_of_the_recovery_may_be_absent(absent: str) -> None:
    report = full_report()
    del report["recovery"][absent]
    parsed = Page(render_report(report))
    assert "recovery" in parsed.section_names
    assert "None" not in parsed.words


def test_recalibration_is_told() -> None:
    report = full_report() | {"recovery": {"method": "recalibrate", "images": 2000, "seconds": 3.21}}
    words = Page(render_report(report)).words
    assert "from 2,000 training images without their labels, in 3.2 s." in words
    assert "Error of each layer" not in words
