"""NNI's own pruners at stated widths: their masks, their metrics, and what they cannot do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nni.compression.pruning import L1NormPruner
from torch import Tensor, nn

from networks_for_tests import Residual, randomise_batch_norm
from secateur.channel_graph import channel_groups
from secateur.errors import ConfigError, DataError, ScoreError
from secateur_nni import OWN_PRUNERS, own_choice
from secateur_nni.known_pruners import READS_IMAGES

Batches = list[tuple[Tensor, Tensor]]
WIDTHS = {"stem": 5, "first": 4}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return Residual().eval()


@pytest.mark.parametrize("name", [*OWN_PRUNERS])
def test_masks_leave_the_widths_and_the_highest_metrics(
    network: nn.Module, images: Tensor, batches: Batches, name: str
) -> None:
    groups = channel_groups(network, images[:2])
    widths = {"first": 4} if name == "slim" else WIDTHS
    choice = own_choice(network, groups, widths, batches, name)
    assert {group: len(kept) for group, kept in choice.kept.items()} == widths
    for group, kept in choice.kept.items():
        metric = groups[group].combine(choice.metrics)
        gone = sorted({*range(groups[group].width)} - {*kept})
        assert float(metric[list(kept)].min()) >= float(metric[gone].max())
    assert choice.metrics.settings["criterion"] == f"nni:{name}"
    assert choice.metrics.settings["samples"] == (12 if name in ("taylor", "slim") else 0)


def test_l1_is_what_nni_says_without_us(network: nn.Module, images: Tensor, batches: Batches) -> None:
    choice = own_choice(network, channel_groups(network, images[:2]), {"first": 4}, batches, "l1")
    _, masks = L1NormPruner(copy.deepcopy(network), [{"op_names": ["first"], "sparse_ratio": 0.34}]).compress()
    assert choice.kept["first"] == tuple(masks["first"]["weight"].flatten(1).any(1).nonzero().flatten().tolist())


def naive_taylor(network: nn.Module, batches: Batches, layer: str) -> list[float]:
    """The mean over batches of the squares of weight times gradient, summed over each filter."""
    module, total = network.get_submodule(layer), 0.0
    for images, labels in batches:
        loss = nn.functional.cross_entropy(network(images), labels)
        (gradient,) = torch.autograd.grad(loss, [module.weight])
        total = total + (module.weight * gradient).detach() ** 2 / len(batches)
    return [float(row.sum()) for row in total]


def test_taylor_reads_the_gradients_of_the_network_that_is_pruned(
    network: nn.Module, images: Tensor, batches: Batches
) -> None:
    before = copy.deepcopy(network.state_dict())
    choice = own_choice(network, channel_groups(network, images[:2]), WIDTHS, batches, "taylor")
    assert torch.allclose(
        choice.metrics["first"], torch.tensor(naive_taylor(network, batches, "first"), dtype=torch.float64), rtol=1e-3
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    short = [(images[:0], torch.arange(0)), *((inputs, labels.int()) for inputs, labels in batches)]
    again = own_choice(network, channel_groups(network, images[:2]), WIDTHS, short, "taylor")
    assert torch.equal(again.metrics["first"], choice.metrics["first"])


@pytest.mark.parametrize("name", sorted(READS_IMAGES))
def test_gradients_are_there_whatever_the_caller_has_switched_off(
    network: nn.Module, images: Tensor, batches: Batches, name: str
) -> None:
    groups = channel_groups(network, images[:2])
    choice = own_choice(network, groups, {"first": 4}, batches, name)
    network.requires_grad_(False)
    with torch.no_grad():
        again = own_choice(network, groups, {"first": 4}, batches, name)
    assert again.kept == choice.kept
    assert torch.equal(again.metrics["first"], choice.metrics["first"])
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "steps", "read"), [("taylor", 1, 1), ("taylor", 3, 3), ("slim", 5, 5), ("slim", 20, 12)]
)
def test_samples_are_the_images_that_were_read(
    network: nn.Module, images: Tensor, name: str, steps: int, read: int
) -> None:
    singles = [(images[i : i + 1], torch.tensor([i % 5])) for i in range(12)]
    groups, options = channel_groups(network, images[:2]), {"training_steps": steps}
    choice = own_choice(network, groups, {"first": 4}, singles, name, options=options)
    assert choice.metrics.settings["samples"] == read
    alone = own_choice(network, groups, {"first": 4}, singles[:read], name, options=options)
    assert torch.equal(choice.metrics["first"], alone.metrics["first"])


def test_slim_masks_what_it_has_batch_norm_for(network: nn.Module, images: Tensor, batches: Batches) -> None:
    """The stream of `stem` and `second` has one batch norm, which is that of one of the two."""
    groups = channel_groups(network, images[:2])
    plain = randomise_batch_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.Flatten()))
    choice = own_choice(network, groups, WIDTHS, batches, "slim", options={"training_steps": 3})
    assert {group: len(kept) for group, kept in choice.kept.items()} == WIDTHS
    with pytest.raises(ScoreError, match="masks by batch norm, and '0' has none"):
        own_choice(plain, channel_groups(plain, images[:2]), {"0": 4}, batches, "slim")


def test_masked_groups_are_refused(network: nn.Module, images: Tensor, batches: Batches) -> None:
    groups = channel_groups(network, images[:2], residual="mask")
    with pytest.raises(ScoreError, match="'stem' would be masked layer by layer"):
        own_choice(network, groups, {"stem": 4}, batches, "l1")


@pytest.mark.parametrize(
    ("name", "widths", "options", "message"),
    [
        ("l3", WIDTHS, {}, "no pruner 'l3' here; allowed: l1, l2, fpgm, taylor, slim"),
        ("level", WIDTHS, {}, "single weights, no channels"),
        ("movement", WIDTHS, {}, "learns masks while it trains"),
        ("l1", WIDTHS, {"p": 1}, "L1NormPruner of NNI has no option 'p'; it takes none"),
        ("slim", WIDTHS, {"lr": 1}, "it takes regular_scale, training_steps"),
        ("l1", {"stem": 9}, {}, "'stem' is to keep 9 channels; it has 8"),
        ("l1", {"second": 4}, {}, "'second' is to keep 4 channels; it has no"),
        ("l1", {"stem": 8}, {}, "no group is to lose a channel"),
    ],
)
def test_bad_input(
    network: nn.Module, images: Tensor, batches: Batches, name: str, widths: Any, options: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        own_choice(network, channel_groups(network, images[:2]), widths, batches, name, options=options)


def test_images_must_be_there_and_have_labels(network: nn.Module, images: Tensor) -> None:
    groups = channel_groups(network, images[:2])
    with pytest.raises(DataError, match="no image"):
        own_choice(network, groups, WIDTHS, [], "l1")
    with pytest.raises(DataError, match="need labels"):
        own_choice(network, groups, WIDTHS, [images], "taylor")


def test_the_failure_of_nni_is_told_in_a_line(network: nn.Module, images: Tensor, batches: Batches) -> None:
    with pytest.raises(ScoreError, match=r"TaylorPruner of NNI fails: \w+"):
        own_choice(
            network, channel_groups(network, images[:2]), WIDTHS, batches, "taylor", options={"training_steps": "many"}
        )


class Counted:
    """Batches that are made when they are asked for, and counted."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.read = batches, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            self.read += 1
            yield batch


def test_only_pruners_that_read_images_are_given_them(network: nn.Module, images: Tensor, batches: Batches) -> None:
    """A comparison tells what scoring takes: those that look at weights alone must not pay for a data set."""
    groups, many = channel_groups(network, images[:2]), batches * 10
    for name in OWN_PRUNERS:
        counted = Counted(many)
        own_choice(network, groups, {"first": 4}, counted, name)
        assert (counted.read == len(many)) == (name in READS_IMAGES)
        assert (counted.read == 1) == (name not in READS_IMAGES)
