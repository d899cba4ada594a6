"""Folders of small images, written on the spot."""

from __future__ import annotations

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
