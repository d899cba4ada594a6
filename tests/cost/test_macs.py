"""MACs as a closed form in the widths, against half of what torch counts in the network that really shrank."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from networks_for_tests import ConcatTwice, Depthwise, Grouped, Residual, TwoBranches
from references_costs import macs_by_counting
from secateur.channel_graph import apply_plan, channel_groups
from secateur.cost import MacsCost
from secateur.errors import NetworkError, PlanError
from secateur.networks import resnet56
from secateur.records import ChannelGroup, Member, PruningPlan, Role


def counted(model: nn.Module, x: Tensor) -> float:
    """Half of torch's count, for one input."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return counter.get_total_flops() / 2 / len(x)


def same(width: int, *, start: int = 0, each: int = 1) -> tuple[tuple[int, ...], ...]:
    """Channel c owns `each` positions from start + c * each on."""
    return tuple(tuple(range(start + c * each, start + (c + 1) * each)) for c in range(width))


def shrunk(model: nn.Module, groups: dict[str, ChannelGroup], widths: dict[str, int], seed: int) -> nn.Module:
    """The network that really keeps so many channels, drawn at random."""
    draw = random.Random(seed)
    kept = {name: tuple(sorted(draw.sample(range(groups[name].width), width))) for name, width in widths.items()}
    return apply_plan(model, PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 1.0, 1.0))


def two_branches_groups() -> dict[str, ChannelGroup]:
    left = ChannelGroup(
        "left",
        4,
        (
            Member("left", "producer", same(4)),
            Member("meet", "consumer", same(4)),
            Member("head", "consumer", same(4, each=64)),
        ),
    )
    right = ChannelGroup(
        "right",
        6,
        (
            Member("right", "producer", same(6)),
            Member("meet", "consumer", same(6, start=4)),
            Member("head", "consumer", same(6, start=4 * 64, each=64)),
        ),
    )
    return {"left": left, "right": right}


def test_concatenation_flatten_and_repeated_calls_equal_torchs_count_in_the_narrow_network() -> None:
    x = torch.zeros(2, 3, 8, 8)
    cost = MacsCost(TwoBranches(), x, two_branches_groups())
    for left, right in itertools.product((1, 3, 4), (1, 2, 6)):
        assert cost({"left": left, "right": right}) == counted(TwoBranches(left, right), x)


class Transposed(nn.Module):
    """Convolutions over one and three dimensions and their transposes; the middle width can shrink."""

    def __init__(self, convolution: type, transposed: type, width: int = 6) -> None:
        super().__init__()
        self.first = convolution(2, width, 3, stride=2)
        self.second = transposed(width, 4, 3, stride=2, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


@pytest.mark.parametrize(
    ("convolution", "transposed", "dims"),
    [
        (nn.Conv1d, nn.ConvTranspose1d, 1),
        (nn.Conv2d, nn.ConvTranspose2d, 2),
        (nn.Conv3d, nn.ConvTranspose3d, 3),
    ],
)
def test_one_to_three_dimensions_and_transposed(convolution: type, transposed: type, dims: int) -> None:
    x = torch.zeros(1, 2, *[9] * dims)
    group = ChannelGroup("first", 6, (Member("first", "producer", same(6)), Member("second", "consumer", same(6))))
    cost = MacsCost(Transposed(convolution, transposed), x, {"first": group})
    for width in (1, 4, 6):
        assert cost({"first": width}) == counted(Transposed(convolution, transposed, width), x)


@pytest.mark.parametrize("roles", [("producer",), ("consumer",), ("producer", "consumer"), ("carrier",)])
def test_depthwise_layers_shrink_their_groups_whatever_their_role_is_called(roles: tuple[Role, ...]) -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, 2, 1)
        )

    x = torch.zeros(1, 3, 5, 5)
    for dense in (2, 8):
        layers = (("0", "producer"), *(("1", role) for role in roles), ("2", "consumer"))
        group = ChannelGroup("0", dense, tuple(Member(layer, role, same(dense)) for layer, role in layers))
        cost = MacsCost(build(dense), x, {"0": group})
        for width in range(1, dense + 1):
            assert cost({"0": width}) == counted(build(width), x)


def test_depthwise_with_two_outputs_for_each_input() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.Conv2d(width, 2 * width, 3, groups=width), nn.Conv2d(2 * width, 2, 1)
        )

    members = (
        Member("0", "producer", same(4)),
        Member("1", "consumer", same(4)),
        Member("2", "consumer", same(4, each=2)),
    )
    cost = MacsCost(build(4), torch.zeros(1, 3, 5, 5), {"0": ChannelGroup("0", 4, members)})
    for width in (2, 3, 4):
        assert cost({"0": width}) == counted(build(width), torch.zeros(1, 3, 5, 5))


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped, ConcatTwice])
def test_equals_torchs_count_after_real_surgery(network: type[nn.Module]) -> None:
    model, x = network(), torch.randn(2, 3, 9, 9)
    groups = dict(channel_groups(model, x))
    cost = MacsCost(model, x, groups)
    for seed in range(6):
        draw = random.Random(seed)
        widths = {name: draw.randint(1, group.width) for name, group in groups.items()}
        assert cost(widths) == counted(shrunk(model, groups, widths, seed), x)


