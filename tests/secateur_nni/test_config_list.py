"""What a config list may say; what NNI would pass over in silence is refused, and nothing is wrapped then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.compression.speedup.dependency import auto_set_denpendency_group_ids
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp

from networks_for_tests import Depthwise, Grouped, Residual
from secateur.errors import ConfigError, NetworkError, SecateurError
from secateur_nni import HRankPruner, complete_config_list
from secateur_nni.completion import select_groups

HALF = {"sparse_ratio": 0.5}


@pytest.mark.parametrize(
    ("config_list", "told"),
    [
        ([], "a list with at least one mapping"),
        ({"op_types": ["Conv2d"]}, "a list with at least one mapping"),
        (["Conv2d"], r"config_list\[0\] must be a mapping"),
        ([{"op_types": ["Conv3d"], **HALF}], "selects no layer.*accept in silence; its types are Conv2d, Linear"),
        ([{"op_names_re": ["^x"], **HALF}], r"op_names_re of .*: '\^x' matches no layer"),
        ([{"op_names_re": ["*conv"], **HALF}], r"'\*conv' is no regular expression \(nothing to repeat"),
        (
            [{"op_types": ["Conv2d"], "exclude_op_names_re": ["rst"], **HALF}],
            r"exclude_op_names_re of .*'rst' matches no layer; .* start of a name, so write '\.\*rst'",
        ),
        (
            [{"op_types": ["Conv2d", "Linera"], **HALF}],
            "op_types of .*: the network has no type 'Linera'; did you mean Linear",
        ),
        (
            [{"op_types": ["Conv2d"], "exclude_op_types": ["Linera"], **HALF}],
            "exclude_op_types of .*: the network has no type 'Linera'; did you mean Linear",
        ),
        ([{"op_types": ["Conv2d"], "exclude_op_types": ["Conv2d"], **HALF}], "selects no layer"),
        ([{"sparse_ratio": 0.5}], "needs one of op_types, op_names, op_names_re"),
        ([{"op_types": "Conv2d", **HALF}], "op_types of .* must be a list of names"),
        ([{"op_names": ["frist"], **HALF}], "no layer 'frist'; did you mean first"),
        ([{"op_types": ["Conv2d"], "exclude_op_names": ["haed"], **HALF}], "no layer 'haed'; did you mean head"),
        ([{"op_types": ["Conv2d"], "sparse_ration": 0.5}], "unknown key 'sparse_ration'; did you mean sparse_ratio"),
        ([{"op_types": ["Conv2d"], "sparse_ratio": 1}], "the integer 1; NNI takes floats alone"),
        ([{"op_types": ["Conv2d"], "max_sparse_ratio": True, **HALF}], "max_sparse_ratio .* the integer True"),
        ([{"op_types": ["Conv2d"], "sparse_ratio": "half"}], "it must be a float"),
        ([{"op_types": ["Conv2d"], "sparse_ratio": 1.5}], r"it must be a float in 0\.0\.\.1\.0"),
        ([{"op_types": ["Conv2d"], "sparse_ratio": float("nan")}], "it must be a float"),
        ([{"op_types": ["Conv2d"], "sparse_ratio": 1.0}], "masks whole layers"),
        ([{"op_names": ["first"], "max_sparse_ratio": 0.0, **HALF}], "so that nothing could go; exclude these layers"),
        ([{"op_types": ["Conv2d"], "max_sparse_ratio": 0.5}], "has no sparse_ratio, so that NNI would mask nothing"),
        (
            [{"op_types": ["Conv2d"], "min_sparse_ratio": 0.6, "max_sparse_ratio": 0.5, **HALF}],
            "min_sparse_ratio .* is above its max_sparse_ratio",
        ),
        (
            [{"op_names": ["first"], "min_sparse_ratio": 0.35, "max_sparse_ratio": 0.4, **HALF}],
            "no width of 'first', 6 channels, meets",
        ),
        ([{"op_types": ["Conv2d"], "global_group_id": 1, **HALF}], "global_group_id .* does not honour"),
        ([{"op_types": ["Conv2d"], "sparse_threshold": 0.5}], "sparse_threshold .* no common scale"),
        ([{"op_types": ["Conv2d"], "sparsity": 0.5}], "sparsity .* it is of NNI 2; write sparse_ratio"),
        ([{"op_names": ["first"], "granularity": [4, 4], **HALF}], "granularity .* whole channels are masked"),
        ([{"op_names": ["first"], "target_names": ["_output_"], **HALF}], "other targets than whole channels"),
        ([{"op_names": ["first"], "target_settings": {"bias": HALF}}], "other targets than whole channels"),
        ([{"op_names": ["first"], "target_settings": {"weight": {"ratio": 0.5}}}], "unknown key 'ratio'"),
        (
            [{"op_names": ["first"], "target_settings": {"weight": 0.5}}],
            r"weight of target_settings of config_list\[0\] must be a mapping such as .*; found 0\.5",
        ),
        ([{"op_names": ["first"], "target_settings": {"weight": None}, **HALF}], "weight of .* found None"),
        ([{"op_names": ["first"], "target_settings": None, **HALF}], "target_settings of .* must be a mapping .* None"),
        (
            [{"op_names": ["stem", "second"], "dependency_group_id": [1], **HALF}],
            r"dependency_group_id of config_list\[0\] must be a number or a name; found \[1\]",
        ),
        ([{"op_types": ["BatchNorm2d"], **HALF}], "selects 'body_norm', a BatchNorm2d; allowed are"),
        ([{"op_types": ["Conv2d"], **HALF}, {"op_names": ["first"], **HALF}], r"\[1\] selects 'first' again"),
        ([{"op_types": ["Conv2d", "Linear"], **HALF}], r"head: its channels are the network's outputs.*\['head'\]"),
        ([{"op_names": ["second"], **HALF}], r"second: it falls together with stem, not selected"),
        (
            [{"op_names": ["stem"], **HALF}, {"op_names": ["second"], "sparse_ratio": 0.25}],
            "'stem' and 'second' fall together but have the sparse_ratio 0.5 and 0.25",
        ),
        (
            [{"op_types": ["Conv2d"], "dependency_group_id": 7, **HALF}],
            "'stem' and 'first' have the dependency_group_id 7 but do not fall together",
        ),
    ],
)
def test_refused_before_anything_is_wrapped(network: nn.Module, images: Tensor, config_list: Any, told: str) -> None:
    names = [name for name, _ in network.named_parameters()]
    with pytest.raises(ConfigError, match=told):
        HRankPruner(network, config_list, batches=[images])
    assert [name for name, _ in network.named_parameters()] == names


def test_types_that_nni_does_not_know_are_refused(images: Tensor) -> None:
    class Own(nn.Conv2d):
        pass

    network = nn.Sequential(Own(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(ConfigError, match=r"PruningSetting\.register\('Own'"):
        HRankPruner(network, [{"op_names": ["0"], **HALF}], batches=[images])
    transposed = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(ConfigError, match="a ConvTranspose2d; allowed are"):
        HRankPruner(transposed, [{"op_names": ["0"], **HALF}], batches=[images])


def test_a_wrapped_network_is_refused(network: nn.Module, images: Tensor) -> None:
    pruner = HRankPruner(network, [{"op_names": ["first"], **HALF}], batches=[images])
    with pytest.raises(NetworkError, match=r"'first' and 1 more\); first call unwrap_model"):
        HRankPruner(network, [{"op_names": ["first"], **HALF}], batches=[images])
    pruner.unwrap_model()
    HRankPruner(network, [{"op_names": ["first"], **HALF}], batches=[images])


class TwoNames(nn.Sequential):
    """A network in which the layer "2" is "again" as well."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        self.again = self[2]

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self][:5]:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    ("entry", "layers"),
    [
        ({"op_names": ["again"]}, ["2"]),
        ({"op_names_re": ["ag"], "op_types": ["Conv2d"]}, ["2"]),
        ({"op_types": ["Conv2d"], "exclude_op_names": ["again", "4"]}, ["0"]),
        ({"op_types": ["Conv2d"], "exclude_op_names_re": ["ag", "4"]}, ["0"]),
        ({"op_types": ["Conv2d"], "exclude_op_names": ["2", "4"]}, ["0"]),
    ],
)
def test_a_layer_of_two_names_goes_by_either(images: Tensor, entry: dict[str, Any], layers: list[str]) -> None:
    assert list(select_groups(TwoNames(), [entry | HALF], images, with_ratio=True).groups) == layers
    with pytest.raises(ConfigError, match="selects '2' again"):
        select_groups(TwoNames(), [{"op_names": [name], **HALF} for name in ("2", "again")], images, with_ratio=True)


