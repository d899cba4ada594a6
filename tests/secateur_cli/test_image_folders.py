"""Folders and archives of images: what they hold, how they are read, and what cannot be used."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from images_for_tests import encoded, some_images, store
from secateur.errors import DataError
from secateur_cli.inputs.data import load_data
from secateur_cli.inputs.images import Pixels
from secateur_cli.inputs.readers import read_folders
from secateur_cli.settings.schema import DataConfig
from splits_for_tests import gather, load, rows


def folder_config(tmp_path: Path, train: dict[str, bytes], test: dict[str, bytes] | None = None) -> DataConfig:
    paths = {"train": train, "test": some_images(2) if test is None else test}
    where = {name: store(tmp_path / name, images) for name, images in paths.items()}
    return DataConfig(source="image-folder", image_size=16, **where)


def test_augmentation_is_for_training_only(tmp_path: Path) -> None:
    config = folder_config(tmp_path, some_images())
    augmented, plain = load(config), load(config.model_copy(update={"augment": False}))
    assert rows(augmented.calibration) == rows(plain.calibration)
    assert sorted(rows(plain.train)) == sorted(rows(plain.calibration))
    assert len(set(rows(augmented.train)) - set(rows(plain.train))) > 9  # of 18; one in 162 stays where it was
    assert rows(load(config).train) == rows(augmented.train.fresh())


@pytest.mark.parametrize("kind", ["folder", "gztar", "zip"])
def test_folders_and_archives_hold_the_same(tmp_path: Path, kind: str) -> None:
    train, test = some_images(10), some_images(3, classes=("dog",))
    names = ("cat/.ipynb_checkpoints/0.png", "dog/._0.png", ".rest/0.png", ".DS_Store_of/notes.txt")
    hidden = {f"set/{name}": b"no" for name in names}
    config = DataConfig(
        source="image-folder",
        train=store(tmp_path / "train", train | hidden, kind=kind),
        test=store(tmp_path / "test", test, kind=kind),
        image_size=16,
    )
    data = load(config)
    assert data.describe["class_names"] == ["cat", "dog"]
    assert data.describe["images"] == {"train": 18, "calibration": 18, "validation": 2, "test": 3}
    assert gather(data.test)[1].tolist() == [1, 1, 1]  # numbered by the training classes
    expected = {torch.tensor(list(Image.open(io.BytesIO(b)).tobytes())).reshape(16, 16, 3) for b in test.values()}
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    for image in gather(data.test)[0]:
        raw = ((image.permute(1, 2, 0) * std + mean) * 255).round().long()
        assert any(torch.equal(raw, e) for e in expected)


def test_large_images_are_decoded_on_access_and_augmented_by_the_seed(tmp_path: Path) -> None:
    train, test = (store(tmp_path / name, some_images(4, (90, 80))) for name in ("train", "test"))
    config = DataConfig(source="image-folder", train=train, test=test, image_size=72)
    data = load(config)
    before = torch.get_rng_state()
    first, second = rows(data.train), rows(data.train)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(first).isdisjoint(second)
    assert rows(load(config).train) == first
    assert rows(data.calibration) == rows(data.calibration)
    assert data.example.shape == (2, 3, 72, 72)


@pytest.mark.thorough
def test_shared_archives(shared: Path) -> None:
    train, test = shared / "data" / "cifar10-jpeg-train.tar.gz", shared / "data" / "cifar10-jpeg-val.tar.gz"
    if not train.is_file() or not test.is_file():
        pytest.skip(f"no CIFAR-10 archives in {train.parent}")
    images = read_folders(train, test, size=32)
    assert (len(images.train), len(images.test), len(images.class_names)) == (50_000, 5_000, 10)
    assert images.train.labels.bincount().tolist() == [5000] * 10
    assert images.test.labels.bincount().tolist() == [500] * 10
    few = images.train.subset(torch.arange(0, 50_000, 5_000)).kept()
    assert isinstance(few, Pixels)
    assert (few.pixels.shape, few.pixels.dtype) == ((10, 3, 32, 32), torch.uint8)


def test_missing_images_say_how_to_point_elsewhere(tmp_path: Path) -> None:
    config = DataConfig(source="image-folder", train=Path("absent/train"), test=Path("absent/test"))
    with pytest.raises(DataError, match=r"no folder or archive .*absent/train; .*--set data\.train="):
        load_data(config, folder=tmp_path, seed=0)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, None, r"data\.train: .*train\.tar holds no images; expected CLASS/NAME\.jpg"),
        ({"set/cat/x.txt": b""}, None, "holds no images"),
        (some_images(4, classes=("cat",)), None, "images of one class only, 'cat'; at least two are needed"),
        (some_images(4), some_images(1, classes=("cow",)), r"has the class 'cow', which .*train\.tar has not"),
        (some_images(4) | {"set/cat/0.png": b"not an image"}, None, r"image set/cat/0\.png cannot be decoded"),
        (some_images(4) | {"set/cat/0.png": encoded((16, 16), (9, 9, 9), noise=1)[:300]}, None, "cannot be decoded"),
    ],
)
def test_unusable_archives(
    tmp_path: Path, train: dict[str, bytes], test: dict[str, bytes] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(folder_config(tmp_path, train, test))


def test_unusable_folders(tmp_path: Path) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file.txt"
    empty.mkdir()
    file.write_text("")
    for path, message in [
        (empty, "is not a folder with one folder of images a class"),
        (file, "neither a folder nor an"),
    ]:
        with pytest.raises(DataError, match=message):
            load(DataConfig(source="image-folder", train=path, test=tmp_path / "other"))
    with pytest.raises(DataError, match="held-out images must be others"):
        load(DataConfig(source="image-folder", train=empty, test=empty))
