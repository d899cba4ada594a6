"""`secateur bench`: two files in, a table or data out, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from runs_for_tests import give
from secateur_onnx import export

QUICK = ("--batch", "2", "--seconds", "0.05", "--threads", "1")


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 3)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("bench")
    dense = export(network(8), torch.zeros(1, 1, 8, 8), folder / "dense.onnx").path
    pruned = export(network(4), torch.zeros(1, 1, 8, 8), folder / "pruned.onnx", metadata={"plan": "ab12"}).path
    return str(dense), str(pruned)


def test_a_table_of_80_columns_and_the_verdict(files: tuple[str, str]) -> None:
    code, said, _ = give("bench", *files, *QUICK)
    assert code == 0
    lines = said.splitlines()
    table = lines[: next(n for n, line in enumerate(lines) if line.startswith("dense:"))]
    assert "dense.onnx against pruned.onnx" in table[0]
    assert max(map(len, table)) <= 80
    assert any(line.startswith(" batch 2") and " to " in line for line in table)
    assert any(line.startswith(" memory, batch 2") and line.count(" MB") == 2 for line in table)
    assert "dense:  4 on CPUExecutionProvider" in lines
    assert "pruned: 4 on CPUExecutionProvider; plan ab12" in lines
    verdict = next(line for line in lines if line.startswith("batch 2: "))
    assert "95% interval" in verdict
    assert verdict.endswith(" images a second")


def test_data(files: tuple[str, str]) -> None:
    code, said, _ = give("bench", *files, *QUICK, "--json")
    data = json.loads(said)
    assert code == 0
    assert (data["provider"], data["threads"], [c["batch_size"] for c in data["comparisons"]]) == ("cpu", 1, [2])
    assert data["pruned"]["metadata"]["plan"] == "ab12"


def test_the_same_file_twice_is_never_called_much_faster(files: tuple[str, str]) -> None:
    code, said, _ = give("bench", files[0], files[0], *QUICK, "--json")
    assert code == 0
    assert 0.5 < json.loads(said)["comparisons"][0]["ratio"] < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--provider", "cudo"), "unknown provider 'cudo'; allowed: cpu, cuda, tensorrt; available here: cpu"),
        (("--batch", "0"), "batch sizes of at least 1"),
        (("--threads", "0"), "threads must be at least 1"),
        (("--seconds", "0"), "more than 0 seconds"),
        (("--seed", "-1"), "Invalid value for"),
    ],
)
def test_settings_that_cannot_be_used(files: tuple[str, str], changes: tuple[str, ...], message: str) -> None:
    code, said, complained = give("bench", *files, *QUICK, *changes)
    assert (code, said) == (2, "")
    assert message in complained


def test_files_that_cannot_be_used(files: tuple[str, str], tmp_path: Path) -> None:
    truncated, missing = tmp_path / "truncated.onnx", tmp_path / "missing.onnx"
    truncated.write_bytes(Path(files[1]).read_bytes()[:300])
    for path in (truncated, missing):
        code, said, complained = give("bench", files[0], str(path), *QUICK)
        assert (code, said) == (2, "")
        assert path.name in complained
