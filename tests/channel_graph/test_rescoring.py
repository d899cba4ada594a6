"""Scores made anew are those of the network without the channels that have gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from networks_for_tests import Chunked, ConcatTwice, Depthwise, Grouped, Residual, ZeroPaddedShortcut
from secateur.channel_graph import apply_plan, channel_groups, cut_scores
from secateur.errors import PlanError
from secateur.records import ChannelGroup, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name

pytestmark = pytest.mark.filterwarnings("ignore::secateur.errors.SaturationWarning")
IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3
BATCHES = [(IMAGES, LABELS)]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "chunked": Chunked,
    "concat": ConcatTwice,
    "padded": ZeroPaddedShortcut,
}


@pytest.mark.parametrize("criterion", ["l1", "fpgm", "di", "hrank", "reconstruction"])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_they_are_those_of_the_network_that_was_cut(build: Callable[[], nn.Module], criterion: str) -> None:
    """The twin cuts the network, and asks anew which of its channels fall together."""
    torch.manual_seed(0)
    network = build().eval()
    groups = channel_groups(network, IMAGES[:2])
    kept = {name: tuple(range(group.width))[1::2] for name, group in groups.items() if group.width > 2}
    plan = PruningPlan(tuple(groups.values()), kept, "none", 0.0, 0.0, 0.0)
    pruned = apply_plan(network, plan)
    found = cut_scores(network, groups, lambda net, groups: scores_by_name(net, BATCHES, criterion, groups=groups))(
        kept
    )
    expected = scores_by_name(pruned, BATCHES, criterion, groups=channel_groups(pruned, IMAGES[:2]))
    assert set(found) == set(expected)
    producers = [(group, member) for group in groups.values() for member in group.producers]
    for layer, scores in expected.items():
        owned = [(g.name, member) for g, member in producers if member.layer == layer]
        gone = {place for name, member in owned for place in member.positions(plan.removed(name))}
        left = [place for place in range(len(found[layer])) if place not in gone]
        assert torch.allclose(found[layer][left], scores, rtol=1e-4, atol=1e-6)
        assert found[layer][sorted(gone)].tolist() == [0.0] * len(gone)


def test_a_twin_is_worth_more_once_the_other_has_gone() -> None:
    """Two channels say the same: the rest makes up for either, until one is gone."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
    with torch.no_grad():
        network[0].weight[1], network[0].bias[1] = network[0].weight[0], network[0].bias[0]

    def score(net: nn.Module, groups: Mapping[str, ChannelGroup]) -> ScoreTable:
        return scores_by_name(net, BATCHES, "reconstruction", groups=groups)

    anew = cut_scores(network, channel_groups(network, IMAGES[:2]), score)
    dense, cut = anew({})["0"], anew({"0": (1, 2, 3)})["0"]
    assert int(dense.argmin()) in (0, 1)
    assert cut[1] > 3 * min(dense[0], dense[1])
    assert cut[0] == 0


def test_unknown_groups_and_channels_are_refused() -> None:
    network = Residual().eval()
    anew = cut_scores(network, channel_groups(network, IMAGES[:2]), lambda net, _: scores_by_name(net, BATCHES, "l1"))
    for kept in ({"nowhere": (0,)}, {"stem": (0, 99)}):
        with pytest.raises(PlanError):
            anew(kept)
