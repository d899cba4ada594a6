"""What the README says runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp

import secateur
from secateur.networks import digits_resnet

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def blocks(*, naming: str) -> str:
    """Return the one block of code that names something."""
    (code,) = (code for code in BLOCKS if naming in code)
    return code.replace("model = ...", "").replace("loader = ...", "")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the README's reader has: a trained network, and images."""
    monkeypatch.chdir(tmp_path)
    loader = [(torch.rand(32, 1, 8, 8), torch.arange(32) % 10) for _ in range(2)]
    return {"model": digits_resnet().eval(), "loader": loader, "images": loader[0][0], "tp": tp, "secateur": secateur}


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
def test_ten_lines(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks(naming="benchmark("), names)
    assert "batch 32" in capsys.readouterr().out
    assert size(names["pruned"]) < size(names["model"])


def test_in_torch_pruning(names: dict[str, Any]) -> None:
    before = size(names["model"])
    exec(blocks(naming="HRankImportance("), names)
    assert size(names["model"]) < before


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
def test_accuracy_back(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    model, loader, images = names["model"], names["loader"], names["images"]
    groups = secateur.channel_groups(model, images)
    scores = secateur.collect_scores(model, loader, "hrank")
    names["plan"] = secateur.uniform_plan(groups, scores, secateur.MacsCost(model, images, groups), "50%", round_to=1)
    names["pruned"] = secateur.apply_plan(model, names["plan"])
    exec(blocks(naming="reconstruct("), names)
    assert "linear" in capsys.readouterr().out
    assert size(names["done"].model) == size(names["pruned"]) < size(model)


@pytest.mark.filterwarnings("ignore:fewer rows than unknowns")
def test_spending_a_budget(names: dict[str, Any], tmp_path: Path) -> None:
    names["groups"] = secateur.channel_groups(names["model"], names["images"])
    names["scores"] = secateur.collect_scores(names["model"], names["loader"], "hrank")
    exec(blocks(naming="Journal.open("), names)
    assert all(spent.after <= spent.budget for spent in names["plan"].spent.values())
    assert (tmp_path / "journal.sqlite").is_file()


def test_gates(names: dict[str, Any]) -> None:
    names["groups"] = secateur.channel_groups(names["model"], names["images"])
    names["cost"] = secateur.MacsCost(names["model"], names["images"], names["groups"])
    exec(blocks(naming="autoprune("), names)
    assert size(names["pruned"]) < size(names["model"])


def test_fewer_bits(names: dict[str, Any], tmp_path: Path) -> None:
    names["pruned"] = names["model"]
    exec(blocks(naming="bit_plan("), names)
    assert (tmp_path / "small.safetensors").stat().st_size <= 0.3e6
    assert (tmp_path / "small.onnx").stat().st_size <= 0.4e6  # six bits take the type of eight there


def test_in_nni(names: dict[str, Any]) -> None:
    pytest.importorskip("nni")
    model = names["model"]
    names |= {"torch": torch, "train": lambda *_, **__: None, "loss": torch.nn.functional.cross_entropy}
    exec(blocks(naming="BudgetPruner("), names)
    assert size(names["pruned"]) < size(model)
    assert names["pruner"].plan.cost_after <= names["pruner"].plan.budget


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 7


def test_links_lead_somewhere() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (root / target).exists(), target


def test_the_two_commands_stand_in_it() -> None:
    commands = re.findall(r"^\$ (.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert "secateur run examples/digits.yaml" in commands[0]
    assert commands[1].endswith("pytest -n 2 --dist worksteal")
