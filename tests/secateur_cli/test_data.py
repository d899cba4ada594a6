"""The four splits of the sources that come by name: sizes, order, what decides them, and what cannot be used."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from secateur.errors import DataError, MissingDependencyError
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.images import Photographs, Pixels
from secateur_cli.inputs.readers import read_cifar, read_folders
from secateur_cli.settings.schema import DataConfig

HERE = Path()


def load(config: DataConfig, seed: int = 0, **settings: Any) -> Data:
    return load_data(config, folder=HERE, seed=seed, **settings)


def gather(split: Any) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*split, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def rows(split: Any) -> list[bytes]:
    return [image.numpy().tobytes() for image in gather(split)[0]]


def encoded(size: tuple[int, int], color: tuple[int, int, int], *, noise: int | None = None) -> bytes:
    image = Image.new("RGB", size, color)
    if noise is not None:
        pixels = torch.randint(256, (size[1], size[0], 3), generator=Generator().manual_seed(noise), dtype=torch.uint8)
        image = Image.fromarray(pixels.numpy())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def some_images(
    count: int = 10, size: tuple[int, int] = (16, 16), classes: tuple[str, ...] = ("cat", "dog")
) -> dict[str, bytes]:
    return {
        f"set/{c}/{i}.png": encoded(size, (0, 0, 0), noise=100 * k + i)
        for k, c in enumerate(classes)
        for i in range(count)
    }


def store(folder: Path, images: dict[str, bytes], *, kind: str = "tar") -> Path:
    """Write images as a folder, or as an archive beside it: kind is folder, tar, gztar or zip."""
    (folder / "set").mkdir(parents=True)
    for name, data in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    if kind == "folder":
        return folder / "set"
    return Path(shutil.make_archive(str(folder), kind, root_dir=folder, base_dir="set"))


def folder_config(tmp_path: Path, train: dict[str, bytes], test: dict[str, bytes] | None = None) -> DataConfig:
    paths = {"train": train, "test": some_images(2) if test is None else test}
    where = {name: store(tmp_path / name, images) for name, images in paths.items()}
    return DataConfig(source="image-folder", image_size=16, **where)


# --- digits


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


# --- folders and archives


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


def test_photographs_are_resized_as_for_imagenet(tmp_path: Path) -> None:
    from torchvision import transforms

    wide = encoded((180, 120), (0, 0, 0), noise=1)
    photographs = Photographs([wide], ["wide.png"], torch.tensor([0]), 70)
    rule = transforms.Compose([transforms.Resize(80), transforms.CenterCrop(70), transforms.ToTensor()])
    assert torch.equal(photographs.read(torch.tensor([0]))[0], rule(Image.open(io.BytesIO(wide)).convert("RGB")))
    assert photographs.kept() is photographs


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


def saved(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


RAMP = np.arange(2**16, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        (saved(RAMP, "PNG"), "I;16"),
        (saved(RAMP, "TIFF"), "I;16"),
        (saved(RAMP.astype(">u2"), "TIFF"), "I;16B"),
        (saved(RAMP, "PPM"), "I"),
    ],
)
def test_grey_of_16_bits_is_scaled(source: bytes, mode: str) -> None:
    assert Image.open(io.BytesIO(source)).mode == mode
    photographs = Photographs([source], ["ramp"], torch.zeros(1), 256)
    expected = torch.tensor([round(level / 257) for level in range(2**16)]).reshape(256, 256)
    assert torch.equal(photographs.decode(torch.tensor([0]))[0].long(), expected.expand(3, 256, 256))
    augmented = photographs.read(torch.tensor([0]), augment=Generator().manual_seed(0))
    assert 0.2 < float(augmented.mean()) < 0.8


def test_grey_of_12_bits_is_scaled() -> None:
    pixels = int("".join(f"{level:012b}" for level in range(2**12)), 2).to_bytes(6144, "big")
    tags = [(256, 64), (257, 64), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 64), (279, 6144)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    source = struct.pack("<2sHI", b"II", 42, 8 + 6144) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)
    found = Photographs([source], ["ramp"], torch.zeros(1), 64).decode(torch.tensor([0]))[0].long()
    expected = torch.tensor([round(level * 255 / 4095) for level in range(2**12)]).reshape(64, 64)
    assert torch.equal(found, expected.expand(3, 64, 64))


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_numbers_without_a_white_are_refused(kind: Any, mode: str) -> None:
    source = saved(np.full((16, 16), 70_000, dtype=kind), "TIFF")
    photographs = Photographs([source], ["cat/0.tiff"], torch.zeros(1), 16)
    message = rf"image cat/0\.tiff cannot be decoded: its mode is {mode} .*; allowed are 8 bits a channel, and grey of "
    with pytest.raises(DataError, match=message):
        photographs.read(torch.tensor([0]))
    with pytest.raises(DataError, match=message):
        photographs.read(torch.tensor([0]), augment=Generator())


@pytest.mark.parametrize("threads", [1, 3])
def test_photographs_are_augmented_as_torchvision_does_it_whatever_the_threads(threads: int) -> None:
    from torchvision import transforms

    sources = [encoded((150 + 9 * k, 120), (0, 0, 0), noise=k) for k in range(6)]
    photographs = Photographs(sources, [f"{k}.png" for k in range(6)], torch.zeros(6), 70)
    rule = transforms.Compose(
        [transforms.RandomResizedCrop(70), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(5))))
    expected = [rule(Image.open(io.BytesIO(source)).convert("RGB")) for source in sources]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = photographs.read(torch.arange(6), augment=torch.Generator().manual_seed(5))
        broken = replace(photographs, sources=[*sources[:5], b"no image"])
        with pytest.raises(DataError, match=r"image 5\.png cannot be decoded"):
            broken.read(torch.arange(6), augment=torch.Generator())
        with pytest.raises(DataError, match=r"image 5\.png cannot be decoded"):
            broken.decode(torch.arange(6))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, torch.stack(expected) / 255.0)


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