class HalfRead(nn.Module):
    """Eight channels of which the next layers read the first four."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(4, 2, 1)
        self.depthwise = nn.Conv2d(4, 12, 1, groups=4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)[:, :4]
        return self.second(x), self.depthwise(x)


def test_channels_that_own_different_numbers_of_positions_give_the_cost_of_the_worst_choice() -> None:
    half = tuple((c,) if c < 4 else () for c in range(8))
    readers = (Member("second", "consumer", half), Member("depthwise", "consumer", half))
    group = ChannelGroup("first", 8, (Member("first", "producer", same(8)), *readers))
    cost = MacsCost(HalfRead(), torch.zeros(1, 3, 1, 1), {"first": group})
    for width in range(1, 9):
        choices = itertools.combinations(range(8), width)
        assert cost({"first": width}) == max(3 * width + (2 + 3) * sum(c < 4 for c in kept) for kept in choices)


@given(
    groups=st.sampled_from([1, 2, 4]),
    kept=st.lists(st.booleans(), min_size=4, max_size=4),
    outputs=st.sampled_from([4, 8]),
)
@settings(max_examples=40)
def test_grouped_layers_equal_counting_pair_by_pair(groups: int, kept: list[bool], outputs: int) -> None:
    """Two inputs a channel, one in each half, fall together, so that the blocks stay equally large."""
    if groups == 4:
        kept = [kept[0]] * 4  # 4 blocks of 2 inputs: a channel must own one input of each block
    model = nn.Sequential(nn.Conv2d(8, outputs, 3, groups=groups))
    per = 8 // groups
    if groups == 4:
        indices = tuple(tuple(b * per + c for b in range(groups)) for c in range(per))
    else:
        indices = tuple((c, c + 4) for c in range(4))
    width = len(indices)
    group = ChannelGroup("in", width, (Member("0", "consumer", indices),))
    keep = [c for c in range(width) if kept[c]] or [0]
    cost = MacsCost(model, torch.zeros(1, 8, 5, 5), {"in": group})
    expected = macs_by_counting(
        list(range(outputs)),
        [p for c in keep for p in indices[c]],
        dense_outputs=outputs,
        dense_inputs=8,
        groups=groups,
        work=9 * 9,
    )
    assert cost({"in": len(keep)}) == expected


@given(first=st.integers(1, 4), second=st.integers(1, 6), other_first=st.integers(1, 4), other_second=st.integers(1, 6))
@settings(max_examples=60)
def test_never_falls_when_a_width_grows(first: int, second: int, other_first: int, other_second: int) -> None:
    low = COST({"left": min(first, other_first), "right": min(second, other_second)})
    high = COST({"left": max(first, other_first), "right": max(second, other_second)})
    assert low <= high
    assert (low == high) == ((first, second) == (other_first, other_second))


COST = MacsCost(TwoBranches(), torch.zeros(1, 3, 8, 8), two_branches_groups())


def test_published_cost_of_resnet56() -> None:
    assert round(MacsCost(resnet56(), torch.zeros(1, 3, 32, 32), {})({}) / 1e6, 2) == 125.49


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("mobilenet_v2", 64)])
def test_torchvision_networks_dense_and_pruned(name: str, size: int) -> None:
    models = pytest.importorskip("torchvision.models")
    model, x = models.get_model(name, weights=None).eval(), torch.randn(1, 3, size, size)
    groups = dict(channel_groups(model, x, check=False))
    cost = MacsCost(model, x, groups)
    assert cost({}) == counted(model, x)
    draw = random.Random(0)
    widths = {name: draw.randint(1, group.width) for name, group in groups.items()}
    assert cost(widths) == counted(shrunk(model, groups, widths, 0), x)


def test_absent_groups_keep_all_and_the_count_is_for_one_input() -> None:
    cost = MacsCost(TwoBranches(), torch.zeros(3, 3, 8, 8), two_branches_groups())
    assert cost({}) == cost({"left": 4}) == cost({"left": 4, "right": 6}) == COST({})
    assert (cost.name, cost.unit) == ("macs", "MACs")


def test_errors_name_the_thing() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(PlanError, match=r"'stem'; the groups are: left, right"):
        COST({"stem": 1})
    with pytest.raises(PlanError, match=r"'left' cannot keep 5 channels; allowed: 0..4"):
        COST({"left": 5})
    with pytest.raises(NetworkError, match=r"shape \(1, 4, 8, 8\)"):
        MacsCost(TwoBranches(), torch.zeros(1, 4, 8, 8), {})
    with pytest.raises(NetworkError, match="first dimension counts the inputs"):
        MacsCost(TwoBranches(), torch.zeros(0, 3, 8, 8), {})
    foreign = {"left": ChannelGroup("left", 4, (Member("stem", "producer", same(4)),))}
    with pytest.raises(NetworkError, match="layer 'stem', which the network does not have"):
        MacsCost(TwoBranches(), x, foreign)
    wide = {"left": ChannelGroup("left", 5, (Member("left", "producer", same(5)),))}
    with pytest.raises(NetworkError, match="position 4 of layer 'left', which has 4"):
        MacsCost(TwoBranches(), x, wide)
