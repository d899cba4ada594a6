"""The user's own data: the forms it may have, and every way in which it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from secateur.errors import ConfigError, DataError
from secateur_cli.inputs import sources
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.settings.schema import DataConfig
from splits_for_tests import gather, rows


def user_batches(
    count: int = 6, size: int = 4, *, shift: float = 0.0, labels: Any = None
) -> list[tuple[Tensor, Tensor]]:
    random = Generator().manual_seed(int(shift))
    marks = torch.arange(size) % 2 if labels is None else torch.as_tensor(labels)
    return [(torch.rand(size, 1, 5, 5, generator=random) + shift, marks) for _ in range(count)]


def load_returned(monkeypatch: pytest.MonkeyPatch, returned: Any, **settings: Any) -> Data:
    monkeypatch.setattr(sources, "import_path", lambda path, *, folder=None: lambda: returned)
    return load_data(DataConfig(source="my.data:load"), folder=Path(), seed=0, **settings)


@pytest.mark.parametrize("shape", ["mapping", "object", "tuple"])
def test_user_data_with_validation_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    train, validation, test = user_batches(), user_batches(2, shift=1), user_batches(3, shift=2)
    splits = {"train": train, "validation": validation, "test": test}
    returned = {"mapping": splits, "object": type("Mine", (), splits)(), "tuple": (train, validation, test)}[shape]
    data = load_returned(monkeypatch, returned)
    for name, given_batches in splits.items():
        assert torch.equal(gather(getattr(data, name))[0], gather(given_batches)[0])
    assert torch.equal(gather(data.calibration)[0], gather(train)[0])
    assert data.example.shape == (2, 1, 5, 5)
    assert data.classes is None


def test_numpy_may_count_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": user_batches(), "test": user_batches(shift=1), "classes": np.int64(2)}
    assert type(load_returned(monkeypatch, splits).classes) is int


def test_user_data_without_validation_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    train = user_batches(10)
    data = load_returned(monkeypatch, (train, user_batches(shift=2)))
    kept, aside = rows(data.train), rows(data.validation)
    assert len(aside) == 4
    assert sorted(kept + aside) == sorted(rows(train))


def test_user_data_is_limited_to_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {name: user_batches(shift=i) for i, name in enumerate(("train", "validation", "test"))}
    data = load_returned(monkeypatch, splits | {"classes": 2}, limit=6)
    assert [len(gather(s)[1]) for s in (data.train, data.calibration, data.validation, data.test)] == [6, 6, 6, 6]
    assert data.classes == 2


class Once:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        return user_batches(1)[0]


BAD_TRAIN: list[tuple[Any, str]] = [
    ([], "split 'train' is empty"),
    (user_batches(labels=[1, 1, 1, 1]), "split 'train' has images of one class only, 1"),
    ([(x * torch.nan, y) for x, y in user_batches()], "split 'train': a batch of inputs holds NaN"),
    (user_batches(labels=[0, -1, 1, 0]), "split 'train': labels must be 0..2; found -1"),
    (user_batches(labels=[0, 3, 1, 0]), "split 'train': labels must be 0..2; found 3"),
    (user_batches(labels=[0.0, 1.0, 1.0, 0.0]), r"split 'train': labels must be whole numbers \(N,\); found float32"),
    (user_batches(labels=[[0, 1]] * 4), r"labels must be whole numbers \(N,\); found int64 \(4, 2\)"),
    ([(x, y[:2]) for x, y in user_batches()], "holds 4 inputs but 2 labels"),
    ([x for x, _ in user_batches()], "it has no labels"),
    (
        [(x.flatten(1), y) for x, y in user_batches()],
        r"inputs must be floating \(N, C, H, W\); found float32 \(4, 25\)",
    ),
    ([((x * 255).to(torch.uint8), y) for x, y in user_batches()], "inputs must be floating .* found uint8"),
    ([{"image": 1}], "a batch must be a tensor of inputs or a pair"),
    (3, "train must yield batches .* found int"),
    (iter(user_batches()), "can be read only once; return a list or a DataLoader"),
    (Once(), "can be read only once"),
]


@pytest.mark.parametrize(("train", "message"), BAD_TRAIN)
def test_unusable_user_data(monkeypatch: pytest.MonkeyPatch, train: Any, message: str) -> None:
    splits = {"train": train, "validation": user_batches(), "test": user_batches(), "classes": 3}
    with pytest.raises(DataError, match=message):
        load_returned(monkeypatch, splits)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (user_batches(), r"returned a list; it must return a mapping or an object with train and test"),
        (None, "returned a NoneType"),
        ({"train": user_batches()}, "returned no test"),
        ({"train": user_batches(), "test": None}, "returned no test"),
        ({"train": user_batches(), "tset": user_batches()}, "unknown split 'tset'; did you mean 'test'?"),
        ({"train": user_batches(), "test": user_batches(), "classes": "ten"}, "classes must be a whole number"),
    ],
)
def test_unusable_return_values(monkeypatch: pytest.MonkeyPatch, returned: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_returned(monkeypatch, returned)


def test_calibration_without_validation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = {"train": user_batches(), "calibration": user_batches(shift=1), "test": user_batches(shift=2)}
    with pytest.raises(DataError, match=r"'my\.data:load' returned calibration without validation, .* validation too"):
        load_returned(monkeypatch, returned)
    data = load_returned(monkeypatch, returned | {"validation": user_batches(shift=3)})
    assert rows(data.calibration) == rows(returned["calibration"])


class Marked(TensorDataset):
    def __init__(self) -> None:
        super().__init__(*(torch.cat(part) for part in zip(*user_batches(), strict=True)))


def test_held_out_images_that_are_trained_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, images = user_batches(), Marked()
    whole, shuffled = DataLoader(images, batch_size=4), DataLoader(images, batch_size=4, shuffle=True)
    for one, other in ((batches, batches), (whole, whole), (shuffled, whole)):
        with pytest.raises(DataError, match=r"'my\.data:load': test and train are the same; held-out images"):
            load_returned(monkeypatch, (one, other))
        splits = {"train": user_batches(shift=1), "validation": user_batches(shift=2), "calibration": one}
        with pytest.raises(DataError, match="test and calibration are the same"):
            load_returned(monkeypatch, splits | {"test": other})
        chosen = {"train": user_batches(shift=1), "validation": one, "test": other}
        with pytest.raises(DataError, match=r"test and validation are the same; .* choose epochs"):
            load_returned(monkeypatch, chosen)


def test_two_parts_of_one_dataset_are_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Marked()
    halves = [list(range(12)), list(range(12, 24))]
    subsets = [DataLoader(Subset(images, half), batch_size=4) for half in halves]
    sampled = [DataLoader(images, batch_size=4, sampler=SubsetRandomSampler(half)) for half in halves]
    batched = [DataLoader(images, batch_sampler=[half[:6], half[6:]]) for half in halves]
    for train, test in (subsets, sampled, batched):
        assert len(rows(load_returned(monkeypatch, (train, test)).test)) == 12


def test_later_batches_are_checked_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [(x[:, :, :4], y) for x, y in user_batches(1)]
    data = load_returned(monkeypatch, (user_batches(2) + small, user_batches(), user_batches()))
    with pytest.raises(DataError, match=r"split 'train': the inputs differ in size: \(1, 5, 5\) and then \(1, 4, 5\)"):
        list(data.train)


def test_labels_beyond_the_outputs_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_returned(monkeypatch, (user_batches(), user_batches(), user_batches(labels=[0, 1, 2, 3])))
    assert data.for_outputs(4).test is not data.test
    with pytest.raises(DataError, match=r"split 'test': labels must be 0\.\.2; found 3"):
        data.for_outputs(3)


def test_wrong_import_path_of_data() -> None:
    with pytest.raises(ConfigError, match="no module 'secateur_test_nowhere'"):
        load_data(DataConfig(source="secateur_test_nowhere:load"), folder=Path(), seed=0)
