"""Batches as users have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.batches import opened, rebatch, unpack
from secateur.errors import DataError


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("text", "found str"),
        ([], "found list"),
        ({"image": torch.ones(2, 1)}, "found dict"),
        ((np.ones((2, 1)), np.zeros(2)), r"found tuple of ndarray of shape \(2, 1\), ndarray of shape \(2,\)"),
        (((torch.ones(2, 1), torch.ones(2, 1)), torch.zeros(2)), "found tuple of tuple of Tensor of shape"),
        (torch.tensor(1.0), "put a DataLoader around them"),
        ((torch.ones(3, 4, 4), 5), r"found tuple of Tensor of shape \(3, 4, 4\), int, as data sets give single images"),
        ((torch.ones(2, 1), ["cat", "dog"]), "labels must be numbers, one for each input; found list of str, str"),
        (torch.tensor([[1.0, torch.nan]]), "NaN"),
        ((torch.ones(2, 1), torch.zeros(3)), "2 inputs but 3 labels"),
    ],
)
def test_what_is_no_batch_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        unpack(batch)


@pytest.mark.parametrize("batches", [torch.zeros(4, 3, 8, 8), np.zeros((4, 3, 8, 8)), None, 3, "images", {"train": []}])
def test_what_is_no_list_of_batches_is_refused(batches: Any) -> None:
    with pytest.raises(DataError, match=f"batches must be a list of batches.*found a {type(batches).__name__}"):
        opened(batches)


def test_a_data_set_in_place_of_its_loader_is_refused() -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4))
    with pytest.raises(DataError, match="put a DataLoader around them"):
        list(rebatch(data, None))


def test_labels_may_be_missing_or_plain_numbers() -> None:
    assert unpack(torch.ones(2, 1))[1] is None
    labels = unpack([torch.ones(2, 1), [0, 1]])[1]
    assert labels is not None
    assert labels.tolist() == [0, 1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 7), st.one_of(st.none(), st.integers(1, 30)))
def test_rebatching_keeps_order_and_size(sizes: list[int], size: int, samples: int | None) -> None:
    total = sum(sizes)
    numbers = torch.arange(float(total))
    batches = [(part[:, None], part.long()) for part in numbers.split(sizes)]
    given_ = list(rebatch(batches, size, samples=samples))
    usable = min(total, samples or total)
    expected = max(usable // size * size, 0) or usable
    assert torch.cat([inputs for inputs, _ in given_])[:, 0].tolist() == numbers[:expected].tolist()
    assert all(torch.equal(inputs[:, 0].long(), labels) for inputs, labels in given_)
    assert all(len(inputs) == size for inputs, _ in given_) or expected < size


def test_rebatching_copies_each_input_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copied, join = [], torch.cat

    def counted(tensors: list[torch.Tensor]) -> torch.Tensor:
        copied.append(sum(map(len, tensors)))
        return join(tensors)

    monkeypatch.setattr(torch, "cat", counted)
    assert len(list(rebatch([torch.zeros(600, 1), torch.zeros(400, 1)], 10))) == 100
    assert sum(copied) == 1000


def test_without_a_size_batches_stay_and_the_last_is_cut() -> None:
    batches = [torch.zeros(4, 1), torch.zeros(4, 1)]
    assert [len(inputs) for inputs, _ in rebatch(batches, None, samples=6)] == [4, 2]
    assert [len(inputs) for inputs, _ in rebatch(batches, None)] == [4, 4]
    assert list(rebatch([], 3)) == []
    assert [len(inputs) for inputs, _ in rebatch([torch.zeros(0, 2), *batches], None)] == [4, 4]


def test_no_batch_is_read_beyond_the_samples() -> None:
    read: list[int] = []

    def batches() -> Any:
        for number in range(5):
            read.append(number)
            yield torch.zeros(4, 1)

    assert sum(len(inputs) for inputs, _ in rebatch(batches(), 4, samples=8)) == 8
    assert read == [0, 1]


@pytest.mark.parametrize("size", [None, 2, 5])
def test_inputs_of_different_sizes_are_refused(size: int | None) -> None:
    with pytest.raises(DataError, match=r"differ in size: \(1, 4, 4\) and then \(1, 5, 4\)"):
        list(rebatch([torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 5, 4)], size))


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool, torch.int64])
def test_classes_are_int64_whatever_they_come_as(kind: torch.dtype) -> None:
    _, labels = unpack((torch.ones(2, 1), torch.tensor([0, 1], dtype=kind)))
    assert labels is not None
    assert labels.dtype == torch.int64


def test_labels_that_are_no_classes_stay_as_they_are() -> None:
    for labels in (torch.tensor([0.5, 1.0]), torch.eye(2), torch.eye(2, dtype=torch.int32)):
        assert unpack((torch.ones(2, 1), labels))[1] is labels


def test_batches_with_and_without_labels_are_not_put_together() -> None:
    images, labels = torch.zeros(4, 1), torch.arange(4)
    for batches in ([images[:2], (images, labels)], [(images[:2], labels[:2]), images]):
        with pytest.raises(DataError, match="some batches hold labels and others do not"):
            list(rebatch(batches, 4))
