"""What is guarded against in NNI 3.0. Each test fails once NNI has mended it: then the guard can go."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.compression import TorchEvaluator
from nni.compression.pruning import AGPPruner, L1NormPruner
from nni.compression.speedup import ModelSpeedup
from torch import Tensor, nn

from networks_for_tests import randomise_batch_norm
from secateur_nni import HRankPruner

Batches = list[tuple[Tensor, Tensor]]


def shares(masks: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """Layer -> the share of its channels that is masked."""
    return {layer: 1 - float(found["weight"].flatten(1).any(1).float().mean()) for layer, found in masks.items()}


def test_a_list_that_selects_nothing_is_accepted(network: nn.Module) -> None:
    """base/config.py, lines 162 to 188; so are names of layers to exclude that do not exist."""
    entry = {"op_types": ["Conv3d"], "exclude_op_names": ["haed"], "sparse_ratio": 0.5}
    assert L1NormPruner(network, [entry]).compress()[1] == {}


def test_the_second_entry_for_a_layer_is_ignored(network: nn.Module) -> None:
    """base/wrapper.py, extend_target_spaces."""
    config_list = [{"op_names": ["first"], "sparse_ratio": 0.5}, {"op_names": ["first"], "sparse_ratio": 0.25}]
    assert shares(L1NormPruner(network, config_list).compress()[1]) == {"first": 0.5}


def test_a_layer_of_an_earlier_pruner_is_ignored(network: nn.Module) -> None:
    """As above: the chained pruner has nothing to mask."""
    earlier = L1NormPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}])
    later = L1NormPruner.from_compressor(earlier, [{"op_names": ["first"], "sparse_ratio": 0.25}])
    assert later._target_spaces == {"first": {}}


def test_global_groups_pass_over_their_caps(network: nn.Module) -> None:
    """pruning/tools/sparse_gen.py, lines 196 to 198."""
    with torch.no_grad():
        network.first.weight *= 1e-3
    entry = {"op_types": ["Conv2d"], "sparse_ratio": 0.4, "max_sparse_ratio": 0.5, "global_group_id": 0}
    assert shares(L1NormPruner(network, [entry]).compress()[1])["first"] == 1.0


def test_dependency_groups_pass_over_their_caps(network: nn.Module) -> None:
    """pruning/tools/sparse_gen.py, line 203."""
    entry = {"op_names": ["stem", "second"], "sparse_ratio": 0.5, "max_sparse_ratio": 0.25, "dependency_group_id": 0}
    assert shares(L1NormPruner(network, [entry]).compress()[1]) == {"stem": 0.5, "second": 0.5}


def test_layers_that_fall_together_are_masked_differently(network: nn.Module) -> None:
    """Unless the user ties them: nothing reads the network's graph."""
    with torch.no_grad():
        network.second.weight.copy_(network.second.weight.flip(0))
    _, masks = L1NormPruner(network, [{"op_names": ["stem", "second"], "sparse_ratio": 0.5}]).compress()
    assert masks["stem"]["weight"][:, 0, 0, 0].tolist() != masks["second"]["weight"][:, 0, 0, 0].tolist()


def test_a_masked_convolution_leaves_the_shift_of_its_batch_norm() -> None:
    """Issue 2130: the masked channel is a constant, not zero."""
    network = randomise_batch_norm(nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4))).eval()
    _, masks = L1NormPruner(network, [{"op_names": ["0"], "sparse_ratio": 0.5}]).compress()
    gone = ~masks["0"]["weight"].flatten(1).any(1)
    assert bool((network(torch.rand(1, 1, 2, 2))[:, gone].abs() > 1e-3).any())


def test_a_chain_of_pruners_makes_no_masks(network: nn.Module, make_evaluator: Callable[..., Any]) -> None:
    """pruning/basic_pruner.py: without a schedule interval_steps is -1, and no step ever has that number."""
    earlier = L1NormPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}], make_evaluator(network))
    chain = L1NormPruner.from_compressor(earlier, [{"op_names": ["stem"], "sparse_ratio": 0.5}])
    _, masks = chain.compress(max_steps=3, max_epochs=None)
    assert shares(masks) == {"first": 0.0, "stem": 0.0}


