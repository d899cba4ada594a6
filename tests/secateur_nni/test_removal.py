"""Removal of what NNI's masks mask: the same network as ModelSpeedup makes, or an error that says why not."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from nni.compression.pruning import L1NormPruner, LevelPruner
from nni.compression.speedup import ModelSpeedup
from torch import Tensor, nn

from cases_for_tests import cases
from networks_for_tests import Concatenated, Depthwise, Grouped, randomise_batch_norm, torchvision_network
from secateur.errors import ConfigError, NetworkError, PlanError, SecateurWarning
from secateur_nni import FeatureMapPruner, apply_masks, complete_config_list, plan_of_masks

HALF = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]
Batches = list[tuple[Tensor, Tensor]]


def masks_by_nni(network: nn.Module, config_list: list[dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    pruner = L1NormPruner(network, config_list)
    _, masks = pruner.compress()
    pruner.unwrap_model()
    return masks


def sped_up(network: nn.Module, masks: Mapping[str, Any], images: Tensor) -> nn.Module:
    """What NNI's own ModelSpeedup makes; given the graph, which it cannot trace itself."""
    network, masks = copy.deepcopy(network), copy.deepcopy(masks)
    graph = torch.fx.symbolic_trace(network)
    quiet = logging.getLogger("quiet")
    quiet.setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        ModelSpeedup(network, images, masks, graph_module=graph, logger=quiet).speedup_model()
    return network.eval()  # it leaves what it has replaced in training mode


@pytest.mark.parametrize("name", cases(["resnet18", "mobilenet_v2"], thorough=["mobilenet_v2"]))
def test_the_same_network_as_model_speedup(name: str) -> None:
    network = randomise_batch_norm(torchvision_network(name)).eval()
    images = torch.randn(2, 3, 64, 64)
    masks = masks_by_nni(network, complete_config_list(network, HALF, images))
    ours, theirs = apply_masks(network, masks, images), sped_up(network, masks, images)
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_the_network_itself_stays(network: nn.Module, images: Tensor) -> None:
    masks = masks_by_nni(network, complete_config_list(network, HALF, images))
    before = copy.deepcopy(network.state_dict())
    pruned = apply_masks(network, masks, images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert pruned.stem.out_channels == 4
    plan = plan_of_masks(network, masks, images)
    assert plan.widths == {"stem": 4, "first": 3}
    assert plan.cost_before > plan.cost_after == plan.budget


def test_masks_of_batch_norm_alone(network: nn.Module, images: Tensor) -> None:
    """SlimPruner's masks are those of batch norm; the convolution before it has none."""
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    plan = plan_of_masks(network, {"body_norm": {"weight": mask, "bias": mask}}, images)
    assert plan["first"] == (0, 2, 3, 5)


def test_masks_under_another_name_of_a_layer(network: nn.Module, images: Tensor) -> None:
    expected = masks_by_nni(network, [{"op_names": ["first"], "sparse_ratio": 0.5}])
    network.register_module("again", network.get_submodule("first"))
    masks = masks_by_nni(network, [{"op_names": ["again"], "sparse_ratio": 0.5}])
    assert [*masks] == ["again"]
    plan, same = (plan_of_masks(network, given, images) for given in (masks, expected))
    assert plan.kept == same.kept
    assert plan.kept["first"]


def test_a_wrapped_network_is_refused(network: nn.Module, images: Tensor) -> None:
    pruner = L1NormPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}])
    _, masks = pruner.compress()
    with pytest.raises(NetworkError, match=r"first call unwrap_model\(\)"):
        apply_masks(network, masks, images)


def ones(network: nn.Module, layer: str) -> Tensor:
    return torch.ones_like(network.get_submodule(layer).weight)


