"""Training follows its recipe step by step, keeps the best epoch, and never leaves a broken network behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import references
from secateur import ParameterCost, autoprune, channel_groups
from secateur.errors import DataError
from secateur.evaluation import accuracy
from secateur.networks import digits_resnet
from secateur.training import Epoch, Recipe, fine_tune
from training_for_tests import Slope, blobs, net, one_image_of_class_0, same, state


@given(st.integers(1, 30), st.integers(1, 5), st.floats(0, 1))
def test_the_learning_rate_rises_and_falls_by_the_formula(per_epoch: int, epochs: int, share: float) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=0.3, warmup_epochs=share * epochs)
    steps = per_epoch * epochs
    rates = [recipe.rate(step, steps) for step in range(steps)]
    warm = round(steps * recipe.warmup_epochs / epochs)  # steps * share may lie on the other side of a half
    assert rates == pytest.approx(references.cosine_rates(0.3, steps, warm))
    assert max(rates) <= 0.3
    assert min(rates) > 0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_nesterov(momentum: float) -> None:
    model = Slope()
    batches = one_image_of_class_0(3)
    fine_tune(model, batches, epochs=2, learning_rate=0.5, momentum=momentum, weight_decay=0.1, warmup_epochs=1)
    rates = references.cosine_rates(0.5, 6, 3)
    expected = references.nesterov_descent(0.5, references.logistic_gradient, rates, momentum, 0.1)
    assert model.w.item() == pytest.approx(expected, rel=1e-9)


def test_the_rate_does_not_rise_again_behind_the_batches_that_were_counted() -> None:
    class Longer:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(one_image_of_class_0(4))

    model, rates = Slope(), references.cosine_rates(0.5, 2, 0)
    fine_tune(model, Longer(), epochs=1, learning_rate=0.5, momentum=0.9, weight_decay=0.1)
    expected = references.nesterov_descent(0.5, references.logistic_gradient, [*rates, *rates[-1:] * 2], 0.9, 0.1)
    assert model.w.item() == pytest.approx(expected, rel=1e-9)


def test_it_learns_and_reports_what_it_did() -> None:
    model, epochs, steps = net(), list[Epoch](), list[tuple[int, int]]()
    history = fine_tune(
        model, blobs(), blobs(), epochs=8, learning_rate=0.1, on_epoch=epochs.append, on_step=lambda *s: steps.append(s)
    )
    assert accuracy(model, blobs()) >= 0.95
    assert history.epochs == tuple(epochs)
    assert [e.number for e in epochs] == list(range(1, 9))
    assert epochs[-1].loss < epochs[0].loss / 2
    assert steps == [(i, 24) for i in range(1, 25)]
    assert history.recipe == Recipe(epochs=8, learning_rate=0.1)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images() -> None:
    model, batches = nn.Linear(2, 3), blobs(50)  # the last batch is half as large
    inputs, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    expected = functional.cross_entropy(model(inputs), labels).item()
    history = fine_tune(model, batches, learning_rate=1e-9)
    assert history.epochs[0].loss == pytest.approx(expected, rel=1e-5)


def test_the_best_epoch_stays_and_the_later_of_equals() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = [(inputs, torch.randint(0, 3, (20,), generator=generator)) for inputs, _ in blobs()]
    first, second, states = net(), net(), list[dict[str, Tensor]]()
    fine_tune(first, noise, epochs=6, learning_rate=0.5, on_epoch=lambda _: states.append(state(first)))
    first.load_state_dict(states[1])
    with torch.no_grad():
        answers = [(inputs, first.eval()(inputs).argmax(1)) for inputs, _ in noise]
    history = fine_tune(second, noise, answers, epochs=6, learning_rate=0.5)
    assert history.chosen == 2  # whose answers are the labels
    assert [e.accuracy for e in history.epochs].count(1.0) == 1
    assert same(second, states[1])
    halves = [(inputs, torch.zeros(20, dtype=torch.int64)) for inputs, _ in blobs()]
    constant = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    constant[1].requires_grad_(False).weight.zero_()
    assert fine_tune(constant, halves, halves, epochs=3).chosen == 3  # the same accuracy every time


def test_kernels_lie_as_they_did() -> None:
    images = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 10) for _ in range(2)]
    model, moved = digits_resnet(), digits_resnet().to(memory_format=torch.channels_last)
    moved.load_state_dict(model.state_dict())
    seen = list[bool]()

    def look(*_: object) -> None:
        kernels = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
        seen.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels))

    before = {id(model): [p.stride() for p in model.parameters()], id(moved): [p.stride() for p in moved.parameters()]}
    fine_tune(model, images, epochs=2, on_step=look)
    fine_tune(moved, images, epochs=2)
    assert seen == [True] * 4
    for network in (model, moved):
        assert [p.stride() for p in network.parameters()] == before[id(network)]
    for (name, value), other in zip(model.state_dict().items(), moved.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


class Flattening(nn.Module):
    """A network that reads its maps in their plain order, which no other layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 2), nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.head(maps.view(len(maps), -1))


def test_a_network_that_takes_no_other_layout_trains() -> None:
    images = [(torch.randn(6, 2, 4, 4), torch.arange(6) % 3)]
    assert len(fine_tune(Flattening(), images, epochs=2).epochs) == 2


