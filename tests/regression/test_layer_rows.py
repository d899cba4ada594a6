"""Rows times weight are what the layer itself computes, and the rows are those that loops find."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import references_recovery as naive
from secateur.regression import layout_of, reason_against, weight_rows, write_weight
from secateur.regression.layer_rows import input_rows, output_rows, positions_of

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def by_rows(layer: nn.Module, rows: Tensor) -> Tensor:
    """What the rows (G, n, D) make of the layer's weight and bias: (n, G * O)."""
    outputs = (rows.double() @ weight_rows(layer)).transpose(0, 1).flatten(1)
    return outputs if layer.bias is None else outputs + layer.bias.double()


@st.composite
def convolutions(draw: Any) -> tuple[nn.Module, Tensor]:
    dimensions = draw(st.sampled_from([1, 2, 2, 3]))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    groups, per_group, multiplier = draw(st.sampled_from([(1, 2, 3), (2, 2, 1), (3, 1, 1), (2, 1, 3)]))
    kernel, dilation = sizes(1, 3), sizes(1, 2)
    padding = draw(st.sampled_from(["valid", "same", "numbers"]))
    stride = sizes(1, 1) if padding == "same" else sizes(1, 3)
    layer = CONVOLUTIONS[dimensions](
        groups * per_group,
        groups * multiplier,
        kernel,
        stride=stride,
        padding=sizes(0, 2) if padding == "numbers" else padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    inputs = torch.randn(2, groups * per_group, *sizes(5, 6))
    return layer.double(), inputs.double()


@given(convolutions(), st.integers(0, 99))
@settings(max_examples=60)
def test_rows_times_weight_are_a_convolutions_output(case: tuple[nn.Module, Tensor], seed: int) -> None:
    layer, inputs = case
    output = layer(inputs)
    count = positions_of(layer, output)
    assert count == output.shape[0] * output[0, 0].numel()
    drawn = torch.randint(count, (20,), generator=torch.Generator().manual_seed(seed))
    rows = input_rows(layer, inputs, output.shape, drawn)
    assert rows.shape == (layout_of(layer).blocks, 20, layout_of(layer).unknowns)
    torch.testing.assert_close(by_rows(layer, rows), output_rows(layer, output, drawn))
    expected = torch.stack([output.movedim(1, -1).flatten(0, -2)[place] for place in drawn.tolist()])
    torch.testing.assert_close(output_rows(layer, output, drawn), expected)


@given(convolutions())
@settings(max_examples=15)
def test_rows_are_those_that_loops_find(case: tuple[nn.Module, Tensor]) -> None:
    layer, inputs = case
    inputs = inputs[:1]
    output = layer(inputs)
    drawn = torch.arange(positions_of(layer, output))
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    padding = {"same": [r // 2 for r in reach], "valid": [0] * len(reach)}.get(str(layer.padding), layer.padding)
    rows = naive.rows_of_convolution(
        inputs,
        kernel=layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
        padding=padding,
        mode=layer.padding_mode,
        sizes=output.shape[2:],
    )
    blocks = rows.reshape(len(rows), layer.groups, -1).transpose(0, 1)
    assert torch.equal(input_rows(layer, inputs, output.shape, drawn), blocks)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5), (2, 3, 2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_times_weight_are_a_linear_layers_output(shape: tuple[int, ...], bias: bool) -> None:
    layer, inputs = nn.Linear(5, 3, bias=bias), torch.randn(shape)
    output = layer(inputs)
    count = positions_of(layer, output)
    drawn = torch.randperm(count)[:4]
    rows = input_rows(layer, inputs, output.shape, drawn)
    found = output_rows(layer, output, drawn)
    torch.testing.assert_close(by_rows(layer, rows).float(), found)
    assert torch.equal(found, torch.stack([output.reshape(-1, 3)[p] for p in drawn.tolist()]))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 3, groups=2), nn.Conv1d(3, 3, 2, groups=3), nn.Conv3d(2, 4, 1), nn.Linear(3, 2)]
)
def test_a_weight_comes_back_as_it_was_written(layer: nn.Module) -> None:
    before, identity = layer.weight.clone(), layer.weight
    write_weight(layer, weight_rows(layer))
    assert torch.equal(layer.weight, before)
    write_weight(layer, weight_rows(layer) + 1)
    assert layer.weight is identity
    torch.testing.assert_close(layer.weight, before + 1)
    assert weight_rows(layer).shape == (layout_of(layer))


def test_a_convolution_in_channels_last_gives_the_same_rows() -> None:
    layer, inputs = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 5, 5)
    drawn = torch.arange(50)
    plain = input_rows(layer, inputs, layer(inputs).shape, drawn)
    other = inputs.to(memory_format=torch.channels_last)
    assert torch.equal(plain, input_rows(layer, other, layer(other).shape, drawn))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.ConvTranspose2d(2, 2, 3), "transposed"),
        (nn.MultiheadAttention(4, 2), "neither a convolution nor a linear layer"),
        (nn.BatchNorm2d(2), "neither a convolution nor a linear layer"),
        (Standardised(2, 2, 3), "forward of its own"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "computed from others"),
    ],
)
def test_what_is_no_product_of_rows_and_weights_is_refused(layer: nn.Module, reason: str) -> None:
    assert reason in reason_against(layer)


def test_layers_that_only_inherit_are_accepted() -> None:
    assert reason_against(type("Mine", (nn.Conv2d,), {})(2, 2, 3)) == ""
    assert reason_against(nn.MultiheadAttention(4, 2).out_proj) == ""
