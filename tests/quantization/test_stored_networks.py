"""The file of a network of few bits is as large as claimed, comes back exactly, or is refused as a whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import references_quantization as naive
from quantized_for_tests import IMAGES, network, table
from secateur.errors import CheckpointError
from secateur.networks import resnet20
from secateur.quantization import (
    bit_plan,
    fake_quantized,
    largest_uniform,
    load_quantized,
    quantize_network,
    quantized_bytes,
    save_quantized,
    thresholds_of,
    uniform_bits,
)
from secateur.quantization.filters import filters_of
from secateur.training import fine_tune


@pytest.mark.parametrize("levels", [(5,), (8, 3), (16, 8, 4, 2)])
def test_the_file_is_as_large_as_claimed_and_comes_back_exactly(
    net: nn.Sequential, tmp_path: Path, levels: tuple[int, ...]
) -> None:
    plan = bit_plan(net, table(net), levels=levels, shares=[1 / len(levels)] * len(levels))
    path = tmp_path / "net.safetensors"
    assert save_quantized(net, plan, path) == path.stat().st_size == quantized_bytes(net, plan)
    other = network()
    other(IMAGES)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    found = load_quantized(other.eval(), path)
    expected, _ = quantize_network(net, plan)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert {name: bits.tolist() for name, bits in found.bits.items()} == {n: b.tolist() for n, b in plan.bits.items()}
    assert torch.equal(other(IMAGES), expected(IMAGES))
    assert save_quantized(other, found, tmp_path / "again.safetensors") == path.stat().st_size
    if len(levels) > 1:  # the place of each filter's bits takes no more bits than it needs
        places = [levels.index(b) for b in plan.bits["3"].tolist()]
        assert set(places) == set(range(len(levels)))
        stored = load_file(path)["3.weight.levels"].tolist()
        assert stored == naive.packed_by_loops(places, {2: 1, 4: 2}[len(levels)])


def test_a_layer_that_stands_in_two_places(tmp_path: Path) -> None:
    def build() -> nn.Sequential:
        layer = nn.Conv2d(2, 2, 3, padding=1)
        return nn.Sequential(layer, nn.ReLU(), layer)

    net, other, path = build(), build(), tmp_path / "net.safetensors"
    plan = uniform_bits(net, 4)
    assert save_quantized(net, plan, path) == path.stat().st_size == quantized_bytes(net, plan)
    assert list(load_quantized(other, path).bits) == ["0"]
    assert torch.equal(other(IMAGES), quantize_network(net, plan)[0](IMAGES))
    assert "2.weight" not in load_file(path)


def test_a_network_that_is_one_layer(tmp_path: Path) -> None:
    net, other, path = nn.Linear(16, 8), nn.Linear(16, 8), tmp_path / "net.safetensors"
    nn.init.zeros_(net.weight[2])  # a filter of zeros has the scale 0, and comes back
    plan = uniform_bits(net, 4, ends=None)
    assert save_quantized(net, plan, path) == path.stat().st_size == quantized_bytes(net, plan)
    assert set(load_file(path)) == {"weight.codes.4", "weight.scales", "bias"}
    assert torch.equal(load_quantized(other, path).bits[""], plan.bits[""])
    assert torch.equal(other.weight, quantize_network(net, plan)[0].weight)
    assert torch.equal(other.bias, net.bias)


def test_the_rule_of_the_plan_is_that_of_training_and_of_the_file(net: nn.Sequential, tmp_path: Path) -> None:
    plan, path = uniform_bits(net, 2, thresholds="least_squares"), tmp_path / "net.safetensors"
    expected = {n: thresholds_of(filters_of(net.get_submodule(n)), b, "least_squares") for n, b in plan.bits.items()}
    with fake_quantized(net, plan) as thresholds:
        fine_tune(net, [(IMAGES, torch.arange(8) % 3)] * 4, epochs=2, learning_rate=0.05)
    for name, own in expected.items():
        assert torch.equal(thresholds[name], own)
    assert save_quantized(net, plan, path, thresholds) == quantized_bytes(net, plan)
    for name, own in expected.items():  # as trained, and not those of the weights as they are now
        torch.testing.assert_close(load_file(path)[f"{name}.weight.scales"], own / (2.0 ** (plan.bits[name] - 1) - 1))
    anew = thresholds_of(filters_of(net[3]), plan.bits["3"], "least_squares")
    assert not torch.allclose(anew, expected["3"], rtol=1e-3)
    found = load_quantized(net, path)
    assert found.thresholds == "least_squares"
    assert found.average(net) == plan.average(net)
    with fake_quantized(net, found) as again:
        assert torch.equal(again["3"], thresholds_of(filters_of(net[3]), found.bits["3"], "least_squares"))


def test_plans_take_the_rule_and_files_of_the_published_one_do_not_name_it(net: nn.Sequential, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"thresholds": "largest"}
    plans = [
        uniform_bits(net, 4, **shared),
        bit_plan(net, table(net), shares=(0.5, 0.5), **shared),
        largest_uniform(net, 1e6, lambda plan: quantized_bytes(net, plan), **shared),
    ]
    assert {plan.thresholds for plan in plans} == {"largest"}
    path = tmp_path / "net.safetensors"
    for plan, named in ((uniform_bits(net, 4), False), (plans[0], True)):
        save_quantized(net, plan, path)
        assert (b"largest" in path.read_bytes()) == named
        assert load_quantized(net, path).thresholds == plan.thresholds
    path.write_bytes(path.read_bytes().replace(b"largest", b"hardest"))
    with pytest.raises(CheckpointError, match="unknown rule of thresholds 'hardest'; allowed: published"):
        load_quantized(net, path)


def test_files_that_do_not_fit(net: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_quantized(net, uniform_bits(net, 4), path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = path.read_bytes()

    def refused(message: str, content: bytes | None = None, **changes: Any) -> None:
        if content is not None:
            path.write_bytes(content)
        else:
            path.write_bytes(data)
            tensors, metadata = (
                load_file(path),
                {"format": "secateur-quantized-1", "bits": bits, **changes.pop("metadata", {})},
            )
            save_file({**tensors, **changes}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match=message):
            load_quantized(net, path)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    bits = re.search(rb'"bits":"(.*?[^\\\\])"', data).group(1).decode().replace('\\"', '"')
    refused("truncated", data[:-100])
    refused("format", metadata={"format": "other"})
    refused("no bits of '0'", metadata={"bits": '{"0": [99]}'})
    refused("cannot be read", metadata={"bits": "{"})
    refused("'0' does not fit the network|take .* bytes", **{"0.weight.codes.8": torch.zeros(3, dtype=torch.uint8)})
    refused("8 filters", **{"0.weight.scales": torch.zeros(5)})
    for scale in (torch.nan, torch.inf, -1.0):
        refused("'0' .* its scales must be finite", **{"0.weight.scales": torch.tensor([scale, *[1.0] * 7])})
    refused("'0' .* its scales must be .* float32", **{"0.weight.scales": torch.ones(8, dtype=torch.complex64)})
    save_quantized(resnet20(), uniform_bits(resnet20(), 8), path)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_quantized(net, path)
