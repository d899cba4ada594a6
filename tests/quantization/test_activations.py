"""Activations are rounded as loops round them, in ranges that the images have, and the network is left as it was."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import references_quantization as naive
from secateur.errors import CheckpointError, ConfigError, DataError
from secateur.quantization import (
    ActivationRange,
    BitPlan,
    calibrated,
    fake_quantized,
    load_quantized,
    quantize_network,
    quantized_bytes,
    quantizer,
    round_activation,
    round_inputs,
    save_quantized,
    uniform_bits,
)
from secateur.training import fine_tune

IMAGES = torch.randn(12, 2, 5, 5, generator=torch.Generator().manual_seed(3))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, groups=2), nn.Conv2d(4, 3, 3),
        nn.Flatten(), nn.Linear(3 * 4 * 4, 3),
    ).eval()  # fmt: skip


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9),
    bits=st.integers(2, 12),
    threshold=st.floats(0.125, 40, width=32),
    signed=st.booleans(),
)
def test_rounds_as_loops_do(values: list[float], bits: int, threshold: float, signed: bool) -> None:
    to = ActivationRange(bits, threshold, signed)
    found = round_activation(torch.tensor(values), to)
    expected = naive.rounded_activation_by_loops(values, bits, threshold, signed=signed)
    for own, value, wanted in zip(found.tolist(), values, expected, strict=True):
        between = abs(value / to.scale % 1 - 0.5) < 1e-3  # float32 beside float64
        assert own == pytest.approx(wanted, rel=1e-5, abs=1e-5 + (to.scale if between else 0))
    assert torch.equal(round_activation(found, to), found)


def test_gradients_pass_within_the_range_alone() -> None:
    inputs = torch.tensor([-9.0, 0.3, 2.9, 9.0], requires_grad=True)
    outputs = round_activation(inputs, ActivationRange(4, 3.0, signed=False))
    assert outputs.tolist() == pytest.approx([0.0, 0.4, 2.8, 3.0])
    outputs.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "threshold"), [(torch.float16, 65504.0), (torch.float16, 4e4), (torch.float32, 3.4e38)]
)
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("gradients", [True, False])
def test_ranges_that_end_where_the_number_format_does(
    kind: torch.dtype, threshold: float, bits: int, gradients: bool
) -> None:
    most = torch.finfo(kind).max
    inputs = torch.tensor([-most, 0.3 * threshold, most], dtype=kind, requires_grad=gradients)
    outputs = round_activation(inputs, ActivationRange(bits, threshold, signed=True))
    assert bool(torch.isfinite(outputs).all())
    expected = naive.rounded_activation_by_loops(inputs.tolist(), bits, threshold, signed=True)
    for own, wanted in zip(outputs.tolist(), expected, strict=True):
        if abs(wanted) <= most:
            assert own == pytest.approx(wanted, rel=1e-3)
        else:
            assert 0.5 * most < abs(own) <= most
    if gradients:
        outputs[1].backward()
        assert inputs.grad is not None
        assert inputs.grad.tolist() == [0, 1, 0]


def test_double_precision_is_rounded_as_single_precision_is() -> None:
    to = ActivationRange(8, 0.01, signed=True)
    assert torch.equal(round_activation(IMAGES.double(), to), round_activation(IMAGES, to).double())


def read_by(net: nn.Module, layer: str) -> Tensor:
    """What a layer reads of all images, in the network with rounded weights."""
    seen: list[Tensor] = []
    rounded, _ = quantize_network(net, uniform_bits(net, 8))
    rounded.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    rounded(IMAGES)
    return torch.cat(seen)


def test_ranges_are_those_of_the_images() -> None:
    net = network()
    plan = calibrated(net, uniform_bits(net, 8), [IMAGES[:5], (IMAGES[5:], torch.zeros(7))])
    assert set(plan.activations) == {"0", "3", "5"}  # not the transposed one in groups
    for name, to in plan.activations.items():
        inputs = read_by(net, name)
        assert (to.bits, to.signed) == (8, bool((inputs < 0).any()))
        assert to.threshold == pytest.approx(float(inputs.abs().max()), rel=1e-6)
    few = calibrated(net, uniform_bits(net, 8), [IMAGES], samples=5).activations["0"].threshold
    assert few == pytest.approx(float(IMAGES[:5].abs().max()))
    behind = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert not calibrated(behind, uniform_bits(behind, 8), [IMAGES]).activations["2"].signed


def test_few_bits_take_the_threshold_of_least_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "BINS", 40)
    monkeypatch.setattr("secateur.quantization.calibration.BINS", 40)
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 4, 1))
    found = calibrated(net, uniform_bits(net, 8), [IMAGES], bits=3).activations["1"]
    sizes = [value for value in IMAGES.relu().flatten().tolist() if value]
    assert found.threshold == pytest.approx(naive.kl_threshold_by_loops(sizes, 4, bins=40))  # 2^3 levels, from zero on
    assert found.threshold < max(sizes)


def test_layers_that_read_zeros_or_nothing_stay() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
    assert set(calibrated(net, uniform_bits(net, 8), [IMAGES]).activations) == {"0"}


def test_the_copy_rounds_and_the_network_does_not() -> None:
    net = network()
    plan = calibrated(net, uniform_bits(net, 8), [IMAGES], bits=2)
    before = net(IMAGES)
    rounded, _ = quantize_network(net, plan)
    by_hand, _ = quantize_network(net, replace(plan, activations={}))
    assert not torch.allclose(rounded(IMAGES), by_hand(IMAGES), atol=1e-3)
    handles = round_inputs(by_hand, plan.activations)
    assert torch.equal(rounded(IMAGES), by_hand(IMAGES))
    assert torch.equal(copy.deepcopy(rounded)(IMAGES), rounded(IMAGES))
    for handle in handles:
        handle.remove()
    assert torch.equal(net(IMAGES), before)


def test_training_goes_through_both_and_leaves_no_hook() -> None:
    net = network()
    plan = calibrated(net, uniform_bits(net, 4), [IMAGES], bits=4)
    batches = [(IMAGES, torch.arange(12) % 3)]
    with fake_quantized(net, plan) as thresholds:
        torch.testing.assert_close(net(IMAGES), quantize_network(network(), plan, thresholds)[0](IMAGES))
        history = fine_tune(net, batches, epochs=12, learning_rate=0.05)
    assert history.epochs[-1].loss < history.epochs[0].loss
    with pytest.raises(KeyError), fake_quantized(net, plan):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_ranges_are_stored_and_come_back(tmp_path: Path) -> None:
    net, other, path = network(), network(), tmp_path / "net.safetensors"
    plan = calibrated(net, uniform_bits(net, 4), [IMAGES])
    assert save_quantized(net, plan, path) == path.stat().st_size == quantized_bytes(net, plan)
    found = load_quantized(other, path)
    assert found.activations == plan.activations
    round_inputs(other, found.activations)
    assert torch.equal(other(IMAGES), quantize_network(net, plan)[0](IMAGES))
    tensors, bits = load_file(path), json.dumps({name: sorted(set(b.tolist())) for name, b in plan.bits.items()})
    for ranges in ('{"0": [8, -1.0, true]}', '{"9": [8, 1.0, true]}', '{"0": [99, 1.0, true]}', '{"0": 8}', "{", "[]"):
        save_file(tensors, path, metadata={"format": "secateur-quantized-1", "bits": bits, "activations": ranges})
        with pytest.raises(CheckpointError, match="ranges of activations cannot be read"):
            load_quantized(other, path)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, DataError, "no images"),
        ([IMAGES / 0], {}, DataError, "NaN or infinite"),
        ([IMAGES], {"bits": 1}, ConfigError, r"2\.\.16; found \[1\]"),
        ([IMAGES], {"bits": 17}, ConfigError, r"2\.\.16; found \[17\]"),
        ([IMAGES], {"samples": 0}, ConfigError, "samples is 0; it must be a whole number, at least 1"),
        ([IMAGES], {"samples": 1.5}, ConfigError, r"samples is 1\.5; it must be a whole number, at least 1"),
        ([IMAGES[:0]], {}, DataError, "no images"),
    ],
)
def test_bad_input(batches: Any, options: Any, error: type[Exception], message: str) -> None:
    net = network()
    with pytest.raises(error, match=message):
        calibrated(net, uniform_bits(net, 8), batches, **options)


def test_empty_batches_are_passed_over() -> None:
    net = network()
    plan = uniform_bits(net, 8)
    assert calibrated(net, plan, [IMAGES[:0], IMAGES]).activations == calibrated(net, plan, [IMAGES]).activations


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf"), 1e-46, 1e39])
def test_ranges_that_reach_nowhere(threshold: float) -> None:
    with pytest.raises(ConfigError, match="finite and above zero; found"):
        ActivationRange(8, threshold, signed=False)


def test_what_overflows_inside_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        net[0].weight[1] = 1e30
    with pytest.raises(DataError, match="'1' reads NaN or infinite"):
        calibrated(net, uniform_bits(net, 8), [IMAGES * 1e30])


def test_a_layer_that_is_not_there_is_named_and_no_hook_stays() -> None:
    net, to = network(), ActivationRange(8, 1.0, signed=False)
    for name in ("nosuch", "3.weight", "0.conv"):
        with pytest.raises(ConfigError, match=f"'{name}' reads is to be rounded, but the network has no such layer"):
            round_inputs(net, {"0": to, name: to})
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_range_without_bits_is_of_another_network() -> None:
    net = network()
    plan = BitPlan({"0": torch.full((4,), 8)}, activations={"3": ActivationRange(8, 1.0, signed=False)})
    with pytest.raises(ConfigError, match="rounds what '3' reads, but gives no bits"):
        quantize_network(net, plan)
