"""The papers' own accounting: naive twins on networks that really shrank, and what the papers print."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual, torchvision_network
from references_costs import hrank_by_loops, thop_by_loops
from secateur.channel_graph import apply_plan, channel_groups
from secateur.cost import COSTS, MacsCost, cost_model, flops2_cost, hrank_cost, hrank_parameters, thop_cost
from secateur.errors import ConfigError, NetworkError, PlanError
from secateur.networks import densenet40, digits_resnet, googlenet, resnet56, resnet110, vgg16_bn
from secateur.records import ChannelGroup, ChannelGroups, Member, PruningPlan, ScoreTable
from secateur.search import uniform_plan

IMAGE = torch.zeros(1, 3, 32, 32)


def random_plan(groups: ChannelGroups, seed: int) -> PruningPlan:
    draw = random.Random(seed)
    kept = {
        name: tuple(sorted(draw.sample(range(group.width), draw.randint(1, group.width))))
        for name, group in groups.items()
    }
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 1.0, 1.0)


# --- against naive twins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice, vgg16_bn])
def test_thop_and_flops2_equal_loops_over_the_network_after_real_surgery(network: Callable[[], nn.Module]) -> None:
    model, x = network(), torch.randn(2, 3, 32, 32)
    groups = channel_groups(model, x, check=False)
    thop, flops2 = thop_cost(model, x, groups), flops2_cost(model, x, groups)
    for seed in range(3):
        plan = random_plan(groups, seed)
        pruned = apply_plan(model, plan).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            pruned(x[:1])
        assert thop(plan.widths) == thop_by_loops(pruned, x)
        assert flops2(plan.widths) == counter.get_total_flops()


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice, vgg16_bn])
def test_hrank_equals_loops_over_the_dense_network(network: Callable[[], nn.Module]) -> None:
    """Layer by layer: each keeps its own number of outputs, whatever it is summed with."""
    model, x = network(), torch.randn(2, 3, 32, 32)
    cost, parameters = hrank_cost(model, x), hrank_parameters(model)
    for seed in range(3):
        draw = random.Random(seed)
        filters = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
        kept = {name: draw.randint(1, width) for name, width in filters.items()}
        assert (cost(kept), parameters(kept)) == hrank_by_loops(model, x, kept)


def test_hrank_of_groups_counts_the_outputs_of_all_their_layers() -> None:
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    found = hrank_cost(model, x, groups)({"stem": 3, "first": 2}), hrank_parameters(model, groups)({"stem": 3})
    assert found[0] == hrank_by_loops(model, x, {"stem": 3, "second": 3, "first": 2})[0]
    assert found[1] == hrank_by_loops(model, x, {"stem": 3, "second": 3})[1]


def test_hrank_counts_masked_channels_as_gone_and_what_shrinks_does_not() -> None:
    channels = tuple((c,) for c in range(8))
    model, x = Residual(), torch.randn(2, 3, 9, 9)
    groups = {
        "second": ChannelGroup("second", 8, (Member("second", "masked", channels), Member("norm", "masked", channels)))
    }
    assert hrank_cost(model, x, groups)({"second": 2}) == hrank_by_loops(model, x, {"second": 2})[0]
    for name in ("macs", "parameters", "bytes", "thop", "flops2"):
        cost = cost_model(name, model, x, groups)
        assert cost({"second": 2}) == cost({}), name


def test_narrowed_layers_lose_inputs() -> None:
    model, x = ConcatTwice(), torch.randn(2, 3, 9, 9)
    groups = channel_groups(model, x)
    cost = hrank_cost(model, x, groups, narrowed=["second"])
    assert cost({"first": 3}) == hrank_by_loops(model, x, {"first": 3}, {"second": 2 * 5})[0]
    assert cost({"first": 3}) < hrank_cost(model, x, groups)({"first": 3})
    with pytest.raises(ConfigError, match=r"transition: no such .* there are head, first, second"):
        hrank_cost(model, x, groups, narrowed=["transition"])


# --- what the papers print --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "millions"), [(resnet56, 125.49), (resnet110, 252.89), (vgg16_bn, 313.46), (densenet40, 282.92)]
)
def test_macs_of_the_dense_networks(network: Callable[[], nn.Module], millions: float) -> None:
    """ResNet-56 and 110 as printed by HRank and in the base of DI; DenseNet is printed as 282.00."""
    model = network()
    assert MacsCost(model, IMAGE, {})({}) / 1e6 == pytest.approx(millions, abs=0.005)
    assert hrank_cost(model, IMAGE)({}) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("network", "pool", "millions"),
    [(resnet56, 65 * 64, 126.56), (resnet110, 65 * 64, 254.99), (googlenet, 0, 1529.43)],
)
def test_thop_of_the_dense_networks(network: Callable[[], nn.Module], pool: int, millions: float) -> None:
    """As printed by CLR-RNF, whose residual networks end in a pool that is a module: 64 pixels and a division."""
    assert (thop_cost(network(), IMAGE, {})({}) + pool) / 1e6 == pytest.approx(millions, abs=0.005)


def test_thop_of_vgg_with_one_linear_layer() -> None:
    """As printed by CLR-RNF: 314.04 M. HRank's network has a second linear layer and its batch norm."""
    model = vgg16_bn()
    assert thop_cost(model, IMAGE, {})({}) / 1e6 == pytest.approx(314.56, abs=0.005)
    model.classifier = nn.Sequential(nn.Linear(512, 10))
    assert thop_cost(model, IMAGE, {})({}) / 1e6 == pytest.approx(314.04, abs=0.005)


