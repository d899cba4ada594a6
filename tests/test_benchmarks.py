"""The benchmarks: every script still measures what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cases_for_tests import cases
from guides_for_tests import ROOT
from started_for_tests import run

FOLDER = ROOT / "examples" / "benchmarks"
ELSEWHERE = {"onnx_networks.py", "tap_overhead.py"}  # the second in tests/feature_maps
SMOKED = sorted(path for path in FOLDER.glob("[!_]*.py") if path.name not in ELSEWHERE)
LONG = {
    "autopruner", "criteria_agreement", "di_speed", "fine_tuning", "latency_budget", "quantization", "recovery",
    "recovery_memory", "search_quality",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_benchmarks_say_what_they_take(path: Path, tmp_path: Path) -> None:
    assert "--smoke" in run(path, "--help", folder=tmp_path)


@pytest.mark.thorough
def test_networks_of_several_kinds_as_onnx(tmp_path: Path) -> None:
    """Shuffles, concatenations and pre-activation; the script itself asserts that the files are right."""
    names = ("squeezenet1_0", "shufflenet_thin", "cifar_densenet16")
    printed = run(FOLDER / "onnx_networks.py", "--networks", *names, folder=tmp_path)
    rows = [line.split()[:3] for line in printed.splitlines()[1:]]
    assert rows == [[n, side, kind] for n in names for side in ("dense", "pruned") for kind in ("float32", "float16")]


@pytest.mark.parametrize("path", cases({path.stem: path for path in SMOKED}, thorough=LONG))
def test_benchmarks_print_both_sides(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A smoke run asserts no bound: it shows that the script still measures what it says. Two have their own tests."""
    text = path.read_text(encoding="utf-8")
    trained, threaded = (re.search(f"{option}|_trained_resnet56", text) for option in ("--shared", "--threads"))
    networks = ("--shared", request.getfixturevalue("few_images")) if trained else ()
    threads = ("--threads", "1") if threaded else ()
    printed = run(path, "--smoke", *threads, *networks, folder=tmp_path)
    assert re.search(r"forward pass|bare|dense|literally", printed)
    assert re.search(r"\d+\.\d+", printed)
