"""Data that come by name, and what one of their splits holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur_cli.inputs.data import Data, load_data
from secateur_cli.settings.schema import DataConfig

HERE = Path()


def load(config: DataConfig, seed: int = 0, **settings: Any) -> Data:
    """Return the splits of a source whose configuration says where everything is."""
    return load_data(config, folder=HERE, seed=seed, **settings)


def gather(split: Any) -> tuple[Tensor, Tensor]:
    """Return all images and labels of a split, in its order."""
    inputs, labels = zip(*split, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def rows(split: Any) -> list[bytes]:
    """Return the bytes of each image, so that images can be counted and found."""
    return [image.numpy().tobytes() for image in gather(split)[0]]