def test_resnet50() -> None:
    """HRank 4.09 G, AutoPruner 8.18 G, CLR-RNF 4113.56 M with its pool of 49 pixels."""
    pytest.importorskip("torchvision")
    model, x = torchvision_network("resnet50", classes=1000), torch.zeros(1, 3, 224, 224)
    assert MacsCost(model, x, {})({}) / 1e9 == pytest.approx(4.09, abs=0.005)
    assert flops2_cost(model, x, {})({}) / 1e9 == pytest.approx(8.18, abs=0.005)
    assert (thop_cost(model, x, {})({}) + 50 * 2048) / 1e6 == pytest.approx(4113.56, abs=0.005)


@pytest.mark.parametrize(("network", "side", "millions"), [("resnet18", 224, 1814.07), ("mobilenet_v2", 224, 300.77)])
def test_imagenets_smaller_networks(network: str, side: int, millions: float) -> None:
    """In DI's table ResNet-18 keeps 1.04 G, 42.5% less, so 1.81 G; AutoPruner prints 300.79 M for MobileNetV2."""
    pytest.importorskip("torchvision")
    model = torchvision_network(network, classes=1000)
    assert MacsCost(model, torch.zeros(1, 3, side, side), {})({}) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("network", "left", "removed"),
    [
        (resnet56, {"macs": 57.9, "parameters": 0.41}, {"macs": 53.7, "parameters": 51.8}),
        (resnet56, {"macs": 49.7, "parameters": 0.43}, {"macs": 60.2, "parameters": 50.0}),
        (resnet110, {"macs": 112, "parameters": 0.75}, {"macs": 55.7, "parameters": 56.4}),
        (resnet110, {"macs": 100, "parameters": 0.83}, {"macs": 60.5, "parameters": 51.7}),
    ],
)
def test_percentages_of_di_are_of_our_networks(
    network: Callable[[], nn.Module], left: dict[str, float], removed: dict[str, float]
) -> None:
    """DI's tables: MACs as they are, parameters rounded to ten thousand."""
    model = network()
    macs, parameters = MacsCost(model, IMAGE, {})({}), sum(p.numel() for p in model.parameters())
    assert 100 * (1 - left["macs"] * 1e6 / macs) == pytest.approx(removed["macs"], abs=0.3)
    assert 100 * (1 - left["parameters"] * 1e6 / parameters) == pytest.approx(removed["parameters"], abs=0.6)


def test_the_vgg_of_di_is_the_one_of_nineteen_layers() -> None:
    """91 M and 1.21 M left are 77.2% and 94.0% less: of 399 M and 20 M, not of the 313 M and 15 M of VGG-16."""
    vgg = pytest.importorskip("torchvision.models.vgg")
    features = vgg.make_layers(vgg.cfgs["E"], batch_norm=True)
    model = nn.Sequential(features, nn.Flatten(), nn.Linear(512, 10))
    assert 91e6 / MacsCost(model, IMAGE, {})({}) == pytest.approx(1 - 0.772, abs=0.001)
    assert 1.21e6 / sum(p.numel() for p in model.parameters()) == pytest.approx(1 - 0.940, abs=0.0005)


class PreActivated(nn.Module):
    """A bottleneck block of ResNet-164: as many batch norms as convolutions, each before its own."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, 4 * inner, 1, 1)]
        layers = [
            layer
            for before, after, kernel, step in sizes
            for layer in (
                nn.BatchNorm2d(before),
                nn.ReLU(),
                nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False),
            )
        ]
        self.branch = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if inputs == 4 * inner else nn.Conv2d(inputs, 4 * inner, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.shortcut(x)


def test_the_resnet164_of_di_is_made_of_bottlenecks() -> None:
    """109 M and 0.71 M left are 56.4% and 58.2% less, 98 M and 0.90 M 60.6% and 47.1%: of 248 to 250 M, and 1.70 M."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    width = 16
    for inner in (16, 32, 64):
        for block in range(18):
            layers.append(PreActivated(width, inner, 2 if inner > 16 and block == 0 else 1))
            width = 4 * inner
    pool = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    model = nn.Sequential(*layers, *pool)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == 164 + 3, "and three shortcuts"
    macs, parameters = MacsCost(model, IMAGE, {})({}), sum(p.numel() for p in model.parameters())
    for left, less in ((109e6, 56.4), (98e6, 60.6)):
        assert 100 * (1 - left / macs) == pytest.approx(less, abs=0.5)
    for left, less in ((0.71e6, 58.2), (0.90e6, 47.1)):
        assert 100 * (1 - left / parameters) == pytest.approx(less, abs=0.3)


