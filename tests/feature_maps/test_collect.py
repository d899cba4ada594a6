"""Scores collected over a network against the criterion fed by hand."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from collecting_for_tests import MeanMap, Strict, images, network, with_nan
from secateur.errors import DataError, NetworkError
from secateur.feature_maps import collect_scores, tapped
from secateur.fingerprints import structure_of


def test_scores_are_the_criterions_own_on_the_layers_feature_maps() -> None:
    model = network().eval()
    data = images(12)
    table = collect_scores(model, data.split(5), MeanMap())
    with torch.no_grad():
        first = F.relu(model[1](model[0](data)))
        second = model[3](first)
    assert list(table) == ["0", "3"]
    torch.testing.assert_close(table["0"], first.double().mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(table["3"], second.double().mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    assert dict(table.settings) == {
        "criterion": "mean",
        "options": {
            "name": "mean",
            "needs_labels": False,
            "batch_size": None,
            "accepts_vectors": False,
            "samples": 100,
        },
        "tap": "act",
        "samples": 12,
        "batch_size": None,
        "structure": structure_of(model),
        "skipped": {},
        "saturated": {},
    }


def test_the_two_named_criteria_agree_with_their_classes_fed_by_hand() -> None:
    from secateur.criteria import CRITERIA

    model, data, labels = network().eval(), images(32), torch.arange(32) % 4
    with torch.no_grad():
        maps = F.relu(model[1](model[0](data)))
    for name in ("hrank", "di"):
        rule = CRITERIA[name]()
        state = rule.update(rule.init(4), maps, labels)
        table = collect_scores(model, [(data, labels)], name)
        torch.testing.assert_close(table["0"], rule.compute(state))
        assert table.settings["criterion"] == name


def test_batches_are_regrouped_and_samples_counted() -> None:
    sizes: list[int] = []

    class Sizes(MeanMap):
        def update(self, state: Any, feature_maps: Tensor, labels: Tensor | None) -> Any:
            sizes.append(len(feature_maps))
            return super().update(state, feature_maps, labels)

    table = collect_scores(network(), images(50).split(7), Sizes(batch_size=8), layers=["0"], samples=20)
    assert sizes == [8, 8]
    assert (table.settings["samples"], table.settings["batch_size"]) == (16, 8)
    assert collect_scores(network(), images(50).split(7), MeanMap(), samples=20).settings["samples"] == 20
    assert collect_scores(network(), images(50).split(7), MeanMap(samples=9)).settings["samples"] == 9


def test_linear_layers_are_scored_when_named_or_wanted_by_the_criterion() -> None:
    model, data = network().eval(), images(6)
    with torch.no_grad():
        expected = model(data).double().mean(0)
    named = collect_scores(model, [data], MeanMap(), layers=["5"])
    assert list(named) == ["5"]
    torch.testing.assert_close(named["5"], expected, rtol=1e-6, atol=1e-7)
    assert list(collect_scores(model, [data], MeanMap(accepts_vectors=True))) == ["0", "3", "5"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 4, 2), (5, 3, 8)),
        (nn.Conv3d(3, 4, 2), (5, 3, 4, 5, 6)),
        (nn.Linear(3, 4), (5, 7, 3)),
        (nn.Linear(3, 4), (5, 2, 7, 3)),
    ],
)
def test_every_kind_of_layer_reaches_the_criterion_as_N_C_H_W(layer: nn.Module, shape: tuple[int, ...]) -> None:  # noqa: N802  # the shape
    data = torch.randn(shape)
    with torch.no_grad():
        output = layer(data)
    channel_axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
    expected = output.double().mean([a for a in range(output.ndim) if a != channel_axis])
    scores = collect_scores(nn.Sequential(layer), [data], MeanMap(), layers=["0"])
    torch.testing.assert_close(scores["0"], expected, rtol=1e-6, atol=1e-7)


def test_a_layer_called_twice_adds_both_calls() -> None:
    conv = nn.Conv2d(3, 3, 1)
    data = images(4)
    with torch.no_grad():
        first = conv(data)
        expected = torch.cat([first, conv(first)]).double().mean((0, 2, 3))
    torch.testing.assert_close(collect_scores(nn.Sequential(conv, conv), [data], MeanMap())["0"], expected)


def test_squeeze_and_excitation_is_skipped_by_default_and_an_error_by_name() -> None:
    model = zoo.mobilenet_v3_small(weights=None)
    data = torch.randn(2, 3, 64, 64)
    table = collect_scores(model, [data], Strict())
    reason = table.settings["skipped"]["features.1.block.1.fc1"]
    assert reason == "too small"
    assert "features.1.block.0.0" in table
    assert not set(table) & set(table.settings["skipped"])
    with pytest.raises(DataError, match=r"'features.1.block.1.fc1': too small"):
        collect_scores(model, [data], Strict(), layers=["features.1.block.1.fc1"])


class Windowed(nn.Module):
    """A layer that sees each quarter of a map by itself, as attention in windows does, between two that see it all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        quarters = self.first(x).unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 2, 4, 1, 3, 5)
        inside = self.inside(quarters.flatten(0, 2)).unflatten(0, quarters.shape[:3])
        return self.last(inside.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3))


