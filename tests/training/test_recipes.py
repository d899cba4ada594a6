"""Each number of a recipe does what its formula says, step by step against loops over plain numbers."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import references
import references_training as twins
from secateur.errors import ConfigError, DataError
from secateur.evaluation import accuracy
from secateur.training import Recipe, fine_tune
from secateur.training.averaging import moving_average
from secateur.training.mixing import mix, mixup
from secateur.training.optimizing import optimizer_of
from training_for_tests import Slope, blobs, net, one_image_of_class_0, same, state


@given(st.integers(1, 30), st.integers(2, 6), st.sets(st.floats(0.1, 5), min_size=1, max_size=3), st.floats(0, 1))
@example(15, 3, {1.1}, 0.1)  # 16.5 steps, which (steps / epochs) times the milestone rounds the other way
def test_the_rate_falls_at_the_milestones(per_epoch: int, epochs: int, milestones: set[float], gamma: float) -> None:
    ascending, gamma = tuple(sorted(milestones)), max(gamma, 0.01)
    recipe = Recipe(
        epochs=epochs, learning_rate=0.3, warmup_epochs=1, schedule="steps", milestones=ascending, gamma=gamma
    )
    steps = per_epoch * epochs
    rates = [recipe.rate(step, steps) for step in range(steps)]
    assert rates == pytest.approx(twins.stepped_rates(0.3, steps, epochs, per_epoch, ascending, gamma))


def test_steps_without_nesterov_are_those_of_plain_momentum() -> None:
    model = Slope()
    fine_tune(model, one_image_of_class_0(2), learning_rate=0.5, momentum=0.9, weight_decay=0.0, nesterov=False)
    weight, velocity = 0.5, 0.0
    for rate in references.cosine_rates(0.5, 2, 0):
        velocity = 0.9 * velocity + references.logistic_gradient(weight)
        weight -= rate * velocity
    assert model.w.item() == pytest.approx(weight, rel=1e-12)


def test_steps_of_adamw() -> None:
    model = Slope()
    fine_tune(
        model, one_image_of_class_0(3), epochs=2, learning_rate=0.5, momentum=0.8, weight_decay=0.1, optimizer="adamw"
    )
    rates = references.cosine_rates(0.5, 6, 0)
    assert model.w.item() == pytest.approx(twins.adamw(0.5, references.logistic_gradient, rates, 0.8, 0.1), rel=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_are_spared_from_decay(optimizer: Any) -> None:
    """Without a gradient only decay moves a weight."""

    def moved(decay_all: bool) -> set[str]:
        model = net()
        rule = optimizer_of(model, Recipe(optimizer=optimizer, decay_all=decay_all, weight_decay=0.5))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1.0
                parameter.grad = torch.zeros_like(parameter)
        before = state(model)
        rule.step()
        return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}

    assert moved(True) == {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"}
    assert moved(False) == {"0.weight", "4.weight"}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 0.999))
def test_the_moving_average_is_that_of_a_loop(values: list[float], decay: float) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    average = moving_average(model, decay)
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(twins.moving_average(values, decay), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool, torch.uint8])
def test_what_is_no_fraction_is_not_averaged(kind: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("counts", torch.tensor([0, 1, 1], dtype=kind))
    average = moving_average(model, 0.99)
    for counts in ([1, 1, 1], [1, 1, 0], [1, 0, 1]):
        model.counts = torch.tensor(counts, dtype=kind)
        average.update_parameters(model)
        assert average.module.counts.tolist() == model.counts.tolist()


def test_the_average_is_what_is_judged_and_kept() -> None:
    model, weights = net(), list[dict[str, Tensor]]()
    noise = [(inputs, labels[torch.randperm(len(labels))]) for inputs, labels in blobs(600, size=200)]
    history = fine_tune(
        model,
        blobs(),
        noise,  # which each network answers otherwise
        epochs=3,
        learning_rate=0.1,
        average=0.9,
        on_step=lambda *_: weights.append(state(model)),
    )
    steps = 3 * history.chosen
    for name in ("0.weight", "1.running_mean"):
        expected = twins.moving_average([w[name].double().flatten()[1].item() for w in weights[:steps]], 0.9)
        assert model.state_dict()[name].flatten()[1].item() == pytest.approx(expected, rel=1e-4)
    assert history.epochs[history.chosen - 1].accuracy == accuracy(model, noise)


def test_mixing_and_its_loss_are_those_of_a_loop() -> None:
    inputs, logits = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    targets = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 2]]
    images, soft = mix(inputs, targets, share=0.3, partners=[2, 0, 3, 1])
    torch.testing.assert_close(images.tolist(), twins.mixed(inputs.tolist(), [2, 0, 3, 1], 0.3))
    torch.testing.assert_close(soft.tolist(), twins.mixed(targets.tolist(), [2, 0, 3, 1], 0.3))
    loss = functional.cross_entropy(logits, soft, label_smoothing=0.2).item()
    assert loss == pytest.approx(twins.smoothed_cross_entropy(logits.tolist(), soft.tolist(), 0.2))


def test_mixing_with_a_share_of_one_is_none() -> None:
    (inputs, labels), *_ = blobs()
    plain, mixing = net(), net()
    plain[3].p = mixing[3].p = 0.0  # dropout would draw other numbers
    with mock.patch("torch.distributions.Beta.sample", return_value=torch.tensor(1.0)):
        images, targets = mixup(inputs, labels, alpha=0.3, classes=3)
        fine_tune(mixing, blobs(), mixup=0.3)
    fine_tune(plain, blobs())
    assert torch.equal(images, inputs)
    assert torch.equal(targets.argmax(1), labels)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(mixing.state_dict()[name], value, msg=name)


def test_batch_norm_is_renewed_before_the_first_step() -> None:
    model = net()
    fine_tune(model, blobs(), epochs=0, recalibrate=60)
    with torch.no_grad():
        hidden = torch.stack([model[0](inputs).mean(0) for inputs, _ in blobs()]).mean(0)
    torch.testing.assert_close(model[1].running_mean, hidden)
    untouched = net()
    assert torch.equal(model[0].weight, untouched[0].weight)


@pytest.mark.parametrize("changes", [{"average": 0.9}, {"mixup": 0.4}, {"optimizer": "adamw", "learning_rate": 0.02}])
def test_it_learns_in_each_way(changes: dict[str, Any]) -> None:
    model = net()
    fine_tune(model, blobs(), blobs(), **{"epochs": 10, "learning_rate": 0.1, **changes})
    assert accuracy(model, blobs()) >= 0.95


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw; found 'adam'"),
        ({"schedule": "step"}, "schedule must be one of cosine, steps"),
        ({"schedule": "steps"}, "milestones must be ascending epochs > 0 with the schedule 'steps'"),
        ({"milestones": (1,)}, "and none without"),
        ({"schedule": "steps", "milestones": (2, 1)}, r"ascending.*found \(2, 1\)"),
        ({"schedule": "steps", "milestones": (1, 1)}, r"ascending.*found \(1, 1\)"),
        ({"schedule": "steps", "milestones": (0, 1)}, r"ascending.*found \(0, 1\)"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.5}, r"gamma must be in \(0, 1\]"),
        ({"mixup": -1.0}, "mixup"),
        ({"average": 1.0}, "average"),
        ({"recalibrate": 1}, "recalibrate must be 0, or a whole number of images >= 2"),
        ({"distillation": 1.5}, "distillation"),
        ({"temperature": 0.0}, "temperature"),
        ({"feature_weight": float("inf")}, "feature_weight"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fine_tune(net(), blobs(), **changes)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    zeros = ("momentum", "weight_decay", "label_smoothing", "warmup_epochs", "mixup", "average", "feature_weight")
    least: dict[str, Any] = {"epochs": 0, "recalibrate": 2, "distillation": 0.0, **dict.fromkeys(zeros, 0.0)}
    assert Recipe(**least, schedule="steps", milestones=(0.5, 3), gamma=1.0).momentum == 0
    assert Recipe(epochs=2, warmup_epochs=2, distillation=1.0).rate(3, 4) == 0.01


@pytest.mark.parametrize(
    ("validate", "words"),
    [
        ([], "no images to validate on"),
        ((batch for batch in blobs()), "validation batches are read once an epoch"),
        ([(torch.zeros(2, 2), torch.tensor([0, 7]))], r"0\.\.2"),
        ([*blobs(), (torch.zeros(2, 2), torch.tensor([0, 7]))], r"0\.\.2"),
    ],
)
def test_a_validation_split_that_cannot_judge_is_refused_before_the_first_step(validate: Any, words: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(DataError, match=words):
        fine_tune(model, blobs(), validate, on_step=lambda *_: pytest.fail("a step was taken"))
    assert same(model, before)
