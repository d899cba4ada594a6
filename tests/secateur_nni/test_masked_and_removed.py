"""What is masked is what is removed, in networks of every shape; where it cannot be, a warning tells."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cases_for_tests import cases
from masks_for_tests import HALF, outputs
from networks_for_tests import Concatenated, ConcatTwice, Depthwise, Grouped, randomise_batch_norm, torchvision_network
from secateur.errors import SecateurWarning
from secateur_nni import FeatureMapPruner, apply_masks


@pytest.mark.parametrize("name", cases(["resnet18", "mobilenet_v2"], thorough=["mobilenet_v2"]))
def test_masked_equals_removed(name: str) -> None:
    """Within 1e-5 of the largest output, with batch norms that shift, while NNI's wrappers do the masking."""
    network = randomise_batch_norm(torchvision_network(name)).eval()
    images = torch.randn(2, 3, 64, 64)
    dense = outputs(network, images)
    pruner = FeatureMapPruner(network, HALF, batches=[images], criterion="mean_activation")
    wrapped, masks = pruner.compress()
    assert wrapped is network
    masked = outputs(wrapped, images)
    pruner.unwrap_model()
    assert torch.equal(outputs(network, images), dense)
    removed = apply_masks(network, masks, images)
    assert (outputs(removed, images) - masked).abs().max() <= 1e-5 * masked.abs().max()
    for layer, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert removed.get_submodule(layer).out_channels == module.out_channels - module.out_channels // 2


@pytest.mark.parametrize("make", [Depthwise, Grouped, ConcatTwice])
def test_other_graphs(images: Tensor, make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pruner = FeatureMapPruner(network, HALF, batches=[images], criterion="variance")
        _, masks = pruner.compress()
    zeros_end = any("masked is not what removed is" in str(warning.message) for warning in told)
    masked = outputs(network, images)
    pruner.unwrap_model()
    removed = outputs(apply_masks(network, masks, images), images)
    equal = bool((masked - removed).abs().max() <= 1e-5 * masked.abs().max())
    assert equal is not zeros_end
    assert zeros_end is (make is Depthwise), "its last activation is a sigmoid"


def test_batch_norm_behind_a_concatenation_is_masked(images: Tensor) -> None:
    network = randomise_batch_norm(Concatenated()).eval()
    config_list = [{"op_names": ["left", "right"], "sparse_ratio": 0.5}]
    pruner = FeatureMapPruner(network, config_list, batches=[images], criterion="variance")
    _, masks = pruner.compress()
    masked = outputs(network, images)
    pruner.unwrap_model()
    assert torch.cat([masks["left"]["bias"], masks["right"]["bias"]]).tolist() == masks["norm"]["bias"].tolist()
    assert torch.allclose(outputs(apply_masks(network, masks, images), images), masked, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_that_cannot_be_masked_is_told(images: Tensor, affine: bool) -> None:
    """Without a weight, or of a type that NNI does not know, it goes on to write its shift."""

    class Own(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Own(4, affine=affine), nn.ReLU(), nn.Conv2d(4, 2, 3))
    nn.init.constant_(network[1].running_mean, -1.0)
    if affine:
        nn.init.ones_(network[1].bias)
    config_list = [{"op_names": ["0"], "sparse_ratio": 0.5}]
    with pytest.warns(SecateurWarning, match="what lies behind 0 turns zero into something else"):
        pruner = FeatureMapPruner(network, config_list, batches=[images], criterion="variance")
    _, masks = pruner.compress()
    pruner.unwrap_model()
    assert list(masks) == ["0"]
    assert apply_masks(network, masks, images)[1].num_features == 2


def test_a_warning_tells_where_zeros_end(images: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 1))
    with pytest.warns(SecateurWarning, match="what lies behind 2 turns zero into something else"):
        FeatureMapPruner(
            network, [{"op_names": ["0", "2"], "sparse_ratio": 0.5}], batches=[images], criterion="variance"
        )