def test_maps_of_which_labels_do_not_tell_are_skipped_by_default() -> None:
    data, labels = images(6), torch.tensor([0, 1, 0, 1, 0, 1])
    network = Windowed()
    table = collect_scores(network, [(data, labels)], "di")
    assert set(table) == {"first", "last"}
    assert table.settings["skipped"] == {
        "inside": "it makes 24 feature maps for 6 labels: the network takes inputs apart"
    }
    assert torch.equal(table["first"], collect_scores(network, [(data, labels)], "di", layers=["first"])["first"])
    assert set(collect_scores(network, [data], "variance")) == {"first", "inside", "last"}


def test_large_values_whose_sum_overflows_are_not_taken_for_infinite() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 1e38)
    table = collect_scores(nn.Sequential(conv), [torch.ones(2, 1, 8, 8)], MeanMap())
    assert table["0"].item() == pytest.approx(1e38)


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails: bool) -> None:
    model = with_nan() if fails else network()
    model.train()
    model[1].eval()
    flags = [m.training for m in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if fails:
        with pytest.raises(DataError):
            collect_scores(model, [images(4)], MeanMap())
    else:
        collect_scores(model, [images(4)], MeanMap())
    assert [m.training for m in model.modules()] == flags
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


def test_half_precision_maps_reach_the_criterion_in_float32() -> None:
    model = network().eval()
    seen: list[torch.dtype] = []
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("ignore")
        with torch.no_grad(), tapped(model, lambda layer, maps: seen.append(maps.dtype)):
            model(images(2))
        table = collect_scores(model, [images(8)], MeanMap())
    assert torch.bfloat16 in seen
    assert torch.allclose(table["0"], collect_scores(model, [images(8)], MeanMap())["0"], atol=0.02)


def test_ranks_under_autocast_are_those_of_its_maps_in_float32() -> None:
    from secateur.criteria.feature_map_rank import feature_map_ranks

    model, data = network().eval(), images(16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        table = collect_scores(model, [data], "hrank", layers=["0"])
        maps = F.relu(model[1](model[0](data)))
    assert maps.dtype is torch.bfloat16
    assert torch.equal(table["0"], feature_map_ranks(maps.float()).double().mean(0))
    assert not torch.equal(maps.float(), F.relu(model[1](model[0](data))))


def test_wrapped_networks_are_scored_by_the_names_inside_and_compiled_ones_refused() -> None:
    model, data = network().eval(), images(8)
    plain = collect_scores(model, [data], MeanMap())
    wrapped = collect_scores(nn.DataParallel(model), [data], MeanMap(), layers=["0", "3"])
    assert list(wrapped) == ["0", "3"]
    for layer, scores in wrapped.items():
        assert torch.equal(scores, plain[layer])
    with pytest.raises(NetworkError, match=r"compiled by torch.compile"):
        collect_scores(torch.compile(model), [data], MeanMap())


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_maps_on_a_graphics_card_are_those_of_its_own_forward_pass(grad: Any) -> None:
    model, data = network().eval().cuda(), images(8).cuda()
    found: dict[str, Tensor] = {}
    with grad(), tapped(model, lambda layer, maps: found.update({layer: maps.clone()})):
        model(data)
    with torch.no_grad():
        first = F.relu(model[1](model[0](data)))
        assert torch.equal(found["0"], first)
        assert torch.equal(found["3"], model[3](first))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_inputs_are_moved_to_the_networks_device() -> None:
    model, data = network(), images(8)
    here = collect_scores(model, [data], MeanMap())
    there = collect_scores(model.cuda(), [data], MeanMap())
    torch.testing.assert_close(here["0"], there["0"], rtol=1e-4, atol=1e-5)