def test_an_untraced_optimizer_is_an_assertion_without_words(network: nn.Module) -> None:
    """utils/evaluator.py, line 803."""
    with pytest.raises(AssertionError, match=r"^$"):
        TorchEvaluator(print, torch.optim.SGD(network.parameters(), lr=0.1), print)


def test_an_optimizer_of_another_network_trains_nothing(network: nn.Module, make_evaluator: Callable[..., Any]) -> None:
    """utils/constructor_helper.py, line 61."""
    evaluator = make_evaluator(copy.deepcopy(network))
    evaluator._init_optimizer_helpers(network)
    evaluator.bind_model(network)
    before = copy.deepcopy(network.head.weight)
    evaluator.train(max_steps=2)
    assert torch.equal(network.head.weight, before)


def test_a_schedule_without_an_evaluator_is_an_assertion_without_words(network: nn.Module, batches: Batches) -> None:
    """pruning/scheduled_pruner.py, line 70; nothing of ours runs there."""
    pruner = HRankPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}], batches=batches)
    with pytest.raises(AssertionError, match=r"^$"):
        AGPPruner(pruner, interval_steps=1, total_times=1)


def test_unwrapping_leaves_forward_on_the_modules(network: nn.Module) -> None:
    """base/wrapper.py, unwrap."""
    pruner = L1NormPruner(network, [{"op_names": ["first"], "sparse_ratio": 0.5}])
    pruner.unwrap_model()
    assert "forward" in vars(network.first)


def test_the_order_of_layers_is_that_of_a_set() -> None:
    """base/config.py, lines 162 to 188; so the completed list has one entry a layer."""
    source = Path(importlib.util.find_spec("nni.compression.base.config").origin).read_text(encoding="utf-8")
    assert "for module_name in selected_op_names}" in source
    assert "selected_op_names = set(op_names)" in source


@pytest.mark.filterwarnings("ignore")
def test_model_speedup_cannot_trace(images: Tensor) -> None:
    """common/concrete_trace_utils/concrete_tracer.py, line 958, with current torch."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    pruner = L1NormPruner(network, [{"op_names": ["0"], "sparse_ratio": 0.5}])
    _, masks = pruner.compress()
    pruner.unwrap_model()
    with pytest.raises((AttributeError, TypeError), match=r"startswith|is_impure"):
        ModelSpeedup(network, images, masks).speedup_model()


@pytest.mark.filterwarnings("ignore")
def test_model_speedup_leaves_training_mode(images: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    """speedup/replacer.py: layers that it has replaced are new ones."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    pruner = L1NormPruner(network, [{"op_names": ["0"], "sparse_ratio": 0.5}])
    _, masks = pruner.compress()
    pruner.unwrap_model()
    ModelSpeedup(network, images, copy.deepcopy(masks), graph_module=torch.fx.symbolic_trace(network)).speedup_model()
    assert network[1].training
    assert network[1].num_features == 2


def test_nnictl_imports_what_setuptools_82_removed() -> None:
    """tools/nnictl/nnictl.py, line 7; why the extra pins setuptools, see check_nnictl."""
    source = Path(nni.__file__).parent / "tools/nnictl/nnictl.py"
    assert "import pkg_resources" in source.read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_its_own_tying_of_layers_needs_tensorboard(network: nn.Module, images: Tensor) -> None:
    """compression/utils; complete_config_list needs nothing."""
    from nni.compression.utils import auto_set_denpendency_group_ids

    with pytest.raises(ModuleNotFoundError, match="tensorboard"):
        auto_set_denpendency_group_ids(network, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], images)


def test_equal_scores_are_told_apart_by_topk() -> None:
    """pruning/tools/sparse_gen.py, _ratio_mask: which of them topk takes is not said; it is not the lower index."""
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1))
    nn.init.ones_(network[0].weight)
    _, masks = L1NormPruner(network, [{"op_names": ["0"], "sparse_ratio": 0.5}]).compress()
    kept = masks["0"]["weight"][:, 0, 0, 0].nonzero().flatten().tolist()
    assert kept != list(range(32, 64))
