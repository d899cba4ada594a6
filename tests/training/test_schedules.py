"""HRank's layer-by-layer schedule: what it masks when, that removal changes nothing at its end, and that it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.channel_graph import apply_plan, channel_groups
from secateur.errors import PlanError
from secateur.networks import digits_resnet
from secateur.records import PruningPlan
from secateur.training import Recipe, fine_tune, prune_layer_by_layer
from secateur.training.schedules import AUTOPRUNER, CLR_RNF, HRANK, HRANK_PLUS, HRANK_PLUS_IMAGENET, Round
from training_for_tests import same, state

SHORT = Recipe(epochs=2, learning_rate=0.05, schedule="steps", milestones=(1,))


def batches(channels: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, channels, 8, 8, generator=generator), torch.arange(12) % 5) for _ in range(2)]


def halved(model: nn.Module, residual: Any, *, channels: int = 1) -> PruningPlan:
    groups = channel_groups(model, batches(channels)[0][0][:2], residual=residual)
    kept = {name: tuple(range(1, group.width, 2)) for name, group in groups.items()}
    return PruningPlan(tuple(groups.values()), kept, "macs", 1.0, 0.5, 0.5)


@pytest.mark.parametrize("residual", ["joint", "mask"])
def test_removal_at_the_end_changes_nothing(residual: Any) -> None:
    """The masked network, seen after the last step of the last round, answers as the pruned one does."""
    dense = digits_resnet()
    plan, before = halved(dense, residual), state(dense)
    pruned, rounds = prune_layer_by_layer(dense, plan, batches(), recipe=SHORT)
    assert same(dense, before)
    assert [done.groups for done in rounds] == [(group.name,) for group in plan.groups]
    assert all(len(done.history.epochs) == 2 for done in rounds)
    untrained, _ = prune_layer_by_layer(dense, plan, batches(), recipe=Recipe(epochs=0))
    assert same(untrained, state(apply_plan(dense, plan)))
    shapes = {name: value.shape for name, value in untrained.state_dict().items()}
    assert {name: value.shape for name, value in pruned.state_dict().items()} == shapes
    assert not same(pruned, state(untrained))
    if residual == "mask":
        for name, gone in plan.masked.items():
            assert not bool(pruned.get_submodule(name).weight[list(gone)].any())


def test_each_round_is_a_training_with_the_masks_so_far() -> None:
    """Against the same by hand: zero the columns that read the dropped channels, and again after each step."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    dense = nn.Sequential(*layers, nn.Linear(4, 5))
    plan = halved(dense, "joint")
    pruned, _ = prune_layer_by_layer(dense, plan, batches(), batches(), recipe=SHORT)

    def zero(*readers: nn.Module) -> None:
        with torch.no_grad():
            for reader in readers:
                reader.weight[:, ::2] = 0.0

    zero(dense[2])
    fine_tune(dense, batches(), batches(), recipe=SHORT, on_step=lambda *_: zero(dense[2]))
    zero(dense[2], dense[6])
    second = SHORT.revised({"seed": 1})
    fine_tune(dense, batches(), batches(), recipe=second, on_step=lambda *_: zero(dense[2], dense[6]))
    assert torch.equal(pruned[2].weight, dense[2].weight[1::2, 1::2])
    assert torch.equal(pruned[6].weight, dense[6].weight[:, 1::2])
    inputs = batches()[0][0]
    torch.testing.assert_close(pruned(inputs), dense(inputs))


def test_rounds_may_take_several_groups_and_a_stopped_schedule_goes_on(tmp_path: Path) -> None:
    dense = digits_resnet()
    plan = halved(dense, "skip")
    names = [group.name for group in plan.groups]
    rounds = [names[:1], names[1:]]
    whole, done = prune_layer_by_layer(dense, plan, batches(), batches(), recipe=SHORT, rounds=rounds)
    assert [len(one.groups) for one in done] == [1, len(names) - 1]

    def stop(_: Round) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"recipe": SHORT, "rounds": rounds, "checkpoints": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        prune_layer_by_layer(dense, plan, batches(), batches(), on_round=stop, **options)
    again, found = prune_layer_by_layer(dense, plan, batches(), batches(), **options)
    assert same(again, state(whole))
    assert [one.history.chosen for one in found] == [one.history.chosen for one in done]


def test_rounds_that_do_not_fit_the_plan_are_refused() -> None:
    dense = digits_resnet()
    plan = halved(dense, "skip")
    names = [group.name for group in plan.groups]
    cases = [
        ([["nosuch"]], "'nosuch', which the plan does not have"),
        ([names, names[:1]], "more than once"),
        ([names[1:]], f"removes channels of {names[0]}, which are in no round"),
    ]
    for rounds, words in cases:
        with pytest.raises(PlanError, match=words):
            prune_layer_by_layer(dense, plan, batches(), rounds=rounds)


def test_the_published_rates() -> None:
    """15 and 30 epochs with drops at 5 and 10; 150 with 50 and 100; 90 with five of warm-up and 30, 60, 80."""
    assert [HRANK.rate(step, 30) for step in (0, 4, 5, 9, 10, 29)] == pytest.approx(
        [1e-2] * 2 + [1e-3] * 2 + [1e-4] * 2
    )
    assert [HRANK_PLUS.rate(step, 150) for step in (49, 50, 99, 100)] == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4])
    rates = [HRANK_PLUS_IMAGENET.rate(step, 90) for step in (0, 4, 29, 30, 60, 80)]
    assert rates == pytest.approx([0.02, 0.1, 0.1, 0.01, 0.001, 0.0001])
    assert [AUTOPRUNER.rate(step, 30) for step in (0, 9, 10, 20)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert [r.weight_decay for r in (HRANK, HRANK_PLUS, CLR_RNF, AUTOPRUNER)] == [5e-4, 5e-4, 5e-3, 1e-4]
