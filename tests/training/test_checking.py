"""What is wrong with a recipe, a network or its data is found before the first step; what has no length is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from secateur.errors import ConfigError, DataError, NetworkError
from secateur.training import fine_tune
from training_for_tests import blobs, net, same, state


def test_a_single_image_is_left_out_and_loaders_without_length_are_counted() -> None:
    class Stream:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield from [*blobs(), (torch.zeros(1, 2), torch.tensor([0]))]

    steps: list[tuple[int, int]] = []
    fine_tune(net(), Stream(), epochs=2, on_step=lambda *s: steps.append(s))
    assert steps[-1] == (8, 8)


def test_bad_data_is_refused_before_the_first_step() -> None:
    bad = [*blobs(), (torch.zeros(2, 2), torch.tensor([0, 3]))]
    cases: list[tuple[Any, str]] = [
        (bad, r"0\.\.2, the outputs of the network; found 0\.\.3"),
        ([], "empty"),
        ([torch.zeros(2, 2)], "without labels"),
        ([(torch.full((2, 2), torch.nan), torch.tensor([0, 1]))], "NaN"),
        ((batch for batch in blobs()), "not a generator"),
        ([(torch.zeros(1, 2), torch.tensor([0]))], "at least two"),
    ]
    for train, words in cases:
        model = net()
        before = state(model)
        with pytest.raises(DataError, match=words):
            fine_tune(model, train)
        assert same(model, before)
        assert model.training
    with pytest.raises(DataError):
        fine_tune(net(), bad, on_step=lambda *_: pytest.fail("a step was taken"))


def test_labels_that_turn_bad_later_in_a_stream_undo_the_epoch() -> None:
    data = TensorDataset(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 3]))
    model = net()
    before = state(model)
    with pytest.raises(DataError, match=r"found 1\.\.3"):
        fine_tune(model, DataLoader(data, batch_size=2))
    assert same(model, before)


def test_a_network_without_gradients_is_refused() -> None:
    with pytest.raises(NetworkError, match="nothing to train"):
        fine_tune(net().requires_grad_(False), blobs())


class Auxiliary(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        return {"out": super().forward(x), "aux": x} if self.training else super().forward(x)


def test_a_network_with_auxiliary_outputs_is_refused_and_stays_as_it_was() -> None:
    model = Auxiliary(*net())
    before = state(model)
    with pytest.raises(NetworkError, match="must give one tensor of logits; it gives dict"):
        fine_tune(model, blobs())
    assert same(model, before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": -1}, "epochs must be a whole number >= 0; found -1"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": 2.0}, "found 2.0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number > 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"warmup_epochs": 2}, r"warmup_epochs must be in 0\.\.1, the epochs"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"learning_rat": 0.1}, "unknown number 'learning_rat' of a recipe; known: epochs, learning_rate"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fine_tune(net(), blobs(), **changes)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Images one by one, how many only the end tells."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        (inputs, labels), *_ = blobs()
        return iter(list(zip(inputs, labels, strict=True)))


def test_batches_of_an_unknown_number_are_counted() -> None:
    model = net()
    history = fine_tune(model, DataLoader(Stream(), batch_size=8), epochs=1, learning_rate=0.01)
    assert len(history.epochs) == 1


def test_training_under_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"torch\.inference_mode has none: call it outside"):
        fine_tune(net(), blobs())
