"""AutoPruner learns which channels carry the classes, and its code is the network that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import MacsCost, accuracy, apply_plan, channel_groups, uniform_plan, verify_pruning, weight_scores
from secateur.errors import CheckpointError, ConfigError, DataError, NetworkError, PlanError
from secateur.gates import PRESETS, GateEpoch, autoprune
from secateur.gates.attached import Attached
from secateur.gates.learning import Learning
from secateur.records import PruningPlan

FAST = {"learning_rate": 0.05, "weight_decay": 0.0}


def batches(count: int = 60) -> list[tuple[Tensor, Tensor]]:
    """Images of two classes that differ in the sign of their first channel; the second is noise."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(8 * count) % 2
    images = 0.1 * torch.randn(8 * count, 2, 6, 6, generator=random)
    images[:, 0] += (2.0 * labels - 1)[:, None, None]
    return list(zip(images.split(8), labels.split(8), strict=True))


class Small(nn.Module):
    """Two convolutions of eight and six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))


class Auxiliary(Small):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


@pytest.fixture
def setting() -> tuple[nn.Module, dict[str, Any], MacsCost]:
    torch.manual_seed(1)
    network, images = Small().eval(), batches(1)[0][0]
    groups = dict(channel_groups(network, images))
    return network, groups, MacsCost(network, images, groups)


def test_the_code_is_what_stays_and_removal_is_exact(setting: tuple[nn.Module, dict[str, Any], MacsCost]) -> None:
    network, groups, cost = setting
    before = {name: value.clone() for name, value in network.state_dict().items()}
    steps: list[tuple[int, int]] = []
    found = autoprune(
        network, groups, cost, batches(), keep=0.5, epochs=4, on_step=lambda *step: steps.append(step), **FAST
    )
    assert {name: len(found.plan[name]) for name in groups} == {"first": 4, "second": 3}
    assert all(gate.binary for gate in found.gates.values())
    assert found.epochs[-1].loss < found.epochs[0].loss
    assert steps == [(n, 240) for n in range(1, 241)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert not any(module._forward_pre_hooks for module in found.model.modules())

    pruned = apply_plan(found.model, found.plan)
    verify_pruning(found.model, pruned, found.plan, batches(1)[0][0])
    assert accuracy(pruned, batches(10)) == 1.0
    assert found.plan.cost_after == found.plan.budget == MacsCost(pruned, batches(1)[0][0], groups={})({})
    assert PruningPlan.from_json(json.loads(json.dumps(found.plan.to_json()))) == found.plan
    assert found.plan.settings["learnt"]["first"]["binary"]


def test_without_projection_the_codes_decide(setting: tuple[nn.Module, dict[str, Any], MacsCost]) -> None:
    network, groups, cost = setting
    found = autoprune(network, groups, cost, batches(), keep=0.5, epochs=2, project=False, **FAST)
    for name, gate in found.gates.items():
        expected = [c for c, share in enumerate(gate.shares.tolist()) if share > 0.5]
        assert list(found.plan[name]) == (expected or [int(gate.code.argmax())])


def test_stage_by_stage_finished_codes_stay(
    setting: tuple[nn.Module, dict[str, Any], MacsCost], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, groups, cost = setting
    attach, seen = Attached.attached, []

    def watched(self: Attached, names: list[str]) -> Any:
        seen.append({name: (gate.training, gate.kept is None) for name, gate in self.gates.items() if name in names})
        return attach(self, names)

    monkeypatch.setattr(Attached, "attached", watched)
    found = autoprune(network, groups, cost, batches(20), stages=[["first"], ["second"]], epochs=1, **FAST)
    assert seen == [{"first": (True, True)}, {"first": (False, False), "second": (True, True)}]
    assert found.plan.settings["stages"] == [["first"], ["second"]]
    assert [(e.stage, e.number) for e in found.epochs] == [(1, 1), (2, 1)]


def test_a_budget_is_met_by_the_widths_of_a_plan(setting: tuple[nn.Module, dict[str, Any], MacsCost]) -> None:
    network, groups, cost = setting
    scores = weight_scores(network, "l1", example_inputs=batches(1)[0][0])
    widths = uniform_plan(groups, scores, cost, "60%", round_to=1).widths
    found = autoprune(network, groups, cost, batches(5), keep=widths, epochs=1, **FAST)
    assert found.plan.widths == widths
    assert found.plan.cost_after <= 0.6 * found.plan.cost_before


@pytest.mark.parametrize(
    "changes", [{"batch_average": False}, {"binarise": False}, {"precision": "bfloat16"}, {"precision": "float16"}]
)
def test_ablations_run_and_are_recorded(
    setting: tuple[nn.Module, dict[str, Any], MacsCost], changes: dict[str, Any]
) -> None:
    network, groups, cost = setting
    found = autoprune(network, groups, cost, batches(20), epochs=1, **FAST, **changes)
    assert {name: found.plan.settings["recipe"][name] for name in changes} == changes
    assert found.plan.widths == {"first": 4, "second": 3}
    assert (found.gates["first"].alpha == 0.1) == (changes.get("binarise") is False)


@pytest.mark.parametrize(("drop", "whole"), [(2 / 3, 8), (0.5, 6), (1.0, 12)])
def test_the_learning_rate_drops_once_or_never(
    setting: tuple[nn.Module, dict[str, Any], MacsCost], monkeypatch: pytest.MonkeyPatch, drop: float, whole: int
) -> None:
    network, groups, cost = setting
    rates, look_back = list[float](), Learning._look_back

    def watched(self: Learning) -> None:
        rates.append(self.optimizer.param_groups[0]["lr"])
        look_back(self)

    monkeypatch.setattr(Learning, "_look_back", watched)
    autoprune(network, groups, cost, batches(6), epochs=2, learning_rate=0.01, drop=drop)
    assert rates == pytest.approx([0.01] * whole + [0.001] * (12 - whole))


def test_the_presets_drop_it_where_the_authors_do() -> None:
    """VGG-16 after two of three epochs, ResNet-50 after four of eight, MobileNetV2 not at all."""
    epochs = {name: recipe.epochs * recipe.drop for name, recipe in PRESETS.items()}
    assert epochs == pytest.approx({"vgg16": 2, "resnet50": 4, "mobilenet_v2": 5})


def test_the_seed_decides(setting: tuple[nn.Module, dict[str, Any], MacsCost]) -> None:
    network, groups, cost = setting
    first, again = (autoprune(network, groups, cost, batches(10), epochs=1, seed=4) for _ in range(2))
    other = autoprune(network, groups, cost, batches(10), epochs=1, seed=5)
    assert torch.equal(first.gates["first"].code, again.gates["first"].code)
    assert first.plan == again.plan
    assert not torch.equal(first.gates["first"].code, other.gates["first"].code)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": 1.0}, ConfigError, r"a share in \(0, 1\) or widths by group; found 1.0"),
        ({"keep": {"third": 2}}, PlanError, "no channel group 'third'; known: first, second"),
        ({"keep": {"first": 9}}, ConfigError, "'first' has 8 channels; asked to keep 9"),
        ({"keep": {"first": 8}}, ConfigError, "nothing would go"),
        ({"stages": [["first"]]}, ConfigError, "must name each group that is gated once: first, second"),
        ({"stages": [["first", "second"], []]}, ConfigError, "must name each group that is gated once"),
        ({"learning_rate": 1e30}, DataError, "the loss is nan at step [0-9]+ of 10: training diverged"),
        ({"precision": "int8"}, ConfigError, "precision must be one of"),
        ({"epochs": 2.0}, ConfigError, "epochs must be a whole number >= 1; found 2.0"),
        ({"alpha": (1.0,)}, ConfigError, "alpha must be two numbers > 0"),
    ],
)
def test_bad_input(
    setting: tuple[nn.Module, dict[str, Any], MacsCost], options: Any, error: type[Exception], message: str
) -> None:
    network, groups, cost = setting
    with pytest.raises(error, match=message):
        autoprune(network, groups, cost, batches(10), **{"epochs": 1, **options})


def test_a_network_with_auxiliary_outputs_is_refused() -> None:
    network, data = Auxiliary(), batches(2)
    groups = channel_groups(network, data[0][0])
    with pytest.raises(NetworkError, match="must give one tensor of logits; it gives tuple"):
        autoprune(network, groups, MacsCost(network, data[0][0], groups), data, epochs=1)


def test_bad_batches(setting: tuple[nn.Module, dict[str, Any], MacsCost]) -> None:
    network, groups, cost = setting

    def generator() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(2)

    for data, message in (
        (generator(), "not a generator"),
        ([], "the batches are empty"),
        ([(torch.rand(4, 2, 6, 6), torch.full((4,), 2))], "label"),
        ([(torch.rand(1, 2, 6, 6), torch.tensor([0]))], "at least two images"),
    ):
        with pytest.raises(DataError, match=message):
            autoprune(network, groups, cost, data)
    with pytest.raises(NetworkError, match="no channel group to prune"):
        autoprune(network, {}, cost, batches(1))


class Miscounted(list[Any]):
    """One batch more than its length says, as of iterable data sets with several workers."""

    def __len__(self) -> int:
        return super().__len__() - 1


@pytest.mark.parametrize("kind", [list, pytest.param(Miscounted, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("stop", [7, 25, 55, 75])
def test_a_run_that_was_stopped_ends_in_the_same_numbers(
    setting: tuple[nn.Module, dict[str, Any], MacsCost], tmp_path: Path, stop: int, kind: type[list[Any]]
) -> None:
    """Two stages of two epochs, twenty steps each: in the first epoch, in the second, in the second stage's two."""
    network, groups, cost = setting
    file, told = tmp_path / "gates.safetensors", list[GateEpoch]()
    options: dict[str, Any] = {"stages": [["first"], ["second"]], "epochs": 2, **FAST}

    def step(done: int, _total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    train = kind(batches(20))
    whole = autoprune(network, groups, cost, train, **options)
    with pytest.raises(KeyboardInterrupt):
        autoprune(network, groups, cost, train, checkpoint=file, on_step=step, **options)
    assert [path.name for path in tmp_path.iterdir()] == ([file.name] if stop > 20 else [])
    torch.manual_seed(123)
    again = autoprune(network, groups, cost, train, checkpoint=file, on_epoch=told.append, **options)
    assert again.plan == whole.plan
    assert (again.epochs, tuple(told)) == (whole.epochs, whole.epochs)
    for name, gate in whole.gates.items():
        assert torch.equal(again.gates[name].code, gate.code)
    for value, expected in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(value, expected)


def test_a_checkpoint_of_another_run_is_refused(
    setting: tuple[nn.Module, dict[str, Any], MacsCost], tmp_path: Path
) -> None:
    network, groups, cost = setting
    file = tmp_path / "gates.safetensors"
    autoprune(network, groups, cost, batches(3), epochs=1, checkpoint=file)
    with pytest.raises(CheckpointError, match=r"another training run .*widths was"):
        autoprune(network, groups, cost, batches(3), epochs=1, keep=0.25, checkpoint=file)
    with pytest.raises(CheckpointError, match="weights at the start was"):
        autoprune(Small().eval(), groups, cost, batches(3), epochs=1, checkpoint=file)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        autoprune(network, groups, cost, batches(3), epochs=1, checkpoint=file)
