"""The four splits of the digits and of CIFAR: sizes, order, what decides them, and what cannot be used."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secateur.errors import DataError, MissingDependencyError
from secateur_cli.inputs.readers import read_cifar
from secateur_cli.settings.schema import DataConfig
from splits_for_tests import HERE, gather, load, rows


def test_digits_sizes_and_range() -> None:
    data = load(DataConfig(source="digits", validation_share=200 / 1397))
    assert data.describe["images"] == {"train": 1197, "calibration": 1197, "validation": 200, "test": 400}
    assert (data.classes, data.example.shape) == (10, (2, 1, 8, 8))
    for split in (data.train, data.calibration, data.validation, data.test):
        inputs, labels = gather(split)
        assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert 0 <= inputs.min() < inputs.max() <= 1
        assert labels.bincount().min() > 0


def test_no_image_is_in_two_splits_and_none_is_lost() -> None:
    data = load(DataConfig(source="digits"))
    train, validation, test = (rows(split) for split in (data.calibration, data.validation, data.test))
    assert len(train) + len(validation) + len(test) == 1797
    assert len({*train, *validation, *test}) == 1797  # the digits hold no duplicates


def test_digits_held_out_are_the_same_for_every_seed_but_validation_is_not() -> None:
    first, second = load(DataConfig(source="digits")), load(DataConfig(source="digits"), seed=1)
    assert set(rows(first.test)) == set(rows(second.test))
    assert set(rows(first.validation)) != set(rows(second.validation))


def test_a_seed_decides_everything() -> None:
    config = DataConfig(source="digits")
    one, same, other = load(config, seed=3), load(config, seed=3), load(config, seed=4)
    for name in ("train", "train", "calibration", "validation", "test"):  # train twice: the second epoch too
        first, second, third = (rows(getattr(data, name)) for data in (one, same, other))
        assert first == second
        assert first != third


def test_global_random_numbers_neither_matter_nor_move() -> None:
    config = DataConfig(source="digits")
    before = torch.get_rng_state()
    first = rows(load(config).train)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert rows(load(config).train) == first


def test_epochs_differ_and_fresh_starts_again() -> None:
    train = load(DataConfig(source="digits")).train
    first, second = rows(train), rows(train)
    assert first != second
    assert sorted(first) == sorted(second)
    assert rows(train.fresh()) == first
    calibration = load(DataConfig(source="digits")).calibration
    assert rows(calibration) == rows(calibration)
    assert sorted(rows(calibration)) == sorted(first)


def test_limit_keeps_the_classes_in_proportion() -> None:
    data = load(DataConfig(source="digits", limit=100), limit=40)
    assert set(data.describe["images"].values()) == {40}
    for split in (data.train, data.validation, data.test):
        assert gather(split)[1].bincount().tolist() == pytest.approx([4] * 10, abs=1)
    assert set(rows(data.train)).isdisjoint(rows(data.validation))


def test_wrong_number_of_channels_in_mean() -> None:
    with pytest.raises(DataError, match="have 3 numbers, but the images have 1 channels"):
        load(DataConfig(source="digits", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def test_missing_cifar_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no complete cifar10 in .*cifar-10-batches-py; set data\.root"):
        load(DataConfig(source="cifar10", root=tmp_path))
    with pytest.raises(DataError, match="cifar-100-python"):
        load(DataConfig(source="cifar100", root=tmp_path))


def test_cifar_as_torchvision_lays_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    pixels = np.arange(6 * 3072).reshape(6, 3072) % 251
    train = write("train", {"data": pixels.astype(np.uint8), "labels": [0, 1, 2, 0, 1, 2]})
    test = write("test", {"data": pixels[:2].astype(np.uint8) + 3, "labels": [9, 8]})
    name, digest = write("meta", {"label_names": [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", [train])
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    images = read_cifar("cifar10", tmp_path)
    assert images.class_names[9] == "class 9"
    assert images.test.labels.tolist() == [9, 8]
    raw = (images.train.read(torch.arange(6)) * 255).round().long()
    assert torch.equal(raw, torch.from_numpy(pixels).reshape(6, 3, 32, 32))


@pytest.mark.parametrize(("source", "module"), [("digits", "sklearn.datasets"), ("cifar10", "torchvision.datasets")])
def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch, source: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    root = {} if source == "digits" else {"root": HERE}
    with pytest.raises(MissingDependencyError, match=r'pip install "secateur\[vision\]"'):
        load(DataConfig(source=source, **root))


def test_more_classes_than_outputs() -> None:
    digits = load(DataConfig(source="digits"))
    assert rows(digits.for_outputs(10).test) == rows(digits.test)
    with pytest.raises(DataError, match="the data has 10 classes but the network only 9 outputs"):
        digits.for_outputs(9)