def test_settings_of_the_weight_count_as_those_of_the_layer(network: nn.Module, images: Tensor) -> None:
    weight = {"sparse_ratio": 0.25, "max_sparse_ratio": 0.5, "granularity": "out_channel"}
    entry = {"op_names": ["first"], "target_names": ["weight", "bias"], "target_settings": {"weight": weight}}
    found = select_groups(network, [entry], images, with_ratio=True).settings["first"]
    assert (found.sparse_ratio, found.min_sparse_ratio, found.max_sparse_ratio) == (0.25, 0.0, 0.5)


def test_one_id_for_layers_that_fall_together_is_accepted(network: nn.Module, images: Tensor) -> None:
    entry = {"op_names": ["stem", "second"], "dependency_group_id": "shortcut", **HALF}
    assert list(select_groups(network, [entry], images, with_ratio=True).groups) == ["stem"]


@pytest.mark.parametrize("make", [Residual, Depthwise, Grouped])
def test_the_ids_that_nni_finds_are_accepted(images: Tensor, make: type[nn.Module]) -> None:
    network = make()
    graph = torch.fx.symbolic_trace(network)
    ShapeProp(graph).propagate(images)
    config_list = auto_set_denpendency_group_ids(graph, [{"op_types": ["Conv2d"], **HALF}])
    assert any("dependency_group_id" in entry for entry in config_list) is (make is not Grouped)
    assert any("internal_metric_block" in entry for entry in config_list) is (make is Grouped)
    found = select_groups(network, config_list, images, with_ratio=True).groups
    assert list(found) == list(
        select_groups(network, [{"op_types": ["Conv2d"], **HALF}], images, with_ratio=True).groups
    )


