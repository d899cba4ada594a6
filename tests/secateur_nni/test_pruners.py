"""Criteria over feature maps as pruners of NNI: their masks, their schedules, and the network as it was afterwards."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nni.compression.pruning import AGPPruner, L1NormPruner, LinearPruner
from nni.compression.pruning.tools import generate_sparsity
from torch import Tensor, nn

from masks_for_tests import HALF, Batches, kept
from networks_for_tests import ResidualOverConcat
from secateur import channel_groups, collect_scores, uniform_plan
from secateur.cost import ParameterCost
from secateur.criteria import MeanActivation, criterion
from secateur.errors import ConfigError
from secateur.search import select
from secateur_nni import DIPruner, FeatureMapPruner, HRankPruner, apply_masks


@pytest.mark.parametrize("worst", ["left", "right"])
@pytest.mark.parametrize("ratio", [0.6, 0.9])
def test_a_layer_that_makes_only_some_channels_of_a_group_keeps_one(worst: str, ratio: float) -> None:
    net, images = ResidualOverConcat().eval(), torch.rand(4, 3, 8, 8)
    config_list = [{"op_types": ["Conv2d"], "sparse_ratio": ratio}]
    nn.init.zeros_(net.body.weight)
    nn.init.zeros_(net.get_submodule(worst).weight)
    pruner = FeatureMapPruner(net, config_list, batches=[images], criterion="variance", tap="conv")
    _, masks = pruner.compress()
    pruner.unwrap_model()
    assert len(kept(masks, worst)) == 1
    assert len(kept(masks, "body")) == 13 - int(13 * ratio)
    removed = apply_masks(net, masks, images)
    assert removed.get_submodule(worst).out_channels == 1


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (HRankPruner, "hrank"),
        (DIPruner, "di"),
        (lambda *given, **more: FeatureMapPruner(*given, criterion="variance", **more), "variance"),
        (lambda *given, **more: FeatureMapPruner(*given, criterion=MeanActivation(), **more), "mean_activation"),
    ],
)
@pytest.mark.filterwarnings("ignore::secateur.errors.SaturationWarning")
def test_the_channels_are_those_of_a_uniform_plan(
    network: nn.Module, images: Tensor, batches: Batches, make: Callable[..., Any], rule: str
) -> None:
    groups = channel_groups(network, images)
    table = collect_scores(network, batches, criterion(rule))
    plan = uniform_plan(groups, table, ParameterCost(network, groups), "40%", round_to=1)
    ratio = plan.settings["rate"]
    pruner = make(network, [{"op_types": ["Conv2d"], "sparse_ratio": ratio}], batches=batches)
    _, masks = pruner.compress()
    pruner.unwrap_model()
    for name in groups:
        assert kept(masks, name) == plan[name], rule
    assert kept(masks, "second") == kept(masks, "stem")
    assert masks["norm"]["bias"].tolist() == masks["second"]["weight"][:, 0, 0, 0].tolist()
    assert masks["first"]["bias"] is None


def test_nni_itself_makes_the_same_masks_of_these_metrics(network: nn.Module, batches: Batches) -> None:
    pruner = FeatureMapPruner(network, HALF, batches=batches, criterion="variance")
    metrics = pruner._calculate_metrics(pruner._collect_data())
    ours, theirs = pruner._generate_sparsity(metrics), generate_sparsity(metrics, pruner._target_spaces)
    assert ours.keys() == theirs.keys() == {"stem", "first", "second", "norm", "body_norm"}
    for layer, targets in theirs.items():
        for target, mask in targets.items():
            assert torch.equal(ours[layer][target].bool(), mask.bool()), (layer, target)


def test_of_equal_scores_the_lower_index_goes(images: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 9, 1), nn.ReLU(), nn.Conv2d(9, 2, 1))
    nn.init.zeros_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    pruner = FeatureMapPruner(
        network, [{"op_names": ["0"], "sparse_ratio": 0.5}], batches=[images], criterion="variance"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert kept(pruner.compress()[1], "0") == (4, 5, 6, 7, 8)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"sparse_ratio": 0.5, "max_sparse_ratio": 0.3}, 6),
        ({"sparse_ratio": 0.1, "min_sparse_ratio": 0.3}, 5),
        ({"sparse_ratio": 0.99}, 1),
        ({"sparse_ratio": 0.0}, 8),
    ],
)
def test_floors_and_caps_count_in_dependency_groups_too(
    network: nn.Module, batches: Batches, settings: dict[str, float], left: int
) -> None:
    pruner = FeatureMapPruner(
        network, [{"op_names": ["stem", "second"], **settings}], batches=batches, criterion="variance"
    )
    _, masks = pruner.compress()
    assert len(kept(masks, "stem")) == left
    assert "first" not in masks


@pytest.mark.parametrize("schedule", [AGPPruner, LinearPruner])
def test_schedules_raise_the_ratio_while_training(
    network: nn.Module, batches: Batches, make_evaluator: Callable[..., Any], schedule: Any
) -> None:
    pruner = FeatureMapPruner(network, HALF, make_evaluator(network), batches=batches, criterion="variance")
    made: list[tuple[int, ...]] = []
    generate = pruner.generate_masks

    def watched() -> Any:
        masks = generate()
        made.append(kept(masks, "stem"))
        return masks

    pruner.generate_masks = watched
    scheduled = schedule(pruner, interval_steps=2, total_times=3)
    weight = network.first._nni_wrapper.weight.detach().clone()
    _, masks = scheduled.compress(max_steps=7, max_epochs=None)
    scheduled.unwrap_model()
    shares = [1 - (1 - t / 3) ** 3 if schedule is AGPPruner else t / 3 for t in (1, 2, 3)]
    assert [len(channels) for channels in made] == [8 - int(0.5 * share * 8 + 1e-9) for share in shares]
    assert set(made[2]) <= set(made[1]) <= set(made[0]), "a masked channel came back"
    assert kept(masks, "stem") == kept(masks, "second") == made[2]
    assert not torch.equal(network.first.weight, weight), "nothing was trained"


class Quietest(MeanActivation):
    """Keeps what is least active: zero, which is what masked channels give, is its best score."""

    def compute(self, state: Any) -> Tensor:
        return -super().compute(state)


def test_masked_channels_stay_masked_whatever_zero_is_worth(network: nn.Module, batches: Batches) -> None:
    config_list = [{"op_names": ["first"], "sparse_ratio": 0.34}]
    pruner = FeatureMapPruner(network, config_list, batches=batches, criterion=Quietest())
    first = kept(pruner.compress()[1], "first")
    pruner._target_spaces["first"]["weight"].sparse_ratio = 0.5
    second = kept(pruner.compress()[1], "first")
    assert (len(first), len(second)) == (4, 3)
    assert set(second) < set(first)


def test_a_chain_masks_from_its_first_step(
    network: nn.Module, batches: Batches, make_evaluator: Callable[..., Any]
) -> None:
    earlier = L1NormPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}], make_evaluator(network))
    pruner = FeatureMapPruner.from_compressor(
        earlier, [{"op_names": ["stem", "second"], "sparse_ratio": 0.5}], batches=batches, criterion="variance"
    )
    _, masks = pruner.compress(max_steps=2, max_epochs=None)
    assert len(kept(masks, "stem")) == 4
    assert len(kept(masks, "first")) == 6, "NNI's own pruners make masks in a chain now; say so in the docstring"


def test_a_failed_chain_leaves_the_earlier_pruner_at_work(network: nn.Module, batches: Batches) -> None:
    earlier = L1NormPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}])
    with pytest.raises(ConfigError, match="'first' is masked by an earlier pruner of the chain"):
        HRankPruner.from_compressor(earlier, [{"op_names": ["first"], "sparse_ratio": 0.5}], batches=batches)
    assert earlier._is_wrapped
    assert "first._nni_wrapper.weight" in dict(network.named_parameters())


@pytest.mark.filterwarnings("ignore::secateur.errors.SaturationWarning")
def test_the_network_is_as_it_was(network: nn.Module, batches: Batches) -> None:
    network.train()
    network.norm.eval()
    before = copy.deepcopy(network.state_dict())
    inside = {name: set(vars(module)) for name, module in network.named_modules()}
    modes = [module.training for module in network.modules()]
    pruner = HRankPruner(network, HALF, batches=batches)
    pruner.compress()
    pruner.unwrap_model()
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {name: set(vars(module)) for name, module in network.named_modules()} == inside
    assert [module.training for module in network.modules()] == modes
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())
    assert [type(p) for p in network.parameters()] == [nn.Parameter] * len(list(network.parameters()))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"criterion": "hrnk"}, "unknown criterion 'hrnk'; did you mean 'hrank'"),
        ({"criterion": "variance", "evaluator": "accuracy"}, "evaluator must be NNI's.* found str"),
    ],
)
def test_bad_settings(network: nn.Module, batches: Batches, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        FeatureMapPruner(network, HALF, batches=batches, **given)
    assert "first.weight" in dict(network.named_parameters())


def test_linear_layers_by_a_criterion_that_scores_them() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    scores = collect_scores(network, [(x, y)], "di")["0"]
    _, masks = DIPruner(network, [{"op_names": ["0"], "sparse_ratio": 0.5}], batches=[(x, y)]).compress()
    assert kept(masks, "0") == select(scores, 4)
