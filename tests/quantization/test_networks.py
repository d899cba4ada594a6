"""Bits go to the filters that score high, the file is as large as claimed, and comes back exactly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations

import references_quantization as naive
from secateur.errors import BudgetError, CheckpointError, ConfigError, NetworkError, ScoreError
from secateur.fingerprints import structure_of
from secateur.networks import resnet20
from secateur.quantization import (
    BitPlan,
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
from secateur.quantization.filters import filters_of, layers_with_filters
from secateur.records import ScoreTable
from secateur.training import fine_tune


def network() -> nn.Sequential:
    """Plain, grouped and transposed convolutions, batch norm and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 5, 2, groups=1), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


IMAGES = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Sequential:
    built = network().eval()
    built(IMAGES)
    return built


def table(net: nn.Module) -> ScoreTable:
    sizes = {name: net.get_submodule(name) for name in layers_with_filters(net)}
    random = torch.Generator().manual_seed(2)
    widths = {name: getattr(m, "out_channels", None) or m.out_features for name, m in sizes.items()}
    return ScoreTable(
        {name: torch.rand(C, generator=random) for name, C in widths.items()}, settings={"criterion": "di"}
    )


def test_shares_by_score_reversed_and_at_random(net: nn.Sequential) -> None:
    scores = ScoreTable({"0": torch.tensor([5.0, 1, 7, 3, 3, 8, 2, 6])})
    options: dict[str, Any] = {"levels": (8, 4, 2), "shares": (0.25, 0.5, 0.25), "ends": None}
    plan = bit_plan(net, scores, **options)
    assert plan.bits["0"].tolist() == [4, 2, 8, 4, 4, 8, 2, 4]
    assert bit_plan(net, scores, order="reversed", **options).bits["0"].tolist() == [4, 8, 2, 4, 4, 2, 8, 4]
    plans = [bit_plan(net, scores, order="random", seed=s, **options) for s in (0, 0, 1)]
    random = [found.bits["0"] for found in plans]
    assert [found.settings["seed"] for found in plans] == [0, 0, 1]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])
    assert sorted(random[2].tolist()) == sorted(plan.bits["0"].tolist())
    assert plan.settings["shares"] == [0.25, 0.5, 0.25]


def test_the_ends_and_layers_without_scores(net: nn.Sequential) -> None:
    plan = bit_plan(net, ScoreTable({}), levels=(4, 2), shares=(0.5, 0.5))
    assert {name: set(bits.tolist()) for name, bits in plan.bits.items()} == {
        "0": {8}, "3": {4, 2}, "4": {4, 2}, "6": {8},
    }  # fmt: skip
    norms = net[3].weight.detach().abs().sum((1, 2, 3))
    assert bool((norms[plan.bits["3"] == 4].min() >= norms[plan.bits["3"] == 2].max()).item())


@pytest.mark.parametrize("levels", [(8, 4), (8, 4, 2)])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8, 1.0])
def test_a_size_is_met_from_below_as_near_as_filters_allow(levels: tuple[int, ...], part: float) -> None:
    net = resnet20()
    ends = [quantized_bytes(net, bit_plan(net, ScoreTable({}), levels=(b,), shares=(1.0,))) for b in levels]
    size = ends[-1] + part * (ends[0] - ends[-1])

    def measured(plan: BitPlan) -> int:
        return quantized_bytes(net, plan)

    plan = bit_plan(net, ScoreTable({}), levels=levels, size=size, measured=measured)
    assert 0.985 * size <= measured(plan) <= size
    assert len({b for bits in plan.bits.values() for b in bits.tolist()} - {8}) <= 2
    with pytest.raises(
        BudgetError, match=rf"as small as {ends[-1] - 1:,} bytes; the smallest takes {ends[-1]:,} bytes"
    ):
        bit_plan(net, ScoreTable({}), levels=levels, size=ends[-1] - 1, measured=measured)


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


def test_size_per_weight_approaches_the_bits() -> None:
    net = nn.Sequential(nn.Conv2d(64, 128, 3, bias=False), nn.Conv2d(128, 128, 3, bias=False))
    for bits in (2, 3, 4, 8):
        plan = uniform_bits(net, bits, ends=None)
        weights = sum(p.numel() for p in net.parameters())
        size = quantized_bytes(net, plan)
        assert 8 * size / weights == pytest.approx(bits, rel=0.05)
        assert plan.average(net) == bits
        found = largest_uniform(net, size, lambda other: quantized_bytes(net, other), ends=None)
        assert found.settings["levels"] == [bits]  # which take exactly so much


