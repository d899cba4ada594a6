"""Activations in the ONNX file are rounded as in torch: exactly within a layer, within a few steps through many."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from secateur.errors import NetworkError
from secateur.quantization import ActivationRange, BitPlan, calibrated, quantize_network, uniform_bits
from secateur_onnx import check_parity, export_quantized
from secateur_onnx.few_bits.rounded_inputs import tolerance_of

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """A layer that runs twice, and one whose input has no values below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.own(self.own(x)).relu())
        return outputs


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("bits", "kind", "signed"),
    [(8, "INT8", True), (8, "UINT8", False), (6, "UINT8", False), (16, "UINT16", False), (11, "INT16", True)],
)
def test_one_layer_exactly(tmp_path: Path, bits: int, kind: str, signed: bool) -> None:
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Conv2d(3, 5, 3))
    plan = BitPlan({"0": torch.full((5,), 8)}, activations={"0": ActivationRange(bits, 0.7, signed)})
    done = export_quantized(layer, plan, IMAGES, tmp_path / "net.onnx")
    assert check_parity(done.model, done.file.path, [IMAGES], tolerance=1e-6).require().passed
    plain = quantize_network(layer, BitPlan(plan.bits))[0]
    assert not check_parity(plain, done.file.path, [IMAGES]).passed  # the comparison would notice
    found = operators(done.file.path)
    assert (found["QuantizeLinear"], found["Clip"]) == (1, int(bits not in (8, 16)))
    zero = next(t for t in onnx.load(done.file.path).graph.initializer if t.name == "0.input.zero")
    assert zero.data_type == getattr(onnx.TensorProto, kind)


def test_filters_of_2_bits_beside_inputs_of_8_run(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    plan = calibrated(network, uniform_bits(network, 2, ends=None), [IMAGES])
    done = export_quantized(network, plan, IMAGES, tmp_path / "net.onnx")
    assert done.stored == {2: "INT2"}
    check_parity(done.model, done.file.path, [IMAGES], tolerance=done.tolerance).require()


def test_a_layer_that_runs_twice_rounds_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Twice().eval()
    plan = calibrated(net, uniform_bits(net, 5), [IMAGES])
    assert not plan.activations["last"].signed
    done = export_quantized(net, plan, IMAGES, tmp_path / "net.onnx")
    assert operators(done.file.path)["QuantizeLinear"] == 3
    assert check_parity(done.model, done.file.path, [IMAGES], tolerance=done.tolerance).require().top1_agreement > 0.9


def test_a_deep_network_stays_within_a_few_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(c, 8, 3, padding=1), nn.ReLU()) for c in (3, 8, 8, 8, 8)]
    net = nn.Sequential(*layers)
    done = export_quantized(net, calibrated(net, uniform_bits(net, 8), [IMAGES]), IMAGES, tmp_path / "net.onnx")
    assert done.tolerance is not None
    assert 4 / 256 <= done.tolerance < 0.1
    check_parity(done.model, done.file.path, [IMAGES], tolerance=done.tolerance).require()


def test_the_tolerance_is_three_times_what_the_last_digit_of_floats_moves() -> None:
    torch.manual_seed(0)
    dense, inputs = nn.Sequential(*(nn.Linear(64, 64) for _ in range(20))), torch.randn(256, 64)
    plan = calibrated(dense, uniform_bits(dense, 16), [inputs], bits=12)
    net, _ = quantize_network(dense, plan)
    exact = copy.deepcopy(net).double()(inputs.double()).detach()
    own = float((net(inputs).detach().double() - exact).abs().max() / exact.abs().max())
    assert 3 * own > 4 / 2**12
    assert tolerance_of(net, plan, inputs) == pytest.approx(3 * own)


@pytest.mark.parametrize(("bits", "left"), [(8, 0.0), (4, 1e-7)])
def test_the_bias_of_a_filter_of_next_to_nothing_stays(tmp_path: Path, bits: int, left: float) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
    )
    with torch.no_grad():
        net[2].weight[0] *= left
        net[2].bias[0] = 1.0
    plan = calibrated(net, uniform_bits(net, bits, ends=None), [IMAGES])
    done = export_quantized(net, plan, IMAGES, tmp_path / "net.onnx")
    check_parity(done.model, done.file.path, [IMAGES], tolerance=done.tolerance).require()


def test_batch_norm_that_turns_the_sign(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-1.0, 0.5, -1e-8, 0.0]))
        net[1].bias.fill_(0.5)
    plan = calibrated(net, uniform_bits(net, 8), [IMAGES])
    done = export_quantized(net, plan, IMAGES, tmp_path / "net.onnx")
    assert not done.left
    check_parity(done.model, done.file.path, [IMAGES], tolerance=done.tolerance).require()


def test_layers_that_the_file_keeps_in_floats_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    net: Any = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2))
    plan = BitPlan({"0": torch.full((4,), 8)}, activations={"0": ActivationRange(8, 1.0, signed=True)})
    with pytest.raises(NetworkError, match="what '0' reads cannot be rounded in the ONNX file: a transposed"):
        export_quantized(net, plan, torch.randn(2, 4, 5, 5), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
