"""Rounding, thresholds and packing are what they say, number by number, and go back and forth exactly."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references_quantization as naive
from secateur.errors import CheckpointError, ConfigError, NetworkError, ScoreError
from secateur.quantization import (
    ThresholdRule,
    dequantize,
    kl_thresholds,
    least_squares_thresholds,
    packing,
    quantize,
    quantizer,
    thresholds_of,
)
from secateur.quantization.filters import as_weight, by_filter, filters_of
from secateur.quantization.packing import pack, packed_bytes, unpack


def weights(seed: int, filters: int, size: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    found = torch.randn(filters, size, generator=random)
    found[0] *= torch.randint(2, (size,), generator=random)  # with zeros, and at times nothing else
    return found


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6), filters=st.integers(1, 4), size=st.integers(1, 12), bits=st.lists(st.integers(2, 16))
)
def test_quantizes_as_loops_do(seed: int, filters: int, size: int, bits: list[int]) -> None:
    weight, own = weights(seed, filters, size), torch.tensor((bits + [8] * filters)[:filters])
    limits = weight.abs().amax(1)
    found = quantize(weight, own, limits)
    for c in range(filters):
        codes, scale = naive.quantized_by_loops(weight[c].double().tolist(), int(own[c]), float(limits[c]))
        assert (found.codes[c] - torch.tensor(codes)).abs().max() <= (1 if own[c] > 12 else 0)  # float32 beside float64
        assert float(found.scales[c]) == pytest.approx(scale)
    error = (dequantize(found) - weight).abs()
    assert bool((error <= 0.5001 * found.scales[:, None] + 1e-7).all())
    assert bool((found.codes.abs() <= (2 ** (own - 1) - 1)[:, None]).all())


def test_two_bits_give_three_values_and_zeros_stay_zeros() -> None:
    found = quantize(torch.tensor([[0.9, -0.1, -0.8], [0.0, 0.0, 0.0]]), torch.tensor([2, 2]), torch.tensor([0.8, 0.0]))
    torch.testing.assert_close(dequantize(found), torch.tensor([[0.8, 0.0, -0.8], [0.0, 0.0, 0.0]]))
    assert not torch.isnan(dequantize(quantize(torch.zeros(2, 3), torch.tensor([2, 8])))).any()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_thresholds_of_few_bits_are_those_of_loops(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "BINS", 40)
    rows = torch.stack([torch.randn(90), torch.rand(90), torch.cat([torch.zeros(80), torch.ones(10)])])
    depthwise = torch.randn(60, 9, generator=torch.Generator().manual_seed(9))  # a code then owns one weight, or none
    for own in (rows.abs().double(), depthwise.abs().double()):
        expected = [naive.kl_threshold_by_loops(row.tolist(), bits, bins=40) for row in own]
        assert kl_thresholds(own, bits).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("bits", "most"), [(2, 0.35), (3, 0.06), (4, 0.02)])
def test_few_weights_are_not_clipped_to_the_smallest_of_them(bits: int, most: float) -> None:
    weight = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))  # a depthwise convolution
    own = torch.full((200,), bits)
    lost = dequantize(quantize(weight, own, thresholds_of(weight, own))) - weight
    assert float(lost.square().sum() / weight.square().sum()) < most


def test_from_five_bits_on_nothing_is_clipped() -> None:
    weight = torch.randn(6, 300)
    weight[:, 0] = 30.0
    bits = torch.tensor([2, 3, 4, 5, 8, 16])
    found = thresholds_of(weight, bits)
    assert (found == 30.0).tolist() == [False, False, False, True, True, True]
    assert bool((found[:3] < 10).all())


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 12), bits=st.integers(2, 8))
def test_least_squares_are_those_of_loops(seed: int, size: int, bits: int) -> None:
    sizes = weights(seed, 3, size).abs()
    found = least_squares_thresholds(sizes, bits)
    for row, own in zip(sizes.double().tolist(), found.tolist(), strict=True):
        expected = naive.least_squares_threshold_by_loops(row, bits)
        errors = [naive.squared_error_by_loops(row, bits, t) for t in (own, expected)]
        # float32 beside float64: of two thresholds that are as good, either
        assert own == pytest.approx(expected, rel=1e-4) or errors[0] == pytest.approx(errors[1], rel=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_least_squares_leave_less_than_any_other_rule(bits: int) -> None:
    weight = torch.randn(8, 144, generator=torch.Generator().manual_seed(bits))
    weight[0, 0] = 12.0
    own = torch.full((8,), bits)

    def error(thresholds: Tensor) -> Tensor:
        return (dequantize(quantize(weight, own, thresholds)) - weight).double().square().sum(1)

    least, largest = error(thresholds_of(weight, own, "least_squares")), thresholds_of(weight, own, "largest")
    assert bool((least <= 1.000001 * error(thresholds_of(weight, own))).all())
    assert bool((least <= 1.000001 * error(largest)).all())
    grid = torch.stack([error(largest * k / 400) for k in range(1, 401)]).amin(0)
    assert bool((least <= 1.03 * grid).all())
    if bits == 2:
        assert bool((least < 0.7 * error(largest))[1:].all())  # the outlier of the first decides there


def test_least_squares_of_two_bits_are_ternary_weights() -> None:
    sizes = torch.rand(20, 27, generator=torch.Generator().manual_seed(0)) ** 2
    expected = [naive.ternary_scale_by_loops(row) for row in sizes.tolist()]
    assert least_squares_thresholds(sizes, 2).tolist() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("rule", get_args(ThresholdRule))
def test_rules_know_no_sign_and_follow_the_scale_and_leave_zeros(rule: ThresholdRule) -> None:
    weight, bits = torch.randn(5, 40), torch.tensor([2, 3, 4, 8, 3])
    weight[4] = 0.0
    found = thresholds_of(weight, bits, rule)
    assert found[4] == 0
    assert bool((found[:4] > 0).all())
    torch.testing.assert_close(thresholds_of(-4 * weight, bits, rule), 4 * found)
    halves = thresholds_of(weight.half(), bits, rule)
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves, thresholds_of(weight.half().float(), bits, rule))
    single = thresholds_of(torch.tensor([[-0.5]]), torch.tensor([8]), rule)
    assert single.tolist() == pytest.approx([0.5])
    if rule == "largest":
        assert torch.equal(found, weight.abs().amax(1))


@settings(max_examples=60)
@given(bits=st.integers(1, 16), seed=st.integers(0, 10**6), count=st.integers(0, 40), signed=st.booleans())
def test_packs_as_loops_do_and_back(bits: int, seed: int, count: int, signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))
    stream = pack(values, bits)
    assert stream.tolist() == naive.packed_by_loops(values.tolist(), bits)
    assert len(stream) == packed_bytes(count, bits)
    assert unpack(stream, bits, count, signed=signed).tolist() == values.tolist()


@pytest.mark.parametrize("count", [0, 7, 8, 9, 24, 25])
def test_packs_part_by_part(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(count) % 7 - 3
    whole = pack(values, 3)
    monkeypatch.setattr(packing, "PART", 8)
    assert torch.equal(pack(values, 3), whole)
    assert unpack(whole, 3, count).tolist() == values.tolist()


def test_streams_of_another_length_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"5 numbers of 3 bits take 2 bytes; found torch\.uint8 of shape"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv1d(3, 5, 2),
        nn.Linear(4, 3),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    ],
)
def test_a_filter_makes_one_output(module: Any) -> None:
    """All filters but one set to zero: all outputs but one are zero."""
    module.bias = None
    filters = torch.zeros_like(filters_of(module))
    filters[1] = 1.0
    with torch.no_grad():
        module.weight.copy_(as_weight(module, filters))
    assert torch.equal(by_filter(module, module.weight), filters)
    shape = {nn.Linear: (2, 4), nn.Conv1d: (2, 3, 6)}.get(type(module), (2, 4, 6, 6))
    outputs = module(torch.rand(shape))
    outputs = outputs.abs().reshape(*outputs.shape[:2], -1).sum((0, 2))
    assert (outputs > 0).tolist() == [c == 1 for c in range(len(filters))]


@pytest.mark.parametrize(
    ("weight", "bits", "error", "message"),
    [
        (torch.ones(2, 3), [1, 8], ConfigError, r"bits must be whole numbers in 2..16; found \[1, 8\]"),
        (torch.ones(2, 3), [8, 17], ConfigError, r"2..16; found \[8, 17\]"),
        (torch.ones(2, 3), [8], ConfigError, "for 2 filters"),
        (torch.tensor([[1.0], [float("nan")]]), [8, 8], ScoreError, "finite floating"),
        (torch.ones(2, 3, dtype=torch.int64), [8, 8], ScoreError, "finite floating"),
        (torch.ones(2, 3), [8, 4.5], ConfigError, "whole numbers in 2..16; found torch.float32"),
    ],
)
def test_bad_input(weight: Tensor, bits: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quantize(weight, torch.tensor(bits))
    if error is ConfigError:
        return
    with pytest.raises(NetworkError, match="ReLU has no filters"):
        filters_of(nn.ReLU())


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([1.0], r"2 filters take as many thresholds, .*; found \(1,\) numbers"),
        ([1.0, -1.0], "of which 1 are negative"),
        ([float("nan"), float("inf")], "of which 2 are negative, NaN or infinite"),
    ],
)
def test_bad_thresholds(thresholds: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantize(torch.ones(2, 3), torch.tensor([8, 8]), torch.tensor(thresholds))


def test_bad_weights_are_refused_beside_thresholds_too() -> None:
    with pytest.raises(ScoreError, match="finite floating"):
        quantize(torch.tensor([[float("nan")]]), torch.tensor([8]), torch.ones(1))


def test_an_unknown_rule() -> None:
    rule: Any = "mse"
    with pytest.raises(ConfigError, match="rule of thresholds 'mse'; allowed: published, largest, least_squares"):
        thresholds_of(torch.ones(2, 3), torch.tensor([8, 8]), rule)