def test_training_goes_through_the_rounding(net: nn.Sequential) -> None:
    plan = uniform_bits(net, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batches = [(IMAGES, torch.arange(8) % 3)] * 4
    with fake_quantized(net, plan) as thresholds:
        rounded, _ = quantize_network_of(before, plan, thresholds)
        torch.testing.assert_close(net(IMAGES), rounded(IMAGES))
        history = fine_tune(net, batches, epochs=6, learning_rate=0.05)
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert net.state_dict().keys() == before.keys()
    assert not torch.equal(net[3].weight, before["3.weight"])
    final, codes = quantize_network(net, plan, thresholds)
    assert all(len(found.codes[0].unique()) <= 2**8 for found in codes.values())
    assert final[3].weight[0].unique().numel() <= 7


def quantize_network_of(state: dict[str, torch.Tensor], plan: BitPlan, thresholds: Any) -> Any:
    fresh = network()
    fresh(IMAGES)
    fresh.load_state_dict(state)
    return quantize_network(fresh.eval(), plan, thresholds)


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    net = nn.Linear(3, 2, bias=False)
    inputs = torch.randn(4, 3)
    with fake_quantized(nn.Sequential(net), BitPlan({"0": torch.tensor([2, 8])})):
        net(inputs).sum().backward()
    torch.testing.assert_close(net.weight.grad, inputs.sum(0).expand(2, 3))
    with pytest.raises(KeyError), fake_quantized(nn.Sequential(net), BitPlan({"0": torch.tensor([2, 8])})):
        raise KeyError
    assert type(net) is nn.Linear


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": (4, 8), "shares": (0.5, 0.5)}, ConfigError, r"falling numbers of bits, such as \(8, 4\)"),
        ({"levels": (8, 8), "shares": (0.5, 0.5)}, ConfigError, "must be falling"),
        ({"levels": (8, 1), "shares": (0.5, 0.5)}, ConfigError, r"2\.\.16; found \[1, 8\]"),
        ({"shares": (0.5, 0.4)}, ConfigError, "add up to 1"),
        ({"shares": (1.0,)}, ConfigError, "one for each of 2 levels"),
        ({"shares": (float("nan"), 0.5)}, ConfigError, "add up to 1"),
        ({"shares": (0.5, 0.5), "thresholds": "mse"}, ConfigError, "'mse'; allowed: published, largest, least_squares"),
        ({}, ConfigError, "either the shares of the levels or a size"),
        ({"shares": (0.5, 0.5), "size": 10}, ConfigError, "not both"),
        ({"size": 10}, ConfigError, "give measured"),
        ({"shares": (0.5, 0.5), "order": "best"}, ConfigError, "unknown order 'best'"),
    ],
)
def test_bad_plans(net: nn.Sequential, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bit_plan(net, ScoreTable({}), **options)


def test_plans_and_scores_of_other_networks(net: nn.Sequential) -> None:
    with pytest.raises(ScoreError, match="'0' has 8 filters and 5 scores"):
        bit_plan(net, ScoreTable({"0": torch.rand(5)}), shares=(0.5, 0.5))
    for bits, message in (
        ({"9": torch.tensor([8])}, "'9', which the network does not have"),
        ({"0": torch.tensor([8])}, "1 filters of '0', which has 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            quantize_network(net, BitPlan(bits))
        with pytest.raises(ConfigError, match=message), fake_quantized(net, BitPlan(bits)):
            pass
        with pytest.raises(ConfigError, match=message):
            quantized_bytes(net, BitPlan(bits))
        with pytest.raises(ConfigError, match=message):
            BitPlan(bits).average(net)
    with pytest.raises(ConfigError, match="thresholds are those of another plan: there are none for '3'"):
        quantize_network(net, uniform_bits(net, 4), {"0": torch.ones(8)})


def test_networks_without_layers_and_bits_that_are_not_whole() -> None:
    for found in (lambda: uniform_bits(nn.ReLU(), 4), lambda: bit_plan(nn.ReLU(), ScoreTable({}), shares=(0.5, 0.5))):
        with pytest.raises(NetworkError, match="no convolution and no linear layer"):
            found()
    with pytest.raises(ConfigError, match="whole numbers"):
        BitPlan({"0": torch.tensor([4.5])})


def test_weights_that_two_layers_share_or_that_are_computed() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(NetworkError, match="the layers '0' and '1' share one weight"):
        quantize_network(tied, uniform_bits(tied, 4))
    computed = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    for call in (quantize_network, quantized_bytes):
        with pytest.raises(NetworkError, match="the weight of '0' is computed from other tensors"):
            call(computed, uniform_bits(computed, 4))


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


def test_parameters_keep_their_order_and_their_optimizer(net: nn.Sequential) -> None:
    names = [name for name, _ in net.named_parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    structure, objects = structure_of(net), [*net.parameters()]
    with fake_quantized(net, uniform_bits(net, 4)):
        net(IMAGES).sum().backward()
        optimizer.step()
    assert [name for name, _ in net.named_parameters()] == names
    assert all(now is before for now, before in zip(net.parameters(), objects, strict=True))
    assert structure_of(net) == structure


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_as_it_is_stored(kind: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(kind)
    plan, inputs = uniform_bits(net, 4), torch.randn(4, 6).to(kind)
    with fake_quantized(net, plan), torch.no_grad():
        within = net(inputs)
    assert within.dtype == kind
    assert torch.equal(within, quantize_network(net, plan)[0](inputs))
