"""Peak memory: of a process of its own, larger where more lies between the layers, and never a reason to stop."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from secateur.errors import SecateurWarning
from secateur_onnx import benchmark, create_session, export, machine, peak_memory, raw_session
from secateur_onnx.sessions import input_spec

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").is_file(), reason="only Linux tells the peak of a process"
)


def test_what_lies_between_the_layers_is_counted(tmp_path: Path) -> None:
    """Two maps of 16 x 512 x 512 floats, 16 MiB each, must be there at once; the input of 1 MiB is not counted."""
    network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Sigmoid(), nn.Conv2d(16, 16, 3, padding=1)).eval()
    path = export(network, torch.zeros(1, 1, 512, 512), tmp_path / "wide.onnx").path
    spec = input_spec(create_session(path))
    one, two = (peak_memory(path, spec, (n, 1, 512, 512)) for n in (1, 2))
    assert one is not None
    assert two is not None
    assert 32 * 2**20 < one < 160 * 2**20
    assert 30 * 2**20 < two - one < 120 * 2**20


def test_the_weights_are_counted(tmp_path: Path) -> None:
    path = export(nn.Linear(2048, 4096), torch.zeros(1, 2048), tmp_path / "heavy.onnx").path  # 32 MiB
    found = peak_memory(path, input_spec(create_session(path)), (1, 2048))
    assert found is not None
    assert 32 * 2**20 < found < 160 * 2**20  # as they lie in the file, and as they are used


def test_this_process_measures_as_the_other_does(dense_file: Path) -> None:
    found = raw_session.measured_peak(str(dense_file), provider="cpu", threads=1, shape=[2, 3, 16, 16], dtype="float32")
    assert found is not None
    assert 0 <= found < 50e6


def test_a_process_that_fails_leaves_it_unknown_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dense_file: Path
) -> None:
    spec = input_spec(create_session(dense_file))
    with pytest.warns(SecateurWarning, match=r"peak memory of .* at batch 2 is unknown: .*Got: 9 Expected: 16"):
        assert peak_memory(dense_file, spec, (2, 3, 9, 9)) is None
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "false")
        with pytest.warns(SecateurWarning, match="ended with exit status 1"):
            assert peak_memory(dense_file, spec, (2, 3, 16, 16)) is None
    monkeypatch.setattr(raw_session, "forget_peak", lambda: False)
    where = {"provider": "cpu", "threads": 1, "shape": [1, 3, 16, 16], "dtype": "float32"}
    assert raw_session.measured_peak(str(dense_file), **where) is None  # type: ignore[arg-type]  # mixed on purpose


class OnDevice:
    """A session on a device that leaves the arithmetic of shapes to the CPU, and refuses to be without it."""

    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")

    def __init__(self, _: str, options: Any, **__: Any) -> None:
        if options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1":
            raise RuntimeError("nodes are assigned to the default CPU EP")

    def disable_fallback(self) -> None: ...

    def get_providers(self) -> tuple[str, ...]:
        return self.providers

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input")]

    def run(self, *_: Any) -> None: ...


def test_a_device_may_leave_the_arithmetic_of_shapes_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter([100, 300, 100])
    monkeypatch.setattr(raw_session, "_taken_of_device", lambda: next(levels))
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnDevice)
    where: dict[str, Any] = {"provider": "cuda", "threads": 1, "shape": [2, 3], "dtype": "float32"}
    assert raw_session.measured_peak("shapes.onnx", **where) == 200
    monkeypatch.setattr(OnDevice, "providers", ("CPUExecutionProvider",))
    with pytest.raises(RuntimeError, match="the provider 'cuda' did not load"):
        raw_session.measured_peak("shapes.onnx", **where)


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch, dense_file: Path) -> None:
    monkeypatch.setattr("subprocess.run", None)
    result = benchmark(dense_file, dense_file, batch_sizes=(1,), rounds=6, seconds=0.01, memory=False)
    assert result.dense.peak_bytes == {}


def test_the_memory_of_a_container_is_what_it_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (tmp_path / "none", limit))
    whole = machine.memory_bytes()
    limit.write_text("max\n")
    assert machine.memory_bytes() == whole
    limit.write_text("4096\n")
    assert machine.memory_bytes() == (None if whole is None else 4096)