def without(network: nn.Module, layer: str, *rows: int) -> Tensor:
    mask = ones(network, layer)
    mask[list(rows)] = 0.0
    return mask


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda n: {"frist": {"weight": ones(n, "first")}}, "'frist', which is no layer"),
        (lambda n: {"first": {"weight": ones(n, "second")}}, r"shape \(8, 6, 3, 3\), its weight \(6, 8, 3, 3\)"),
        (lambda n: {"first": {"weight": ones(n, "first") * torch.tensor([1.0, 0.0, 1.0])}}, "masks parts of channels"),
        (lambda n: {"first": {"weight": without(n, "first", *range(6))}}, "leave no channel of 'first'"),
        (lambda n: {"head": {"weight": without(n, "head", 0)}}, "head: its channels are the network's outputs"),
        (
            lambda n: {"stem": {"weight": without(n, "stem", 0)}, "second": {"weight": without(n, "second", 1)}},
            "masked at different channels",
        ),
        (lambda n: {"second": {"weight": without(n, "second", 1)}}, "stem masks fewer"),
        (
            lambda n: {
                "first": {"weight": without(n, "first", 1)},
                "body_norm": {"weight": without(n, "body_norm", 2)},
            },
            "masked at different channels",
        ),
        (lambda n: {"stem": {"bias": without(n, "norm", 1)}}, "'stem' masks its 'bias' where it leaves its weight"),
        (
            lambda n: {"stem": {"weight": without(n, "stem", 1), "bias": without(n, "norm", 1, 2)}},
            "'stem' masks its 'bias' where it leaves its weight",
        ),
        (
            lambda n: {"first": {"_output_0": torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0]).reshape(1, 6, 1, 1)}},
            "'first' masks its '_output_0' where .*; allowed: masks of 'weight', and of 'bias' for",
        ),
    ],
)
def test_masks_that_no_removal_equals(network: nn.Module, images: Tensor, make: Any, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        apply_masks(network, make(network), images)


def test_masks_of_single_weights_are_refused(network: nn.Module, images: Tensor) -> None:
    pruner = LevelPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}])
    _, masks = pruner.compress()
    pruner.unwrap_model()
    with pytest.raises(PlanError, match="'first' masks parts of channels"):
        apply_masks(network, masks, images)


def test_masks_that_mask_nothing(network: nn.Module, images: Tensor) -> None:
    masks: dict[str, dict[str, Tensor | None]] = {"first": {"weight": ones(network, "first"), "bias": None}}
    pruned = apply_masks(network, masks | {"stem": {"weight": None}}, images)
    assert [p.shape for p in pruned.parameters()] == [p.shape for p in network.parameters()]


def test_grouped_convolutions(images: Tensor) -> None:
    network = Grouped().eval()
    pruner = FeatureMapPruner(network, HALF, batches=[images], criterion="variance")
    _, masks = pruner.compress()
    pruner.unwrap_model()
    pruned = apply_masks(network, masks, images)
    assert (pruned.before.out_channels, pruned.grouped.out_channels, pruned.after.out_channels) == (4, 4, 3)
    odd = masks | {"grouped": {"weight": without(network, "grouped", 0)}}
    with pytest.raises(PlanError, match="masks a part of the positions of a channel"):
        apply_masks(network, {"grouped": odd["grouped"]}, images)


class Summed(nn.Module):
    """A concatenation that is summed with a convolution: what falls together are parts of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(torch.cat([self.left(x), self.right(x)], 1) + self.both(x)))


@pytest.mark.parametrize(
    ("make", "selected", "told"),
    [
        (
            Grouped,
            ["before", "grouped"],
            r"of 'before' is not one output of before; .*'exclude_op_names': \['before', 'grouped'\]",
        ),
        (
            Summed,
            ["left", "right", "both"],
            r"of 'both' .* of left, right\); .* \['left', 'right', 'both'\], or use FeatureMapPruner",
        ),
    ],
)
def test_layers_that_nni_cannot_tie_are_refused(
    images: Tensor, make: type[nn.Module], selected: list[str], told: str
) -> None:
    network = make().eval()
    config_list = [{"op_names": selected, "sparse_ratio": 0.5}]
    with pytest.raises(ConfigError, match=told):
        complete_config_list(network, config_list, images)
    masks = masks_by_nni(network, config_list)
    pruner = FeatureMapPruner(network, config_list, batches=[images], criterion="variance")
    _, ours = pruner.compress()
    pruner.unwrap_model()
    apply_masks(network, ours, images)
    if make is Summed:
        with pytest.raises(PlanError, match="FeatureMapPruner masks such layers alike"):
            apply_masks(network, masks, images)


@pytest.mark.parametrize(
    ("make", "selected", "told"),
    [
        (
            Concatenated,
            ["left", "right"],
            "masked is not what removed is: .* batch norm of norm along, which reads several",
        ),
        (
            Depthwise,
            ["project"],
            "masked is not what removed is: what lies behind project turns zero into something else",
        ),
    ],
)
def test_the_completed_list_tells_where_masked_is_not_removed(
    images: Tensor, make: type[nn.Module], selected: list[str], told: str
) -> None:
    network = randomise_batch_norm(make()).eval()
    with pytest.warns(SecateurWarning, match=told) as warned:
        completed = complete_config_list(network, [{"op_names": selected, "sparse_ratio": 0.5}], images)
    assert [warning.filename for warning in warned] == [__file__]
    assert [entry["op_names"] for entry in completed] == [[layer] for layer in selected]
