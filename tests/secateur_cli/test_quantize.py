"""Fewer bits in the main job: what is written, told and refused, through the configuration and the command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from reports_for_tests import Page
from runs_for_tests import User, contents
from secateur.checkpoint import load_pruned
from secateur.errors import BudgetError, ConfigError
from secateur.quantization import load_quantized, quantized_bytes, round_inputs
from secateur_cli.inputs.sources import network_factory
from secateur_cli.report.quantized_table import quantized_tables
from secateur_cli.settings.config import load_config
from secateur_cli.settings.quantize_schema import QuantizeConfig
from secateur_cli.stages import few_bits, int8
from secateur_cli.stages.few_bits import QUANTIZED, QUANTIZED_ONNX, plan_bits
from secateur_cli.stages.int8 import INT8_ONNX
from secateur_cli.stages.job import CHECKPOINT
from secateur_onnx import check_parity, create_session, read_metadata

QUANTIZE = "quantize={bits: [6, 3], shares: [0.5, 0.5], activations: 8, ends: null, thresholds: least_squares}"
MORE_NETWORKS = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up, self.wide = nn.ConvTranspose2d(8, 6, 2), nn.ConvTranspose2d(6, 6, 2, groups=2)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            self.first.weight[3] = 0
            self.head.weight[1] = 0

    def forward(self, x):
        x = self.wide(torch.relu(self.up(torch.relu(self.second(torch.relu(self.first(x)))))))
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture(scope="module")
def run(user: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """The folder, the words and the report of a run with few bits, rounded activations and static INT8."""
    folder = tmp_path_factory.mktemp("quantized") / "run"
    code, said, complained = user.command(folder, QUANTIZE, flags=("--int8",))
    assert (code, complained) == (0, "")
    return folder, said, json.loads((folder / "report.json").read_text())


def test_the_files_are_as_large_as_told_and_compute_the_same(user: User, run: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, report = run
    fact = report["quantization"]
    for name, size in ((QUANTIZED, fact["file_bytes"]), (QUANTIZED_ONNX, fact["onnx"]["file_bytes"])):
        assert (folder / name).stat().st_size == size
    assert (folder / INT8_ONNX).stat().st_size == report["int8"]["file"]["file_bytes"]
    build = network_factory(load_config(user.config).network, user.folder)
    network = load_pruned(build, folder)
    plan = load_quantized(network, folder / QUANTIZED)
    assert quantized_bytes(network, plan) == fact["file_bytes"]
    counts = {n: {str(b): int((own == b).sum()) for b in (3, 6)} for n, own in plan.bits.items()}
    assert fact["filters"] == counts
    round_inputs(network, plan.activations)
    images = [torch.randn(16, 1, 8, 8)]
    assert check_parity(network, folder / QUANTIZED_ONNX, images, tolerance=0.05).require().passed
    about = read_metadata(folder / QUANTIZED_ONNX)
    assert about["plan"] == report["plan"]["fingerprint"]
    assert float(about["bits_a_weight"]) == fact["bits_a_weight"]
    assert plan.thresholds == about["thresholds"] == fact["thresholds"] == "least_squares"


def test_files_that_are_cut_short_are_made_again(
    user: User, run: tuple[Path, str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = shutil.copytree(run[0], tmp_path / "run")
    for name in (INT8_ONNX, QUANTIZED):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        code, said, complained = user.command(folder, QUANTIZE, flags=("--int8",))
        assert (code, complained) == (0, "")
        assert f"{folder / name} is not what was written: making it again" in said
        assert len((folder / name).read_bytes()) == len(whole)


def test_accuracy_is_that_of_the_files(user: User, run: tuple[Path, str, dict[str, Any]]) -> None:
    folder, said, report = run
    fact = report["quantization"]
    assert set(fact["accuracy"]) == {"rounded", "trained"}
    assert len(fact["fine_tuning"]["epochs"]) == 1
    assert fact["parity"]["passed"]
    assert fact["parity"]["samples"] == 48
    assert f"fewer bits, fine-tuned: {fact['accuracy']['trained']:.1%} of the held-out images right" in said
    assert f"static INT8: {report['int8']['accuracy']:.1%} of the held-out images right" in said
    sys.path.insert(0, str(user.folder))
    try:
        from secateur_user_data import batches  # type: ignore[import-not-found]  # written by the fixture
    finally:
        sys.path.remove(str(user.folder))
    for name, share in ((QUANTIZED_ONNX, fact["accuracy"]["trained"]), (INT8_ONNX, report["int8"]["accuracy"])):
        session = create_session(folder / name)
        right = sum(
            int((session.run(None, {"input": x.numpy()})[0].argmax(1) == y.numpy()).sum()) for x, y in batches(48, 2)
        )
        assert abs(right / 48 - share) <= 1 / 48, name  # an image on the border may fall the other way


def test_the_tables_and_the_page_tell_it(run: tuple[Path, str, dict[str, Any]]) -> None:
    folder, said, report = run
    tables = said[said.index("the pruned network in fewer bits") :].splitlines()
    assert max(map(len, tables)) <= 80
    rows = {re.split("  +", row.strip())[0]: row for row in tables}
    assert rows["top-1, held out"].count("%") == 3
    assert rows["before fine-tuning"].count("%") == 1
    assert {"packed file", "ONNX file", "bits a weight", "activations", "batch 1"} <= set(rows)
    assert "least_squares" in rows["thresholds"]
    assert "the ONNX file stores 3 bits as INT4, 6 bits as INT8: ONNX has numbers of 2, 4, 8 and 16 bits alone" in said
    assert any(re.search(r"static INT8 +integer kernels.* +dequantised floats\*", row) for row in tables)
    page = Page((folder / "report.html").read_text("utf-8"))
    text = " ".join(" ".join(page.text).split())
    for words in (
        "Fewer bits", "Static INT8", "How the quantized files are executed", "fine-tuned through the rounding",
        "it has no integer convolution (none in 1.31.1), so no speed is claimed", "Fine-tuning with fewer bits",
        "Filters are clipped at the threshold of least squared error.", "ONNX has 2, 4, 8 and 16 bits alone",
        f"With {report['quantization']['bits_a_weight']:.2f} bits a weight it takes",
    ):  # fmt: skip
        assert words in text, words


def test_the_onnx_file_loads_without_torch(run: tuple[Path, str, dict[str, Any]]) -> None:
    code = (
        "import sys, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({QUANTIZED_ONNX!r}, providers=['CPUExecutionProvider'])\n"
        "assert session.run(None, {'input': numpy.zeros((2, 1, 8, 8), 'float32')})[0].shape == (2, 3)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=run[0], check=True, timeout=120)


def test_a_finished_run_is_not_repeated_and_a_lost_file_is_made_again(
    user: User, run: tuple[Path, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, report = run
    before = contents(folder)
    with monkeypatch.context() as patched:
        patched.delattr(few_bits, "fake_quantized")
        patched.delattr(int8.secateur_onnx, "export_int8")
        assert user.command(folder, QUANTIZE, flags=("--int8",))[0] == 0
    (folder / QUANTIZED).unlink()
    code, said, _ = user.command(folder, QUANTIZE, flags=("--int8",))
    assert code == 0
    assert f"{QUANTIZED} is gone" in said
    after = contents(folder)
    for name in (QUANTIZED_ONNX, INT8_ONNX):
        assert after[name] == before[name], name
    packed = safetensors.torch.load(before[QUANTIZED])
    for name, tensor in safetensors.torch.load(after[QUANTIZED]).items():
        assert torch.equal(tensor, packed.pop(name)), name
    assert not packed
    again = json.loads((folder / "report.json").read_text())["quantization"]
    for epoch in (*again["fine_tuning"]["epochs"], *report["quantization"]["fine_tuning"]["epochs"]):
        epoch.pop("seconds")
    assert again == report["quantization"]


def test_a_run_that_is_stopped_behind_the_training_does_not_train_again(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("fine_tune=null", "recover=none", "quantize={shares: [0.5, 0.5], epochs: 2}")

    def stopped(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(few_bits, "save_quantized", stopped)
    written = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            user.call(tmp_path, *settings)
        assert not (tmp_path / QUANTIZED).exists()
        written.append((tmp_path / CHECKPOINT).stat().st_mtime_ns)
    assert written[0] == written[1]  # the second time both epochs came from there
    monkeypatch.undo()
    assert user.call(tmp_path, *settings)["quantization"]["parity"]["passed"]
    assert not (tmp_path / CHECKPOINT).exists()


def test_odd_layers_and_zero_filters_and_a_size(user: User, tmp_path: Path) -> None:
    (user.folder / "secateur_odd_networks.py").write_text(MORE_NETWORKS)
    settings = ("network.build=secateur_odd_networks:Odd", "train=null", "fine_tune=null", "recover=none")
    size = "quantize={size: 1.6kB, bits: [8, 4, 2], order: random, epochs: 0}"
    budget = "plan={search: uniform, budget: {macs: 80%}, round_to: 2, ignore: [up, wide]}"
    code, said, complained = user.command(tmp_path / "run", *settings, budget, size)
    assert (code, complained) == (0, "")
    fact = json.loads((tmp_path / "run" / "report.json").read_text())["quantization"]
    assert fact["file_bytes"] <= fact["allowed_bytes"] == 1600
    assert 2 < fact["bits_a_weight"] < 8
    assert set(fact["accuracy"]) == {"rounded"}
    assert fact["parity"]["passed"]
    assert "warning: the weights of wide take 32 bits in the ONNX file: a transposed convolution in groups" in said


def test_a_size_out_of_reach_is_refused_before_the_training(user: User, tmp_path: Path) -> None:
    smallest = r"no assignment of 4/2 bits is as small as [\d,]+ bytes; the smallest takes ([\d,]+) bytes"
    code, _, complained = user.command(tmp_path / "run", "quantize={size: 100B, bits: [4, 2]}")
    found = re.search(f"quantize.size: {smallest}, at the narrowest widths that the plan may have", complained)
    assert code == 2
    assert found is not None
    assert list(tmp_path.iterdir()) == []
    reached = int(found[1].replace(",", ""))
    code, _, complained = user.command(tmp_path / "run", f"quantize={{size: {reached}, bits: [4, 2]}}")
    assert code == 2
    assert re.search(f"{smallest}\n", complained)
    assert "model" not in json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 1))
    with pytest.raises(BudgetError, match="no assignment of 2 bits is as small as 90 bytes; the smallest takes"):
        plan_bits(QuantizeConfig(size="90B", order="uniform"), network, few_bits.ScoreTable({}), seed=0)
    plan = plan_bits(QuantizeConfig(size="2kB", order="uniform"), network, few_bits.ScoreTable({}), seed=0)
    assert quantized_bytes(network, plan) <= 2000
    assert len(plan.settings["levels"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{}", "give either a size, such as 6.0MB, or shares"),
        ("{size: 6MB, shares: [0.5, 0.5]}", "and not both"),
        ("{bits: [8, 1], shares: [0.5, 0.5]}", "quantize.bits.1: 1: must be at least 2"),
        ("{bits: [17, 4], shares: [0.5, 0.5]}", "quantize.bits.0: 17: must be at most 16"),
        ("{bits: [4, 8], shares: [0.5, 0.5]}", r"\[4, 8\]: must fall"),
        ("{bits: [], size: 1MB}", "must hold at least one entry"),
        ("{bits: [4.5], shares: [1.0]}", "must be a whole number"),
        ("{shares: [0.5, 0.4]}", "add up to 1"),
        ("{shares: [1.0]}", "one for each of the 2 levels"),
        ("{shares: [1.5, -0.5]}", "must be at most 1"),
        ("{size: 6 apples}", "must be a size such as 6.0MB or 300kB"),
        ("{size: 0MB}", "must be a size"),
        ("{size: -3}", "must be a size"),
        ("{size: true}", "must be a size"),
        ("{size: 1MB, order: best}", "allowed: 'di', 'reversed', 'random', 'uniform'"),
        ("{order: uniform}", "give either bits, a single number, or a size"),
        ("{order: uniform, bits: 4, size: 1MB}", "give either bits, a single number, or a size"),
        ("{order: uniform, bits: [8, 4]}", "must be a single number"),
        ("{order: uniform, bits: 4, shares: [1.0]}", "leave them out"),
        ("{size: 1MB, ends: 1}", "quantize.ends: 1: must be at least 2"),
        ("{size: 1MB, activations: 20}", "quantize.activations: 20: must be at most 16"),
        ("{size: 1MB, epochs: -1}", "must be at least 0"),
        ("{size: 1MB, samples: 0}", "must be greater than 0"),
        ("{size: 1MB, learning_rate: 0}", "must be greater than 0"),
        ("{size: 1MB, thresholds: mse}", "allowed: 'published', 'largest', 'least_squares'"),
        ("{sise: 1MB}", "did you mean 'size'"),
        ("4", "must be a mapping with the keys size, bits"),
    ],
)
def test_bad_settings(user: User, settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(user.config, overrides=[f"quantize={settings}"])


@pytest.mark.parametrize(("given", "size"), [("6.0MB", 6e6), ("300 kB", 3e5), ("1.5MiB", 1.5 * 2**20), (1234, 1234)])
def test_sizes(given: Any, size: float) -> None:
    assert QuantizeConfig(size=given).size_bytes == size


def test_off_by_default(user: User, finished: tuple[Path, dict[str, Any]]) -> None:
    config = load_config(user.config)
    assert config.quantize is None
    assert not config.onnx.int8
    assert quantized_tables(finished[1]) == []
    assert load_config(user.config, overrides=["onnx.int8=true"]).onnx.int8
    assert QuantizeConfig(size="1MB").thresholds == "published"


def test_the_rule_reaches_every_kind_of_plan() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 1))
    kinds: list[dict[str, Any]] = [
        {"bits": (4, 2), "shares": (0.5, 0.5)}, {"order": "uniform", "bits": (4,)}, {"order": "uniform", "size": "2kB"},
    ]  # fmt: skip
    for kind in kinds:
        settings = QuantizeConfig(**kind, thresholds="largest")
        assert plan_bits(settings, network, few_bits.ScoreTable({}), seed=0).thresholds == "largest"


def test_smoke_takes_seconds(user: User) -> None:
    config = load_config(user.config, overrides=["quantize={size: 1MB, epochs: 9, samples: 999}"]).smoke()
    assert config.quantize is not None
    assert (config.quantize.epochs, config.quantize.samples) == (1, 64)
