"""The images that come by name: digits, CIFAR, and folders or archives with one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from secateur.errors import DataError
from secateur_cli.inputs.archive import ARCHIVE_SUFFIXES, is_archive, is_hidden, read_archive
from secateur_cli.inputs.epochs import generator, pick
from secateur_cli.inputs.images import Images, Photographs, Pixels, require
from secateur_cli.settings.config import DataConfig, resolve

DIGITS_HELD_OUT = 400
Listed = tuple[str, str, Path | bytes]


@dataclass(frozen=True)
class LabelledImages:
    """Training and held-out images of the same classes, not yet split further; labels are 0..len(class_names) - 1."""

    train: Images
    test: Images
    class_names: tuple[str, ...]


def read_images(config: DataConfig, *, folder: Path) -> LabelledImages:
    """Read the images of a named source.

    Raises:
        DataError: they are not where the configuration says, broken, none, of one class, or the held-out images are
            of other classes or the training images themselves.
        MissingDependencyError: the extra `vision` is not installed.
    """
    if config.source == "digits":
        return read_digits()
    if config.root is not None:
        return read_cifar(config.source, resolve(config.root, folder))
    if config.train is None or config.test is None:
        raise DataError(f"source {config.source!r} needs data.train and data.test")
    train, test = resolve(config.train, folder), resolve(config.test, folder)
    if train.resolve() == test.resolve():
        raise DataError(f"data.train and data.test are both {train}: held-out images must be others")
    return read_folders(train, test, size=config.image_size)


def read_digits() -> LabelledImages:
    """Read scikit-learn's 1,797 scanned digits, (N, 1, 8, 8) with values 0..16.

    The 400 held-out images are the same for every seed, so that a network trained under one seed is never judged
    under another on what it has learned.
    """
    digits = require("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(digits.images)[:, None].to(torch.uint8)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    whole = Pixels(pixels, labels, levels=16.0)
    held_out, rest = pick(labels, DIGITS_HELD_OUT, random=generator(0, "digits held out"))
    return LabelledImages(whole.subset(rest), whole.subset(held_out), tuple(str(digit) for digit in range(10)))


def read_cifar(source: str, root: Path) -> LabelledImages:
    """Read CIFAR-10 or CIFAR-100 as torchvision lays it out below `root`; nothing is downloaded."""
    datasets = require("torchvision.datasets")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source]
    try:
        train, test = kind(root, train=True, download=False), kind(root, train=False, download=False)
    except (RuntimeError, OSError) as error:
        root, reason = root.resolve(), f" ({error})" if isinstance(error, OSError) else ""
        raise DataError(
            f"no complete {source} in {root / kind.base_folder}{reason}; set data.root to the folder that holds "
            f"{kind.base_folder!r}, or fetch it with torchvision.datasets.{kind.__name__}({str(root)!r}, download=True)"
        ) from error
    pixels = [torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous() for images in (train, test)]
    return LabelledImages(
        Pixels(pixels[0], torch.tensor(train.targets)),
        Pixels(pixels[1], torch.tensor(test.targets)),
        tuple(train.classes),
    )


def read_folders(train: Path, test: Path, *, size: int) -> LabelledImages:
    """List the images of two folders or archives with one folder a class; classes are numbered by sorted name.

    The images are read at `size` pixels a side, in colour; see `Photographs`. Hidden ones are left out.
    """
    of_train, of_test = _list_images(train, "data.train"), _list_images(test, "data.test")
    class_names = tuple(sorted({of_class for of_class, _, _ in of_train}))
    if len(class_names) < 2:
        raise DataError(
            f"data.train: {train} has images of one class only, {class_names[0]!r}; at least two are needed"
        )
    if strange := sorted({of_class for of_class, _, _ in of_test} - set(class_names)):
        raise DataError(f"data.test: {test} has the class {strange[0]!r}, which {train} has not")
    number = {name: label for label, name in enumerate(class_names)}

    def photographs(images: list[Listed]) -> Photographs:
        labels = torch.tensor([number[of_class] for of_class, _, _ in images])
        return Photographs([source for _, _, source in images], [name for _, name, _ in images], labels, size)

    return LabelledImages(photographs(of_train), photographs(of_test), class_names)


def _list_images(path: Path, key: str) -> list[Listed]:
    """Return (class, name, file or its bytes) of each image."""
    images: list[Listed]
    if not path.exists():
        raise DataError(f"{key}: no folder or archive {path}; point {key} at yours, e.g. --set {key}=/path/to/images")
    if path.is_dir():
        folders = require("torchvision.datasets.folder")
        try:
            names = [name for name in folders.find_classes(str(path))[0] if not is_hidden(Path(name))]
            places = folders.make_dataset(path, {name: names.index(name) for name in names}, folders.IMG_EXTENSIONS)
        except (FileNotFoundError, ValueError) as error:
            raise DataError(f"{key}: {path} is not a folder with one folder of images a class: {error}") from error
        found = [(names[label], name, Path(name)) for name, label in places]
        images = [image for image in found if not is_hidden(image[2].relative_to(path))]
    elif is_archive(path):
        images = list(read_archive(path))
    else:
        endings = ", ".join(ARCHIVE_SUFFIXES)
        raise DataError(f"{key}: {path} is neither a folder nor an archive ({endings})")
    if not images:
        raise DataError(f"{key}: {path} holds no images; expected CLASS/NAME.jpg (or .png, ...)")
    return images
