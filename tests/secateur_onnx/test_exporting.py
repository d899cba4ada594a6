"""The exported file: complete, dynamic in the batch, checked, and never half-written."""

from __future__ import annotations

import errno
import importlib
import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from secateur.errors import CheckpointError, ConfigError, NetworkError, SecateurWarning
from secateur_onnx import check_parity, create_session, export
from secateur_onnx.sessions import infer

exporting = importlib.import_module("secateur_onnx.exporting")

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_gives_the_networks_outputs(network: nn.Sequential, dense_file: Path, batch: int) -> None:
    inputs = torch.randn(batch, 3, 16, 16)
    outputs = infer(create_session(dense_file), inputs.numpy())
    np.testing.assert_allclose(outputs, network(inputs).detach().numpy(), atol=1e-5)


def test_file_is_one_named_folded_and_free_of_local_paths(tmp_path: Path, network: nn.Sequential) -> None:
    result = export(network, (EXAMPLE,), tmp_path / "model.onnx", metadata={"plan": "ab12", "macs": 0.5})
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    proto = onnx.load(result.path)
    assert [i.name for i in proto.graph.input] == ["input"]
    assert [o.name for o in proto.graph.output] == ["output"]
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    about = {p.key: p.value for p in proto.metadata_props}
    versions = json.loads(about.pop("versions"))
    assert about == {"plan": "ab12", "macs": "0.5"}
    assert versions == {name: version(name) for name in ("secateur", "torch", "onnx", "onnxscript")}
    assert b".py" not in result.path.read_bytes()
    assert result.to_json() == {
        "path": str(tmp_path / "model.onnx"),
        "opset": proto.opset_import[0].version,
        "exporter": "dynamo",
        "fallback_reason": None,
        "file_bytes": result.path.stat().st_size,
    }


def test_modes_are_restored_and_nothing_is_said(
    tmp_path: Path, network: nn.Sequential, capfd: pytest.CaptureFixture[str]
) -> None:
    network.train()
    network[1].eval()
    before = [module.training for module in network.modules()]
    statistics = network[4].running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(network, EXAMPLE, tmp_path / "model.onnx")
    assert [module.training for module in network.modules()] == before
    assert torch.equal(network[4].running_mean, statistics)
    assert capfd.readouterr() == ("", "")


def test_the_network_inside_dataparallel_is_exported(tmp_path: Path, network: nn.Sequential) -> None:
    wrapped = export(nn.DataParallel(network), EXAMPLE, tmp_path / "wrapped.onnx").path
    assert check_parity(network, wrapped, [EXAMPLE]).require().passed


class Centring(nn.Module):
    """Works in place on its images, to something else each time."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sub_(0.5).flatten(1)


def test_export_and_parity_leave_the_images_of_a_network_that_works_in_place(tmp_path: Path) -> None:
    images = torch.rand(4, 3, 2, 2)
    before = images.clone()
    file = export(Centring(), images, tmp_path / "model.onnx").path
    assert torch.equal(images, before)
    assert check_parity(Centring(), file, [images]).require().max_abs < 1e-6
    assert torch.equal(images, before)


class Branching(nn.Module):
    """Branches on a value, which torch.export refuses and tracing does not see."""

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return flat if bool(flat.abs().sum() >= 0) else -flat


class Conditional(nn.Module):
    """Branches on a value in the way that torch.export takes."""

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        outputs: Tensor = torch.cond(flat.sum() > 0, torch.exp, torch.sigmoid, (flat,))
        return outputs


def test_branches_are_free_of_local_paths(tmp_path: Path) -> None:
    result = export(Conditional(), torch.ones(1, 3, 2, 2), tmp_path / "model.onnx")
    assert result.exporter == "dynamo"
    assert "If" in {node.op_type for node in onnx.load(result.path).graph.node}
    assert b".py" not in result.path.read_bytes()


def test_fallback_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(SecateurWarning, match="older exporter: .*data-dependent"):
        result = export(Branching(), torch.ones(1, 3, 2, 2), tmp_path / "model.onnx")
    assert result.exporter == "torchscript"
    assert result.fallback_reason is not None
    assert "data-dependent" in result.fallback_reason
    inputs = np.arange(60, dtype=np.float32).reshape(5, 3, 2, 2)
    np.testing.assert_array_equal(infer(create_session(result.path), inputs), inputs.reshape(5, 12))
    assert capfd.readouterr() == ("", "")


def test_an_opset_the_current_exporter_lacks_is_given_by_the_older_one(tmp_path: Path, network: nn.Sequential) -> None:
    with pytest.warns(SecateurWarning, match="opset 18 instead of 13"):
        result = export(network, EXAMPLE, tmp_path / "model.onnx", opset=13)
    assert (result.opset, result.exporter) == (13, "torchscript")


class Fourier(nn.Module):
    """No exporter translates it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.linalg.eigvals(inputs).real


