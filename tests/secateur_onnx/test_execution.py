"""What is said of the CPU is what it does: read off the graph that it runs, and off the times of its nodes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import CheckpointError, ConfigError
from secateur.quantization import bit_plan, calibrated, uniform_bits
from secateur.records import ScoreTable
from secateur_onnx import create_session, execution_table, export, export_int8, export_quantized, observed_execution
from secateur_onnx.few_bits.execution import FACTS, UNPACKED, Form
from secateur_onnx.raw_session import PROVIDERS
from secateur_onnx.sessions import infer

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)
    ).eval()
    folder = tmp_path_factory.mktemp("executed")
    paths = {name: folder / f"{name}.onnx" for name in ("floats", "four", "mixed", "activations", "eight", "int8")}
    export(net, IMAGES, paths["floats"])
    plans = {
        "four": uniform_bits(net, 4),
        "mixed": bit_plan(net, ScoreTable({}), levels=(8, 2), shares=(0.5, 0.5), ends=None),
        "activations": calibrated(net, uniform_bits(net, 4, ends=None), [IMAGES]),
        "eight": calibrated(net, uniform_bits(net, 8), [IMAGES]),
    }
    for name, plan in plans.items():
        export_quantized(net, plan, IMAGES, paths[name])
    export_int8(paths["floats"], paths["int8"], [IMAGES])
    return paths


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("four", "few bits"),
        ("mixed", "few bits"),
        ("four", UNPACKED),
        ("mixed", UNPACKED),
        ("activations", "few bits and activations"),
        ("int8", "static INT8"),
    ],
)
def test_the_facts_of_the_cpu_are_observed(files: dict[str, Path], name: str, form: Form) -> None:
    rows = {row["provider"]: row for row in execution_table(files[name], form)}
    assert set(rows) == set(PROVIDERS)
    assert rows["cpu"]["how"] == FACTS[form]["cpu"][0]
    assert rows["cpu"]["observed"]["integer"] + rows["cpu"]["observed"]["floating"] == 3
    if "cuda" not in rows or rows["cuda"]["observed"] is None:
        assert "no speed is claimed" in rows["cuda"]["why"]
        assert rows["cuda"]["how"] == FACTS[form]["cuda"][0] != "integer kernels"


def test_what_else_there_is(files: dict[str, Path]) -> None:
    assert observed_execution(files["floats"]).how == "floats"
    eight = observed_execution(files["eight"])
    assert eight.how.startswith("integer kernels")  # codes and activations of eight bits both
    assert eight.integer > 0
    assert observed_execution(files["four"]).at_each_run == 3


class Products(nn.Module):
    """A product of two tensors that both depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.own(x)
        return y @ y.transpose(2, 3)


def test_products_of_what_is_read_are_no_weights_made_of_codes(tmp_path: Path) -> None:
    net = Products().eval()
    floats = observed_execution(export(net, IMAGES, tmp_path / "floats.onnx").path)
    assert (floats.how, floats.floating, floats.at_each_run) == ("floats", 2, 0)
    export_quantized(net, uniform_bits(net, 4), IMAGES, tmp_path / "four.onnx")
    assert observed_execution(tmp_path / "four.onnx").at_each_run == 1


def profiled(path: Path, folder: Path, *, unpack: bool) -> Counter[str]:
    """Return how often each operator ran in two runs, by onnxruntime's own profile."""
    session = create_session(path, threads=1, unpack=unpack, profile=folder / "profile")
    for _ in range(2):
        infer(session, IMAGES.numpy())
    events = json.loads(Path(session.end_profiling()).read_text())
    return Counter(e["args"]["op_name"] for e in events if e.get("cat") == "Node" and "kernel_time" in e["name"])


def test_the_profile_agrees(files: dict[str, Path], tmp_path: Path) -> None:
    assert profiled(files["four"], tmp_path, unpack=False)["DequantizeLinear"] == 2 * 3
    assert "DequantizeLinear" not in profiled(files["four"], tmp_path, unpack=True)
    assert profiled(files["int8"], tmp_path, unpack=False)["QLinearConv"] == 2 * 2


def test_unpacked_weights_compute_the_same(files: dict[str, Path]) -> None:
    packed, unpacked = (infer(create_session(files["mixed"], unpack=u), IMAGES.numpy()) for u in (False, True))
    torch.testing.assert_close(torch.from_numpy(packed), torch.from_numpy(unpacked), atol=1e-5, rtol=1e-5)


def test_bad_input(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no ONNX file"):
        execution_table(tmp_path / "none.onnx", "few bits")
    with pytest.raises(ConfigError, match="unknown provider 'cudo'"):
        observed_execution(files["four"], provider="cudo")
