"""Sums of products of 8 bits have room on every processor, or the session sees to it."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from subprocess import CompletedProcess

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from secateur.quantization import calibrated, uniform_bits
from secateur_onnx import (
    check_parity,
    create_session,
    export,
    export_int8,
    export_quantized,
    memory,
    observed_execution,
    raw_session,
    sessions,
)
from secateur_onnx.overflow import sums_overflow
from secateur_onnx.raw_session import WIDE_SUMS, open_session

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5


class Twice(nn.Module):
    """Two layers, of which the first may run twice: large weights of one sign, so that their sums are large."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.own, self.last = times, nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.own.weight.copy_(0.1 * torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.05)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.own(x).relu()
        outputs: Tensor = self.last(x)
        return outputs


@pytest.fixture(params=[True, False], ids=["wide", "as this processor needs it"])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Where nothing overflows, the session entry changes the kernels all the same: so it is tried on any processor."""
    if request.param:
        monkeypatch.setattr(sessions, "sums_overflow", lambda: True)
    return bool(request.param) or sums_overflow()


def entry(path: Path, *, unpack: bool = False) -> str:
    try:
        session = create_session(path, threads=1, unpack=unpack)
        return str(session.get_session_options().get_session_config_entry(WIDE_SUMS))
    except RuntimeError:  # the session was created without it
        return ""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 has such kernels")
def test_sums_overflow_where_the_processor_lacks_dot_products_of_8_bits() -> None:
    """It fails once onnxruntime has kernels for AVX2 whose sums have room: the guard is then needless."""
    assert sums_overflow() == (not torch.cpu._is_vnni_supported())


def test_sums_without_a_guard_are_as_the_probe_says() -> None:
    """Of QLinearConv, which is what files hold; the probe is a product of matrices."""
    helper, number = onnx.helper, onnx.TensorProto
    scalars = {"one": (number.FLOAT, 1.0), "large": (number.FLOAT, 2.0**14), "zero": (number.UINT8, 0)}
    graph = helper.make_graph(
        [
            helper.make_node(
                "QLinearConv", ["codes", "one", "zero", "weights", "one", "none", "large", "zero"], ["outputs"]
            )
        ],
        "convolution",
        [helper.make_tensor_value_info("codes", number.UINT8, [1, 64, 4, 4])],
        [helper.make_tensor_value_info("outputs", number.UINT8, [1, 8, 4, 4])],
        [
            *(helper.make_tensor(name, kind, [], [value]) for name, (kind, value) in scalars.items()),
            helper.make_tensor("none", number.INT8, [], [0]),
            helper.make_tensor("weights", number.INT8, [8, 64, 1, 1], [127] * 512),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    outputs = {}
    for wide in (False, True):
        session = open_session(proto.SerializeToString(), provider="cpu", threads=1, tf32=False, wide=wide)
        outputs[wide] = session.run(None, {"codes": torch.full((1, 64, 4, 4), 255, dtype=torch.uint8).numpy()})[0]
    exact = round(255 * 127 * 64 / 2**14)
    assert (outputs[True] == exact).all()
    assert (outputs[False] == exact).all() != sums_overflow()


@pytest.mark.parametrize("times", [1, 2])
def test_codes_of_8_bits_are_computed_as_torch_rounds_them(tmp_path: Path, times: int, wide: bool) -> None:
    net = Twice(times).eval()
    done = export_quantized(net, calibrated(net, uniform_bits(net, 8), [IMAGES]), IMAGES, tmp_path / "net.onnx")
    assert entry(done.file.path) == ("1" if wide else "")
    check_parity(done.model, done.file.path, [IMAGES], tolerance=done.tolerance).require()
    assert entry(done.file.path, unpack=True) == ""
    if times == 1:
        assert observed_execution(done.file.path).integer == 1
    elif wide:  # codes that two nodes read cannot be made unsigned: they become floats
        assert observed_execution(done.file.path).integer == 0


@pytest.mark.parametrize("times", [1, 2])
def test_static_int8_is_near_the_floats(
    tmp_path: Path, times: int, wide: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    net = Twice(times).eval()
    source = export(net, IMAGES, tmp_path / "net.onnx").path
    path = export_int8(source, tmp_path / "int8.onnx", [IMAGES]).path
    assert check_parity(net, path, [IMAGES]).max_relative < 0.03
    assert observed_execution(path).integer == (0 if wide and times == 2 else times + 1)
    assert "onnxruntime" not in capfd.readouterr().err  # nothing is said of what it fails to do first


def test_memory_is_that_of_the_same_session(tmp_path: Path, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = export(Twice(1).eval(), IMAGES, tmp_path / "net.onnx").path, list[str]()

    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        asked.append(command[-1])
        return CompletedProcess(command, 0, stdout='{"bytes": 1}')

    monkeypatch.setattr(memory, "sums_overflow", sessions.sums_overflow)
    monkeypatch.setattr(memory.subprocess, "run", run)
    spec = sessions.input_spec(create_session(path))
    assert [memory.peak_memory(path, spec, (4, 3, 8, 8), provider=p) for p in ("cpu", "cuda")] == [1, 1]
    settings = [json.loads(each) for each in asked]
    assert [each["wide"] for each in settings] == [wide, False]
    opened: list[bool] = []
    original = raw_session.open_session
    monkeypatch.setattr(raw_session, "open_session", lambda *a, **k: (opened.append(k["wide"]), original(*a, **k))[1])
    raw_session.measured_peak(**settings[0])
    assert opened in ([wide], [])  # nothing is measured on other systems than Linux


def test_onnxruntime_puts_one_zero_where_each_filter_has_its_own(tmp_path: Path) -> None:
    """It fails once onnxruntime does not: the zeros beside codes of 8 bits are then needless."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3)).eval()
    path = export_quantized(net, uniform_bits(net, 8), IMAGES, tmp_path / "net.onnx").file.path
    proto = onnx.load(path)
    (node,) = (node for node in proto.graph.node if node.op_type == "DequantizeLinear")
    assert len(node.input) == 3
    del node.input[2]
    session = open_session(proto.SerializeToString(), provider="cpu", threads=1, tf32=False, wide=True)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="x_zero_point must be"):
        session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
