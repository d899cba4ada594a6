"""What the README says runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch_pruning as tp

from guides_for_tests import ROOT, blocks, reader, size
from secateur_cli.settings.config import load_config

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [code for language, code in blocks(ROOT / "README.md") if language == "python"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return reader() | {"tp": tp}


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns", "ignore:hrank gives more than a quarter")
def test_ten_lines(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS[0].replace("model = ...", "").replace("loader = ...", ""), names)
    assert "batch 32" in capsys.readouterr().out
    assert size(names["pruned"]) < size(names["model"])


def test_in_torch_pruning(names: dict[str, Any]) -> None:
    before = size(names["model"])
    exec(BLOCKS[1], names)
    assert size(names["model"]) < before


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 2


def test_the_two_commands_stand_in_it() -> None:
    commands = re.findall(r"^\$ (.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert "secateur run examples/digits.yaml" in commands[0]
    assert commands[1].endswith("pytest -n 2 --dist worksteal")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150, "move detail into examples/guides"


def test_every_published_row_has_its_configuration() -> None:
    told, cost = r"`((?:cifar|imagenet)\w+)` \| (\w+) \| (\S+) -> (\S+)%", r"(\S+) -> (\S+) ([MG]) \| (\S+ M)?"
    ours = r"(?:not run|\d\d\.\d+% \([^|]+\))"  # a figure stands beside its device and seed
    rows = re.findall(rf"^\| {told} \| {cost} ?\| {ours} \|$", README, re.MULTILINE)
    folder = ROOT / "examples" / "reproduce"
    assert {name for name, *_ in rows} == {path.stem for path in folder.glob("*.yaml")}
    for name, counted, dense, pruned, before, after, unit, parameters in rows:
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8").partition("\nnetwork:")[0]
        head = " ".join(text.replace("\n# ", " ").split())
        assert f"top-1 {dense} -> {pruned}%" in head
        assert f"{parameters} parameters" in head or not parameters
        operations = re.search(r"(\S+) -> (\S+) G FLOPs of two", head)
        if operations is None:
            assert f"{before} -> {after} {unit}" in head
        else:
            assert [float(count) / 2 for count in operations.groups()] == [
                pytest.approx(float(count), abs=0.0051) for count in (before, after)
            ]
        assert list(load_config(folder / f"{name}.yaml").plan.budget.given) == [counted]
