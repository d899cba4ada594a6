"""`prune`: exact counts where the host surprises, and a reason for every group that was not pruned.

The tests named after the host state what Torch-Pruning does today: one that fails tells of a fix.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

from networks_for_tests import Chunked, Depthwise, Grouped, PermutedFlatten, Residual, randomise_batch_norm
from references_search import prune_by_ranking
from secateur import HRankImportance, prune, verify_pruning
from secateur.errors import ConfigError, NetworkError, ScoreError

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MAGNITUDE = tp.importance.MagnitudeImportance(p=1)


def constant(group: Any) -> Tensor:
    """Every channel of every layer is worth the same."""
    return torch.ones(len(group[0].idxs))


def chain(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5))


def widths(net: nn.Module) -> list[int]:
    return [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("network", [Residual, Depthwise, Grouped])
@pytest.mark.parametrize("global_pruning", [False, True])
def test_what_is_left_equals_the_masked_network(network: type[nn.Module], global_pruning: bool) -> None:
    net = network().eval()
    result = prune(net, IMAGES, MAGNITUDE, pruning_ratio=0.4, global_pruning=global_pruning)
    assert verify_pruning(net, result.model, result.plan, IMAGES).largest_difference < 1e-5
    assert result.plan.cost_after == sum(p.numel() for p in result.model.parameters()) < result.plan.cost_before
    assert result.skipped["head"] == "its channels are the network's outputs"


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.77])
@pytest.mark.parametrize("most", [1.0, 0.6])
@pytest.mark.parametrize("global_pruning", [False, True])
def test_the_selection_is_that_of_the_naive_twin(ratio: float, most: float, global_pruning: bool) -> None:
    net = chain(16, 24, 8)
    names = ("0", "2", "4")
    scores = {name: torch.randint(0, 9, (net.get_submodule(name).out_channels,)).double() for name in names}

    def importance(group: Any) -> Tensor | None:
        return scores.get(group._DG._module2name[group[0].dep.target.module])

    result = prune(net, IMAGES, importance, pruning_ratio=ratio, max_pruning_ratio=most, global_pruning=global_pruning)
    expected = prune_by_ranking(
        {name: values.tolist() for name, values in scores.items()}, ratio, most, together=global_pruning
    )
    assert {name: list(result.plan[name]) for name in names} == expected


def test_ties_at_the_global_threshold_take_no_more_than_was_asked() -> None:
    result = prune(chain(16, 32), IMAGES, constant, global_pruning=True)
    assert sum(widths(result.model)) == 24
    assert result.plan.ties


def test_host_with_constant_scores_prunes_nothing_at_all() -> None:
    net = chain(16, 32)
    tp.pruner.BasePruner(net, (IMAGES,), constant, global_pruning=True, ignored_layers=[net[-1]]).step()
    assert widths(net) == [16, 32]


def test_a_layer_that_lies_below_the_threshold_keeps_its_floor() -> None:
    def first_layer_is_worthless(group: Any) -> Tensor:
        return torch.arange(len(group[0].idxs)) + (0.0 if len(group[0].idxs) == 16 else 100.0)

    result = prune(chain(16, 32), IMAGES, first_layer_is_worthless, global_pruning=True, max_pruning_ratio=0.75)
    assert widths(result.model) == [4, 20]
    net = chain(16, 32)
    tp.pruner.BasePruner(
        net, (IMAGES,), first_layer_is_worthless, global_pruning=True, max_pruning_ratio=0.75, ignored_layers=[net[-1]]
    ).step()
    assert widths(net)[0] == 16  # the host leaves it dense and says nothing


def test_host_exceeds_max_pruning_ratio_in_one_shot() -> None:
    def first_layer_is_worth_less(group: Any) -> Tensor:
        return torch.arange(len(group[0].idxs)) * (1.0 if len(group[0].idxs) == 16 else 1.2)

    net = chain(16, 32)
    tp.pruner.BasePruner(
        net, (IMAGES,), first_layer_is_worth_less, global_pruning=True, max_pruning_ratio=0.5, ignored_layers=[net[-1]]
    ).step()
    assert widths(net)[0] < 8
    result = prune(chain(16, 32), IMAGES, first_layer_is_worth_less, global_pruning=True, max_pruning_ratio=0.5)
    assert widths(result.model) == [8, 16]


def test_rounding_never_takes_a_layer_to_zero() -> None:
    result = prune(chain(16, 64), IMAGES, MAGNITUDE, pruning_ratio=0.7, round_to=8)
    assert widths(result.model) == [8, 24]
    net = chain(16, 64)
    tp.pruner.BasePruner(net, (IMAGES,), MAGNITUDE, pruning_ratio=0.7, round_to=8, ignored_layers=[net[-1]]).step()
    assert widths(net) == [16, 16]  # the host rounds 4 to 0, and leaves the layer dense without a word


def test_frozen_networks_in_any_mode_are_pruned_and_left_as_they_were() -> None:
    net = Residual().train().requires_grad_(False)
    net.body_norm.eval()
    result = prune(net, IMAGES, MAGNITUDE)
    assert widths(result.model) == [4, 3, 4]
    assert net.training
    assert result.model.training
    assert not result.model.body_norm.training
    assert not any(p.requires_grad for p in result.model.parameters())
    frozen = Residual().requires_grad_(False)
    tp.pruner.BasePruner(frozen, (IMAGES,), MAGNITUDE, ignored_layers=[frozen.head]).step()
    assert widths(frozen) == [8, 6, 8]  # the host sees no layer in it


def test_a_bare_tensor_is_a_batch() -> None:
    calls: list[tuple[int, ...]] = []
    net = chain(8, 8)
    net.register_forward_pre_hook(lambda _, given: calls.append(tuple(given[0].shape)))
    prune(net, IMAGES, MAGNITUDE)
    assert set(calls) == {(2, 3, 16, 16)}


def test_grouped_networks_are_not_kept_alive_by_shared_defaults() -> None:
    """The host's default dictionaries are shared by all its pruners, and fill with the layers of every network."""
    before = len(tp.pruner.BasePruner.__init__.__defaults__[9])
    prune(Grouped(), IMAGES, MAGNITUDE)
    assert len(tp.pruner.BasePruner.__init__.__defaults__[9]) == before


