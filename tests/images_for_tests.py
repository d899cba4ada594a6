"""Small images as files, folders and archives, written on the spot; and folders of few that are there."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator


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


def encoded(size: tuple[int, int], color: tuple[int, int, int], *, noise: int | None = None) -> bytes:
    """Return a PNG image of one colour, or of noise."""
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
    """Return noisy PNG images, so many a class: where each belongs -> what its file holds."""
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
