"""What benchmarks share: a trained ResNet-56 (ResNet-20 to smoke), CIFAR-10 as JPEG, the channels inside the blocks."""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import secateur
from secateur.channel_map import with_channel_maps
from secateur.networks import resnet20, resnet56
from secateur.records import ChannelGroups
from secateur.weights import load_weights
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.settings.schema import DataConfig

CHUNK = {"cpu": 32}  # images run at a time, where a processor's cache holds their feature maps; elsewhere a batch
BATCH = 250
SHARED = Path(__file__).resolve().parents[3] / "shared"
WEIGHTS, TRAIN, TEST = "models/resnet56-cifar10-jpeg.safetensors", "cifar10-jpeg-train", "cifar10-jpeg-val"
SMALL_WEIGHTS, SMALL_LIMIT = "models/resnet20-cifar10.safetensors", 32  # of a smoke run


class Setting(NamedTuple):
    """The dense network, the channel groups inside its blocks, and the images."""

    network: nn.Module
    groups: ChannelGroups
    data: Data

    @property
    def name(self) -> str:
        """The name of the ResNet: two layers in each block, a stem and a head."""
        return f"resnet{2 * len(self.groups) + 2}"

    @property
    def cost(self) -> secateur.MacsCost:
        return secateur.MacsCost(self.network, self.data.example.to(self.device), self.groups)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def accuracy(self, model: nn.Module) -> float:
        """Return the percentage of the held-out images that `model` answers rightly."""
        quick = copy.deepcopy(model).to(memory_format=torch.channels_last)
        size = CHUNK.get(self.device.type, BATCH)
        parts = (zip(inputs.split(size), labels.split(size), strict=True) for inputs, labels in self.data.test)
        return 100 * secateur.accuracy(quick, itertools.chain.from_iterable(parts))


def add_arguments(parser: argparse.ArgumentParser, *, threads: int | None = os.cpu_count()) -> None:
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder with models/ and data/")


def load(given: argparse.Namespace, *, seed: int = 0, limit: int | None = None, batch_size: int = BATCH) -> Setting:
    """Return the setting, at most `limit` images of a split; to smoke a small one. End where the files are missing."""
    torch.set_num_threads(given.threads)
    torch.backends.cudnn.allow_tf32 = False  # as exact as on a processor
    weights = SMALL_WEIGHTS if given.smoke else WEIGHTS
    needed = [given.shared / weights, *(given.shared / "data" / f"{name}.tar.gz" for name in (TRAIN, TEST))]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        sys.exit(f"needs {' and '.join(missing)}; --shared names another folder")
    paths = {"train": needed[1], "test": needed[2]}
    config = DataConfig(source="image-folder", image_size=32, batch_size=batch_size, **paths)
    data = load_data(config, folder=Path(), seed=seed, limit=SMALL_LIMIT if given.smoke else limit)
    network = (resnet20 if given.smoke else resnet56)().eval()
    load_weights(network, needed[0])
    network = with_channel_maps(network, data.example)
    groups = secateur.channel_groups(network, data.example, residual="skip")
    return Setting(network.to(given.device), groups, data)