def test_half_precision_learns_and_keeps_float32_weights() -> None:
    kinds = set[torch.dtype]()
    model = digits_resnet()
    model.conv1.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    images = [(torch.randn(20, 1, 8, 8), torch.arange(20) % 2)]
    history = fine_tune(model, images, epochs=12, learning_rate=0.1, precision="bfloat16")
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert torch.bfloat16 in kinds
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}


def test_without_validation_the_last_epoch_stays() -> None:
    model, seen = net(), list[dict[str, Tensor]]()
    history = fine_tune(model, blobs(), epochs=3, on_epoch=lambda _: seen.append(state(model)))
    assert (history.chosen, history.epochs[0].accuracy) == (3, None)
    assert same(model, seen[-1])


def test_the_seed_decides_and_the_world_outside_is_left_alone() -> None:
    data = TensorDataset(*(torch.cat(part) for part in zip(*blobs(), strict=True)))
    results = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        model = net()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        fine_tune(model, DataLoader(data, batch_size=16, shuffle=True), epochs=2, seed=seed, recalibrate=20)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(state(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert not torch.equal(results[0]["0.weight"], results[2]["0.weight"])


def test_modes_and_frozen_parameters_are_left_alone() -> None:
    model = net().eval()
    model[0].requires_grad_(False)
    model[3].train()
    first = model[0].weight.clone()
    with torch.no_grad():
        fine_tune(model, blobs(), epochs=1)
    assert torch.equal(model[0].weight, first)
    assert [m.training for m in model] == [False, False, False, True, False]
    assert bool(model[1].running_mean.any())  # though its batch norm was in eval mode before
    assert all(p.grad is None for p in model.parameters())


def test_batches_are_told_the_number_of_each_epoch() -> None:
    told = list[int]()

    class Told(list[Any]):
        def set_epoch(self, number: int) -> None:
            told.append(number)

    fine_tune(net(), Told(blobs()), epochs=3)
    assert told == [1, 2, 3]


def test_smoothing_and_clipping_change_the_step() -> None:
    def weights(**changes: Any) -> Tensor:
        model = net()
        fine_tune(model, blobs(), momentum=0.0, weight_decay=0.0, learning_rate=1.0, **changes)
        return model[4].weight.detach() - net()[4].weight.detach()

    assert not torch.equal(weights(), weights(label_smoothing=0.2))
    assert 0 < float(weights(clip_norm=1e-3).norm()) <= 3e-3 < float(weights().norm())


def test_no_epochs_train_nothing() -> None:
    model = net()
    before = state(model)
    history = fine_tune(model, blobs(), blobs(), epochs=0)
    assert (history.epochs, history.chosen) == ((), 0)
    assert same(model, before)


@pytest.mark.parametrize("kind", ["loss", "weight"])
def test_divergence_brings_back_the_last_good_state(kind: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    good: list[dict[str, Tensor]] = []

    def poison(epoch: Epoch) -> None:
        good.append(state(model))
        if epoch.number == 2:
            with torch.no_grad():
                model[0].weight[0] = torch.inf

    class Silent(nn.Sequential):
        """Hides weights that are not finite from the loss, and so from all but the check after the epoch."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.nan_to_num(super().forward(x), nan=0.0, posinf=1.0, neginf=0.0)

    if kind == "weight":
        model = Silent(nn.Linear(2, 3))
    words = r"the loss is (nan|inf) at step 7 of 12" if kind == "loss" else "a weight is not finite"
    with pytest.raises(DataError, match=words):
        fine_tune(model, blobs(), epochs=4, on_epoch=poison)
    assert len(good) == 2
    assert same(model, good[1])


def test_ctrl_c_leaves_the_best_state_by_then() -> None:
    model, good = net(), list[dict[str, Tensor]]()

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, blobs(), epochs=4, on_step=interrupt, on_epoch=lambda _: good.append(state(model)))
    assert same(model, good[0])
    assert model.training


def test_generators_of_devices_that_nobody_asked_for_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seeded = net(), list[int]()
    groups = channel_groups(model.eval(), blobs()[0][0])
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    fine_tune(model, blobs(), epochs=1)
    autoprune(model, groups, ParameterCost(model, groups), blobs(), epochs=1)
    assert not seeded
    torch.manual_seed(0)
    assert seeded == [0]


def test_the_digits_network_learns_the_digits() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    inputs, labels = inputs[order], torch.tensor(digits.target)[order]
    data = TensorDataset(inputs[:1200], labels[:1200])
    model = digits_resnet()
    fine_tune(model, DataLoader(data, batch_size=64, shuffle=True), epochs=3, learning_rate=0.05)
    assert accuracy(model, [(inputs[1200:], labels[1200:])]) > 0.97


class Normalised(nn.Module):
    """A network that normalises its images itself, in place or on a copy."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.net, self.in_place = net(), in_place

    def forward(self, x: Tensor) -> Any:
        return self.net((x if self.in_place else x.clone()).sub_(0.5).div_(3))


def test_a_network_may_work_in_place_on_its_images() -> None:
    trained = []
    for in_place in (True, False):
        model, train = Normalised(in_place=in_place), blobs()
        fine_tune(model, train, teacher=Normalised(in_place=in_place), distillation=0.5, epochs=2, learning_rate=0.1)
        assert all(torch.equal(images, before) for (images, _), (before, _) in zip(train, blobs(), strict=True))
        trained.append(state(model))
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