def test_the_resnet56_of_filter_sketch_is_counted_in_macs() -> None:
    """60% of the inner channels of every block: 73.36 M and 0.50 M are printed, 41.5% less of 125.49 M."""
    model = resnet56()
    groups = channel_groups(model, IMAGE, check=False, residual="skip")
    widths = {name: int(0.6 * group.width) for name, group in groups.items()}
    assert len(groups) == 27
    macs = MacsCost(model, IMAGE, groups)
    assert macs(widths) / 1e6 == pytest.approx(73.36, abs=0.005)
    assert 100 * (1 - macs(widths) / macs({})) == pytest.approx(41.5, abs=0.05)
    assert cost_model("parameters", model, IMAGE, groups)(widths) / 1e6 == pytest.approx(0.50, abs=0.01)


def test_the_vgg16_of_dcff_is_counted_by_thop() -> None:
    """72.77 M, and 1.06 M parameters, at the published rates, of a network with one linear layer."""
    model = vgg16_bn()
    model.classifier = nn.Sequential(nn.Linear(512, 10))
    groups = channel_groups(model, IMAGE, check=False)
    rates = [0.5] * 2 + [0.4] * 2 + [0.35] * 3 + [0.85] * 6
    widths = {name: int(g.width * (1 - rate)) for (name, g), rate in zip(groups.items(), rates, strict=True)}
    assert thop_cost(model, IMAGE, groups)(widths) / 1e6 == pytest.approx(72.77, abs=0.005)
    assert MacsCost(model, IMAGE, groups)(widths) / 1e6 < 72.6
    assert cost_model("parameters", model, IMAGE, groups)(widths) / 1e6 == pytest.approx(1.06, abs=0.012)


def test_vgg16_of_autopruner() -> None:
    pytest.importorskip("torchvision")
    model = torchvision_network("vgg16", classes=1000)
    assert flops2_cost(model, torch.zeros(1, 3, 224, 224), {})({}) / 1e9 == pytest.approx(30.94, abs=0.005)


@pytest.mark.parametrize("network", [resnet56, vgg16_bn])
def test_torch_prunings_own_count_is_thops_but_for_linear_layers_and_biases(network: Callable[[], nn.Module]) -> None:
    """Beside each other: 126,550,666 and 126,551,286 for ResNet-56."""
    tp = pytest.importorskip("torch_pruning")
    model = network().eval()
    theirs, ours = tp.utils.count_ops_and_params(model, IMAGE)[0], thop_cost(model, IMAGE, {})({})
    assert ours == pytest.approx(theirs, rel=1e-3)
    if network is resnet56:
        assert (theirs, ours) == (126_550_666, 126_551_286)


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COSTS)
def test_every_cost_by_name_falls_with_the_widths_and_serves_a_search(name: str) -> None:
    model, x = digits_resnet(), torch.randn(2, 1, 8, 8)
    groups = channel_groups(model, x, check=False)
    cost = cost_model(name, model, x, groups)
    assert cost.name == name
    assert cost.unit
    full = {name: group.width for name, group in groups.items()}
    assert cost(full) == cost({})
    for group in groups:
        assert cost(full | {group: 1}) < cost(full | {group: 2}) < cost(full)
    scores = ScoreTable({group: torch.arange(float(groups[group].width)) for group in groups})
    plan = uniform_plan(groups, scores, cost, "50%", round_to=1)
    assert plan.cost == name
    assert 0.4 * cost({}) < plan.cost_after == cost(plan.widths) <= 0.5 * cost({})
    with pytest.raises(PlanError, match="no channel group is called 'nowhere'"):
        cost({"nowhere": 1})


@pytest.mark.parametrize("name", COSTS)
def test_groups_of_another_network_are_refused(name: str) -> None:
    group = ChannelGroup("stem", 2, (Member("stem", "producer", ((0,), (1,))),))
    with pytest.raises(NetworkError, match="'stem'"):
        cost_model(name, nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), {"stem": group})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="unknown cost 'flops'; allowed: macs, parameters, bytes, flops2, thop, hrank"
    ):
        cost_model("flops", nn.Linear(2, 2), torch.zeros(1, 2), {})


def test_one_layer_that_runs_twice_counts_each_call_but_its_parameters_once() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    assert hrank_cost(model, torch.zeros(1, 3))({"0": 2}) == 2 * (3 * 2 + 2)
    assert hrank_parameters(model)({"0": 2}) == 3 * 2 + 2
