"""What the README says runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch_pruning as tp

from secateur.networks import digits_resnet

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["ten lines", "in Torch-Pruning"])
def test_the_code_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = digits_resnet().eval()
    loader = [(torch.rand(32, 1, 8, 8), torch.arange(32) % 10) for _ in range(2)]
    names = {"model": model, "loader": loader, "images": loader[0][0], "tp": tp}
    exec(code.replace("model = ...", "").replace("loader = ...", ""), names)
    if "benchmark" in code:
        assert "batch 32" in capsys.readouterr().out
        assert sum(p.numel() for p in names["pruned"].parameters()) < sum(p.numel() for p in model.parameters())
    else:
        assert model(names["images"]).shape[1] < 10 or names["model"] is model


def test_links_lead_somewhere() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (root / target).exists(), target


def test_the_two_commands_stand_in_it() -> None:
    commands = re.findall(r"^\$ (.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert "secateur run examples/digits.yaml" in commands[0]
    assert commands[1].endswith("pytest")
