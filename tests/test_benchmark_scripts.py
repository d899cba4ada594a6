"""What the benchmarks record, and under which name: no figure stands for settings that it was not measured with."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from guides_for_tests import ROOT

FOLDER = ROOT / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a benchmark by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


class ReachedError(Exception):
    """Something is measured."""


def started(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a benchmark as if by its command, up to where it loads the network."""

    def reached(*_: Any, **__: Any) -> None:
        raise ReachedError

    monkeypatch.setattr(module, "load", reached)
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


def write(path: Path, **rows: dict[str, float]) -> Path:
    """Write a record: each row, its blanks as underscores, and its stages."""
    lines = [
        json.dumps({"row": row, "stage": stage, "value": value})
        for row, stages in rows.items()
        for stage, value in stages.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(("epochs", "precision", "known"), [
    (2, "bfloat16", True), (3, "bfloat16", False), (2, "float32", False), (0, "float32", True),
])  # fmt: skip
def test_search_quality_takes_no_row_of_other_settings(
    script: Any, tmp_path: Path, epochs: int, precision: str, known: bool
) -> None:
    quality, record = script("search_quality"), script("_record")
    rows = {"0 l1, curves 50%": dict.fromkeys(("cut", "recalibrated", "compensated", "trained"), 80.0)}
    kept = record.Record(write(tmp_path / "record.jsonl", **rows))

    class Seed:
        number, plans, setting = 0, dict[str, Any](), (None, None, None)

        def plan(self, *_: Any) -> None:
            raise ReachedError

    def measured() -> bool:
        try:
            quality.measure(Seed(), ("l1", "curves", "50%"), kept, epochs=epochs, precision=precision)
        except ReachedError:
            return True
        return False

    assert measured() == (not known)


@pytest.mark.parametrize(
    ("epochs", "precision", "images", "name"),
    [
        (1, "bfloat16", None, "trained"),
        (1, "bfloat16", 10000, "trained 10,000"),
        (2, "bfloat16", None, "trained 2x"),
        (1, "float32", None, "trained in float32"),
    ],
)
def test_quantization_names_what_decides_a_figure(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epochs: int, precision: str, images: int, name: str
) -> None:
    quantization, record = script("quantization"), script("_record")
    cell, given = quantization.Cell(3), Namespace(precision=precision, train_images=images)
    every = dict.fromkeys(("trained", "trained 10,000", "trained 2x", "trained in float32"), 80.0)
    monkeypatch.setattr(quantization.copy, "deepcopy", lambda _: pytest.fail("it is measured again"))
    kept = record.Record(write(tmp_path / "record.jsonl", **{f"0 {cell.name}": {name: 80.0}}))
    quantization.measure(None, None, kept, None, given, cell, epochs)
    del every[name]
    kept = record.Record(write(tmp_path / "others.jsonl", **{f"0 {cell.name}": every}))
    with pytest.raises(pytest.fail.Exception):
        quantization.measure(None, None, kept, None, given, cell, epochs)


@pytest.mark.parametrize(
    ("name", "stages"), [("search_quality", {"trained"}), ("quantization", {"trained", "trained 10,000"})]
)
def test_the_tables_show_the_trainings_that_are_recorded(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, stages: set[str]
) -> None:
    started(script(name), monkeypatch, "--show")
    heading = next(line for line in capsys.readouterr().out.splitlines() if "trained" in line)
    assert all(f"  {stage}" in heading for stage in stages)


def test_a_part_without_the_dense_row_measures_it(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = script("search_quality")
    rows = {"0 reconstruction, curves 50%": {"layer by layer": 88.0}}
    path = write(tmp_path / "record.jsonl", **rows)
    started(quality, monkeypatch, "--show", "--record", str(path))
    assert "the curves lose" not in capsys.readouterr().out

    class Setting:
        network = None

        def accuracy(self, _: Any) -> float:
            return 89.5

    monkeypatch.setattr(quality, "measure", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["search_quality.py", "--part", "2/3", "--seeds", "0", "--record", str(path)])
    monkeypatch.setattr(quality, "load", lambda *_, **__: Setting())
    quality.main()
    assert "seed 0: the curves lose 1.50 points at 50%" in capsys.readouterr().out