class FixedBatch(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(2, -1)


class BrainFloat(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.bfloat16())  # type: ignore[no-any-return]  # a module's call


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Fourier, "cannot be exported.*current exporter.*older one"),
        (FixedBatch, r"one tensor of 3 rows for 3 inputs"),
        (Pair, "gives tuple: put a module around it"),
        (lambda: BrainFloat(nn.Conv2d(3, 2, 3).bfloat16()), "does not pass the checks of onnx: .*bfloat16"),
        (lambda: nn.Conv2d(5, 2, 3), r"fails on a batch of shape \(2, 3, 16, 16\)"),
    ],
)
def test_networks_that_cannot_be_exported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], build: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        export(build(), EXAMPLE, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")  # torch prints the graph past Python
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("example", [(), (EXAMPLE, EXAMPLE), torch.zeros(0, 3), torch.zeros(3), ("image",), None])
def test_examples_that_are_no_single_batch(tmp_path: Path, example: Any) -> None:
    with pytest.raises(NetworkError, match="one example batch"):
        export(nn.Linear(3, 2), example, tmp_path / "model.onnx")


@pytest.mark.parametrize("opset", [1, 18.5, 99])
def test_unknown_opset(tmp_path: Path, opset: Any) -> None:
    with pytest.raises(ConfigError, match=r"opset must lie in 7\.\."):
        export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "model.onnx", opset=opset)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "absent" / "model.onnx")


def _full_disk(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_full_disk_leaves_the_earlier_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(step, _full_disk)
    with pytest.raises(CheckpointError, match=r"cannot write .*model\.onnx.*No space left"):
        export(nn.Linear(3, 2), torch.zeros(1, 3), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"earlier"


def test_a_disk_that_fills_in_the_middle_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No stand-in: the system refuses every byte beyond the tenth kilobyte, when part of the file is written."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    write, limits = exporting.write_model, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_small_disk(*args: Any) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            return write(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(exporting, "write_model", on_a_small_disk)
    with pytest.raises(CheckpointError, match=r"cannot write .*File too large.*is untouched"):
        export(nn.Linear(100, 100), torch.zeros(1, 100), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"earlier"


def test_a_file_that_fails_the_check_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise onnx.checker.ValidationError("a node is wrong")

    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(NetworkError, match="a node is wrong"):
        export(nn.Linear(3, 2), torch.zeros(1, 3), path)
    assert path.read_bytes() == b"earlier"


def test_interrupt_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_torchvision_resnet18(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    network = models.resnet18(num_classes=10).eval()
    result = export(network, torch.zeros(1, 3, 32, 32), tmp_path / "resnet18.onnx")
    assert result.exporter == "dynamo"
    inputs = torch.randn(3, 3, 32, 32)
    outputs = infer(create_session(result.path), inputs.numpy())
    np.testing.assert_allclose(outputs, network(inputs).detach().numpy(), atol=1e-4)
    weights = 4 * sum(p.numel() for p in network.parameters())
    assert 0.95 * weights < result.file_bytes < 1.05 * weights
