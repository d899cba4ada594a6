"""Folders of small images, written on the spot, or of few that are there."""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def folder_of_images(folder: Path, *, each: int, seed: int) -> Path:
    """Write `each` noisy PNG images of two colours, one folder a class."""
    random = np.random.default_rng(seed)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(random.normal(colour, 40, size=(72, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def folder_of_few_images(folder: Path, shared: Path) -> Path:
    """Fill and return a folder as `shared` is, of whose 55,000 images the 5,000 held out are there: quicker to list."""
    (folder / "models").symlink_to(shared / "models")
    (folder / "data").mkdir()
    with contextlib.ExitStack() as files:
        images = files.enter_context(tarfile.open(shared / "data/cifar10-jpeg-val.tar.gz"))
        train, test = (
            files.enter_context(tarfile.open(folder / f"data/cifar10-jpeg-{part}.tar.gz", "w:gz", compresslevel=1))
            for part in ("train", "val")
        )
        for number, image in enumerate(member for member in images if member.isfile()):
            (train if number % 5 else test).addfile(image, images.extractfile(image))
    return folder
