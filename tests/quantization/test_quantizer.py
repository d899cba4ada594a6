"""Rounding, thresholds and packing are what they say, number by number, and go back and forth exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references_quantization as naive
from secateur.errors import CheckpointError, ConfigError, NetworkError, ScoreError
from secateur.quantization import dequantize, kl_thresholds, quantize, quantizer, thresholds_of
from secateur.quantization.filters import as_weight, by_filter, filters_of
from secateur.quantization.packing import pack, packed_bytes, unpack


def weights(seed: int, filters: int, size: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    found = torch.randn(filters, size, generator=random)
    found[0] *= torch.randint(2, (size,), generator=random)  # with zeros, and at times nothing else
    return found


@settings(max_examples=60, deadline=None)
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
    rows = torch.stack([torch.randn(90), torch.rand(90), torch.cat([torch.zeros(80), torch.ones(10)])]).abs().double()
    expected = [naive.kl_threshold_by_loops(row.tolist(), bits, bins=40) for row in rows]
    assert kl_thresholds(rows, bits).tolist() == pytest.approx(expected)


def test_from_five_bits_on_nothing_is_clipped() -> None:
    weight = torch.randn(6, 300)
    weight[:, 0] = 30.0
    bits = torch.tensor([2, 3, 4, 5, 8, 16])
    found = thresholds_of(weight, bits)
    assert (found == 30.0).tolist() == [False, False, False, True, True, True]
    assert bool((found[:3] < 10).all())


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 16), seed=st.integers(0, 10**6), count=st.integers(0, 40), signed=st.booleans())
def test_packs_as_loops_do_and_back(bits: int, seed: int, count: int, signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))
    stream = pack(values, bits)
    assert stream.tolist() == naive.packed_by_loops(values.tolist(), bits)
    assert len(stream) == packed_bytes(count, bits)
    assert unpack(stream, bits, count, signed=signed).tolist() == values.tolist()


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
    ],
)
def test_bad_input(weight: Tensor, bits: list[int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quantize(weight, torch.tensor(bits))
    if error is ConfigError:
        return
    with pytest.raises(NetworkError, match="ReLU has no filters"):
        filters_of(nn.ReLU())
