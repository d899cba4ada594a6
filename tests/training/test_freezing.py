"""Frozen filters are bit for bit what they were, and all others learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.channel_graph import apply_plan, channel_groups
from secateur.errors import ConfigError, NetworkError, ScoreError
from secateur.networks import digits_resnet
from secateur.records import PruningPlan
from secateur.training import fine_tune, frozen, highest_filters
from training_for_tests import blobs, net, same, state


def digits() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 10) for _ in range(3)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw"},
        {"average": 0.9, "clip_norm": 0.1},
        {"precision": "bfloat16", "mixup": 0.2, "nesterov": False},
    ],
)
def test_frozen_filters_stay_bit_for_bit(changes: dict[str, Any]) -> None:
    model = digits_resnet()
    before, filters = state(model), {"conv1": (0, 3), "layer2.0.conv1": (5,), "linear": (1, 9)}
    fine_tune(model, digits(), epochs=2, learning_rate=0.1, weight_decay=0.1, freeze=filters, **changes)
    for name, value in model.named_parameters():
        layer = name.rpartition(".")[0]
        held = torch.zeros(len(value), dtype=torch.bool)
        held[list(filters.get(layer, ()))] = True
        moved = (value != before[name]).flatten(1).any(1) if value.ndim > 1 else value != before[name]
        assert not bool(moved[held].any()), name
        assert bool(moved[~held].all()), name


def test_a_layer_without_frozen_filters_is_trained() -> None:
    model, other = net(), net()
    fine_tune(model, blobs(), freeze={"0": []})
    fine_tune(other, blobs())
    assert same(model, state(other))


def test_filters_of_a_layer_that_is_not_trained_may_be_frozen() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = state(model)
    fine_tune(model, blobs(), freeze={"0": [1]})
    assert torch.equal(model[0].weight, before["0.weight"])
    assert (model[0].bias == before["0.bias"]).tolist() == [channel == 1 for channel in range(8)]


def test_the_optimizer_forgets_frozen_filters_and_clipping_does_not_see_them() -> None:
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with frozen(nn.Sequential(model), {"0": (0, 2)}, optimizer):
        model(torch.ones(1, 2)).sum().backward()
        assert model.weight.grad is not None
        assert model.weight.grad.tolist() == [[0, 0], [1, 1], [0, 0]]
        optimizer.step()
    for parameter in model.parameters():
        memory = optimizer.state[parameter]["momentum_buffer"].reshape(3, -1)
        assert memory.any(1).tolist() == [False, True, False]
    model(torch.ones(1, 2)).sum().backward()
    before = state(model)
    optimizer.step()
    assert bool((model.weight != before["weight"]).all())  # no longer frozen
    assert bool((model.weight.grad != 0).all())


def test_the_highest_filters_are_counted_among_those_that_stay() -> None:
    scores = {"0": torch.tensor([5.0, 1.0, 4.0, 4.0, 9.0, 2.0, 4.0, 3.0]), "2": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    groups = channel_groups(model, torch.randn(2, 3, 8, 8))
    plan = PruningPlan(tuple(groups.values()), {"0": (1, 2, 3, 5, 6, 7)}, "macs", 1.0, 0.5, 0.5)
    assert highest_filters(scores, 0.25) == {"0": (0, 4), "2": (3,)}
    assert highest_filters(scores, 0.0) == {}
    assert len(highest_filters({"0": torch.arange(100.0)}, 0.29)["0"]) == 29  # 0.29 * 100 is a little less
    found = highest_filters(scores, 0.34, plan=plan)
    assert found == {"0": (2, 4), "2": (3,)}  # filters 3 and 6 of the dense network; of equals the later ones
    pruned = apply_plan(model, plan)
    assert torch.equal(pruned[0].weight[list(found["0"])], model[0].weight[[3, 6]])
    assert highest_filters(scores, 1.0, plan=plan)["0"] == (0, 1, 2, 3, 4, 5)


def test_masked_filters_stay_where_they_are() -> None:
    model = digits_resnet()
    groups = channel_groups(model, torch.randn(2, 1, 8, 8), residual="mask")
    name = next(name for name, group in groups.items() if group.masked)
    width = groups[name].width
    plan = PruningPlan(tuple(groups.values()), {name: tuple(range(1, width))}, "macs", 1.0, 0.5, 0.5)
    assert highest_filters({name: torch.arange(float(width))}, 0.2, plan=plan)[name][-1] == width - 1


def test_what_cannot_be_frozen_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"nosuch": [0]}, "no layer 'nosuch'"),
        ({"1": [0]}, r"'1' \(BatchNorm1d\) cannot be frozen"),
        ({"0": [8]}, r"'0' has the filters 0\.\.7"),
        ({"0": [-1]}, r"'0' has the filters 0\.\.7; asked for \[-1\]"),
    ]
    for filters, words in cases:
        with pytest.raises(NetworkError, match=words):
            fine_tune(net(), blobs(), freeze=filters)
    upward = nn.Sequential(nn.ConvTranspose2d(2, 3, 2))
    with (
        pytest.raises(NetworkError, match=r"'0' \(ConvTranspose2d\) cannot be frozen"),
        frozen(upward, {"0": [0]}, torch.optim.SGD(upward.parameters())),
    ):
        pass
    with pytest.raises(ConfigError, match=r"in \[0, 1\]; found 1.5"):
        highest_filters({}, 1.5)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    groups = channel_groups(model, torch.randn(2, 3, 8, 8))
    plan = PruningPlan(tuple(groups.values()), {"0": (1, 2)}, "macs", 1.0, 0.5, 0.5)
    with pytest.raises(ScoreError, match="'0' has 2 scores"):
        highest_filters({"0": torch.ones(2)}, 0.5, plan=plan)