def test_iterative_steps_score_afresh_and_can_train_in_between() -> None:
    net = randomise_batch_norm(Residual()).eval()
    seen: list[list[int]] = []
    loader = [(torch.randn(8, 3, 16, 16), torch.arange(8) % 5)]
    result = prune(
        net, IMAGES, HRankImportance(loader), iterative_steps=2, on_step=lambda model, _: seen.append(widths(model))
    )
    assert seen == [[6, 5, 6], [4, 3, 4]]
    assert verify_pruning(net, result.model, result.plan, IMAGES).largest_difference < 1e-5


def test_ratios_of_their_own() -> None:
    net = chain(16, 32, 8)
    result = prune(net, IMAGES, MAGNITUDE, pruning_ratio=0.25, pruning_ratio_dict={"0": 0.5, net[2]: 0.75})
    assert widths(result.model) == [8, 8, 6]
    joint = prune(net, IMAGES, constant, pruning_ratio=0, pruning_ratio_dict={(net[0], net[2]): 0.5})
    assert sum(widths(joint.model)[:2]) == 24
    assert widths(joint.model)[2] == 8
    assert joint.skipped["4"] == "all of its channels stay, by the ranking, the ratio or the rounding"


def test_isomorphic_ranks_layers_of_the_same_build_together() -> None:
    net = chain(16, 16)
    net.insert(1, nn.BatchNorm2d(16))
    result = prune(net, IMAGES, constant, global_pruning=True, isomorphic=True)
    assert widths(result.model) == [8, 8]
    assert widths(prune(net, IMAGES, constant, global_pruning=True).model) == [1, 15]


