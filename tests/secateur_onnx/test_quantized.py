"""The file of a quantized network is small, and computes what the rounded network computes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from networks_for_tests import randomise_batch_norm
from secateur.errors import ConfigError, NetworkError, SecateurWarning
from secateur.networks import resnet20
from secateur.quantization import ActivationRange, BitPlan, bit_plan, quantize_network, thresholds_of, uniform_bits
from secateur.records import ScoreTable
from secateur_onnx import check_parity, export, export_quantized
from secateur_onnx.few_bits import stored_types

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def mixed() -> nn.Module:
    """Every kind of layer with filters, batch norm that is folded, and a linear layer behind a flatten."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3, groups=4, bias=False),
        nn.BatchNorm2d(12), nn.ConvTranspose2d(12, 8, 2), nn.ConvTranspose2d(8, 8, 2, groups=2),
        nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 8 * 8, 10, bias=False),
    )  # fmt: skip
    return randomise_batch_norm(network).eval()


@pytest.mark.parametrize("levels", [(8, 4, 2), (16, 3), (5,)])
def test_what_the_file_computes(tmp_path: Path, levels: tuple[int, ...]) -> None:
    network = mixed()
    plan = bit_plan(network, ScoreTable({}), levels=levels, shares=[1 / len(levels)] * len(levels), ends=None)
    done = export_quantized(network, plan, IMAGES, tmp_path / "net.onnx", metadata={"budget": "6 MB"})
    assert check_parity(done.model, done.file.path, [IMAGES]).require().passed
    assert set(done.left) == {"6"}  # the transposed one in groups
    assert set(done.stored) == {b for bits in plan.bits.values() for b in bits.tolist()}
    assert not done.wider
    kinds = {tensor.data_type for tensor in onnx.load(done.file.path).graph.initializer}
    assert {getattr(onnx.TensorProto, kind) for kind in done.stored.values()} <= kinds
    rounded, _ = quantize_network(network, plan)
    assert torch.equal(done.model(IMAGES), rounded(IMAGES))


@pytest.fixture(scope="module")
def dense_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    return export(resnet20().eval(), IMAGES, tmp_path_factory.mktemp("dense") / "dense.onnx").file_bytes


@pytest.mark.parametrize(
    ("bits", "share"),
    [pytest.param(8, 0.29, marks=pytest.mark.thorough), pytest.param(4, 0.16, marks=pytest.mark.thorough), (2, 0.1)],
)
def test_the_file_is_small(tmp_path: Path, dense_bytes: int, bits: int, share: float) -> None:
    network = resnet20().eval()
    done = export_quantized(network, uniform_bits(network, bits, ends=None), IMAGES, tmp_path / "net.onnx")
    assert done.file.file_bytes == (tmp_path / "net.onnx").stat().st_size < share * dense_bytes
    assert not done.left


def test_it_runs_without_torch(tmp_path: Path) -> None:
    network = mixed()
    done = export_quantized(network, uniform_bits(network, 4), IMAGES, tmp_path / "net.onnx")
    with torch.no_grad():
        np.save(tmp_path / "inputs.npy", IMAGES.numpy())
        np.save(tmp_path / "outputs.npy", done.model(IMAGES).numpy())
    code = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('net.onnx', providers=['CPUExecutionProvider'])\n"
        "found = session.run(None, {'input': numpy.load('inputs.npy')})[0]\n"
        "assert numpy.allclose(found, numpy.load('outputs.npy'), atol=1e-3), found\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_a_wider_type_stands_in_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = stored_types._refused
    monkeypatch.setattr(stored_types, "_refused", lambda width: f"no {width} bits" if width < 8 else refused(width))
    network = mixed()
    done = export_quantized(network, uniform_bits(network, 2, ends=None), IMAGES, tmp_path / "net.onnx")
    assert done.stored == {2: "INT8"}
    assert done.wider == {2: "no 2 bits; no 4 bits"}
    check_parity(done.model, done.file.path, [IMAGES]).require()