def test_the_completed_list_ties_layers_and_masks_batch_norm_along(network: nn.Module, images: Tensor) -> None:
    found = {
        entry["op_names"][0]: entry
        for entry in complete_config_list(network, [{"op_types": ["Conv2d"], **HALF}], images)
    }
    assert list(found) == ["stem", "second", "first", "norm", "body_norm"]
    assert found["stem"]["dependency_group_id"] == found["second"]["dependency_group_id"] == "stem"
    assert "dependency_group_id" not in found["first"]
    assert found["body_norm"]["target_settings"]["bias"]["align"]["module_name"] == "first"


def test_depthwise_convolutions_go_along(images: Tensor) -> None:
    network = Depthwise()
    entry = {"op_names": ["expand"], **HALF}
    names = [found["op_names"] for found in complete_config_list(network, [entry], images)]
    assert names == [["expand"], ["depthwise"], ["norm"]]
    with pytest.raises(ConfigError, match="depthwise: it falls together with expand, not selected"):
        complete_config_list(network, [{"op_names": ["depthwise"], **HALF}], images)


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        ([], "the batches are empty"),
        (iter([torch.zeros(2, 3, 8, 8)]), "not a generator"),
        (["images"], "a batch must be"),
    ],
)
def test_bad_batches(network: nn.Module, batches: Any, told: str) -> None:
    with pytest.raises(SecateurError, match=told):
        HRankPruner(network, [{"op_names": ["first"], **HALF}], batches=batches)