def test_every_group_that_stays_has_a_reason() -> None:
    def only_left(group: Any) -> Tensor | None:
        layer = group._DG._module2name[group[0].dep.target.module]
        return constant(group) if layer == "left" else None

    assert prune(Chunked(), IMAGES, only_left).skipped["both"] == "the importance has no scores for it"
    assert "not the same as masking" in prune(PermutedFlatten(), IMAGES, MAGNITUDE).skipped["moved"]
    assert prune(Residual(), IMAGES, lambda g: None if len(g[0].idxs) == 6 else constant(g)).skipped["first"] == (
        "the importance has no scores for it"
    )
    assert prune(Residual(), IMAGES, MAGNITUDE, ignored_layers=["second"]).skipped["stem"].startswith("tied to second")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"pruning_ratio": 1.2}, ConfigError, "pruning_ratio is 1.2; it must be a share in 0..1"),
        ({"max_pruning_ratio": -0.1}, ConfigError, "max_pruning_ratio is -0.1"),
        ({"isomorphic": True}, ConfigError, "needs global_pruning"),
        ({"pruning_ratio": "50%"}, ConfigError, "pruning_ratio is '50%'; it must be a share in 0..1"),
        ({"pruning_ratio_dict": {"stem": None}}, ConfigError, "pruning_ratio_dict of stem is None; it must be"),
        ({"iterative_steps": 0}, ConfigError, "at least 1"),
        ({"iterative_steps": 2.5}, ConfigError, r"iterative_steps is 2\.5; it must be a whole number, at least 1"),
        ({"round_to": 0}, ConfigError, "round_to is 0"),
        ({"importance": "l1"}, ConfigError, "importance must be a Torch-Pruning importance, .*; found 'l1'"),
        ({"ignored_layers": [nn.Linear]}, ConfigError, "not by type"),
        ({"ignored_layers": ["had"]}, NetworkError, "no layer 'had'; did you mean head"),
        ({"ignored_layers": [nn.Linear(1, 1)]}, NetworkError, "a Linear that was given is not a layer"),
        ({"pruning_ratio_dict": {"stem": 0.2, "second": 0.8}}, ConfigError, "have the ratios 0.2 and 0.8"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prune(Residual(), IMAGES, **{"importance": MAGNITUDE} | settings)


def test_the_hosts_own_defaults_are_accepted() -> None:
    net = Residual()
    result = prune(net, IMAGES, MAGNITUDE, round_to=None, ignored_layers=None)
    assert result.plan.kept == prune(net, IMAGES, MAGNITUDE).plan.kept
    assert result.plan.settings["round_to"] == 1


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ScoreError, match="must give 8 finite scores for the group 'stem'; it gave 8, 1 of them NaN"):
        prune(Residual(), IMAGES, lambda g: torch.tensor([torch.nan, *[1.0] * (len(g[0].idxs) - 1)]))
    with pytest.raises(
        ScoreError, match="must give a tensor of 8 scores, or None, for the group 'stem'; it gave a list"
    ):
        prune(Residual(), IMAGES, lambda g: [1.0] * len(g[0].idxs))  # type: ignore[arg-type, return-value]  # that is it
    with pytest.raises(ScoreError, match="it gave 3"):
        prune(Residual(), IMAGES, lambda _: torch.ones(3))


def test_gradients_reach_an_importance_that_reads_them() -> None:
    net = Residual()
    net(IMAGES).sum().backward()
    result = prune(net, IMAGES, tp.importance.TaylorImportance())
    assert widths(result.model) == [4, 3, 4]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_networks(name: str) -> None:
    net = randomise_batch_norm(getattr(torchvision.models, name)(weights=None)).eval()
    images = torch.randn(2, 3, 64, 64)
    result = prune(net, images, MAGNITUDE, pruning_ratio=0.5, round_to=8)
    assert all(width % 8 == 0 for width in widths(result.model))
    assert verify_pruning(net, result.model, result.plan, images).largest_difference < 1e-4


def test_ratios_of_layers_that_do_not_exist_are_refused_and_the_network_itself_is_a_layer() -> None:
    net = chain(16, 32)
    with pytest.raises(NetworkError, match="the network has no layer 'conv1'"):
        prune(net, IMAGES, MAGNITUDE, pruning_ratio_dict={"conv1": 0.0})
    assert widths(prune(net, IMAGES, MAGNITUDE, pruning_ratio=0.5, pruning_ratio_dict={net: 0.25}).model) == [12, 24]