class Branching(nn.Module):
    """Branches on a value, which the current exporter refuses and the older one does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.first(x)
        second: torch.Tensor = self.second(first.relu() if bool(first.abs().sum() >= 0) else -first)
        return second


def test_where_only_the_older_exporter_translates_two_bits_are_stored_wider(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = Branching().eval()
    plan = bit_plan(network, ScoreTable({}), levels=(8, 2), shares=(0.5, 0.5), ends=None)
    with pytest.warns(SecateurWarning, match="older exporter: .*data-dependent"):
        done = export_quantized(network, plan, IMAGES, tmp_path / "net.onnx")
    assert (done.file.exporter, done.file.opset) == ("torchscript", 21)
    assert done.stored == {2: "INT4", 8: "INT8"}
    assert done.wider == {2: "no exporter of torch translates the network with opset 25, which INT2 needs"}
    assert check_parity(done.model, done.file.path, [IMAGES]).require().passed
    assert capfd.readouterr() == ("", "")


class Silent(Branching):
    """A layer of zeros runs before one of the same shape; the exporter folds batch norm and renames both weights."""

    def __init__(self) -> None:
        super().__init__()
        del self.first
        self.second = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.first = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        nn.init.zeros_(self.first[0].weight)


def test_a_layer_of_zeros_is_not_taken_for_another_one(tmp_path: Path) -> None:
    network = Silent().eval()
    with pytest.warns(SecateurWarning, match="older exporter"):
        done = export_quantized(network, uniform_bits(network, 4, ends=None), IMAGES, tmp_path / "net.json")
    assert not done.left
    proto = onnx.load(done.file.path, "protobuf")  # whatever its name ends in
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert scales["second.0.codes.4.scale"].all()
    assert not scales["first.0.codes.4.scale"].any()
    assert check_parity(done.model, done.file.path, [IMAGES]).require().passed


def test_the_rule_of_the_plan_is_that_of_the_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    plan = uniform_bits(network, 2, ends=None, thresholds="least_squares")
    done = export_quantized(network, plan, IMAGES, tmp_path / "net.onnx")
    scales = next(t for t in onnx.load(done.file.path).graph.initializer if t.name == "0.codes.2.scale")
    expected = thresholds_of(network[0].weight, plan.bits["0"], "least_squares")
    assert onnx.numpy_helper.to_array(scales).tolist() == pytest.approx(expected.tolist())


def test_a_square_product_with_the_transposed_weight(tmp_path: Path) -> None:
    """Of a linear layer that reads three dimensions, whose weight has the same shape either way."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Linear(144, 144)).eval()
    done = export_quantized(network, uniform_bits(network, 4, ends=None), IMAGES, tmp_path / "net.onnx")
    assert not done.left
    check_parity(done.model, done.file.path, [IMAGES]).require()


@pytest.mark.parametrize("bits", [5, 8])
def test_a_product_with_codes_of_8_bits_rounds_no_inputs(tmp_path: Path, bits: int) -> None:
    network, rows = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(4, 5, 64)
    done = export_quantized(network, uniform_bits(network, bits, ends=None), rows, tmp_path / "net.onnx")
    check_parity(done.model, done.file.path, [rows]).require()


def test_equal_layers_of_which_the_exporter_keeps_one(tmp_path: Path) -> None:
    first, path = nn.Conv2d(3, 3, 3, padding=1), tmp_path / "net.onnx"
    network = nn.Sequential(first, nn.ReLU(), copy.deepcopy(first), nn.Conv2d(3, 2, 1)).eval()
    plan = uniform_bits(network, 4, ends=None)
    done = export_quantized(network, plan, IMAGES, path)
    assert not done.left
    check_parity(done.model, path, [IMAGES]).require()
    before = path.read_bytes()
    ranges = {"0": ActivationRange(8, 3.0, signed=True)}
    with pytest.raises(NetworkError, match=r"what '0' and '2' read cannot be rounded.*keeps one tensor"):
        export_quantized(network, BitPlan(plan.bits, activations=ranges), IMAGES, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_number_formats_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).to(kind)
    with pytest.raises(NetworkError, match=rf"float32; those of '0' are {kind}: use \.float\(\)"):
        export_quantized(network, uniform_bits(network, 4), IMAGES.to(kind), tmp_path / "net.onnx")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        export_quantized(mixed(), uniform_bits(mixed(), 4), IMAGES, tmp_path / "none" / "net.onnx")


def test_a_plan_of_another_network_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("before")
    plans: list[Any] = [BitPlan({"conv9": torch.tensor([4])}), BitPlan({"0": torch.tensor([4])})]
    for plan in plans:
        with pytest.raises(ConfigError, match="the plan gives bits to"):
            export_quantized(mixed(), plan, IMAGES, path)
    assert path.read_text() == "before"
