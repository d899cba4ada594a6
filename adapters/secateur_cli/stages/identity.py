"""Which network, which images and which settings measurements are of, so that none is gone on with as another's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from secateur.batches import rebatch
from secateur.errors import ConfigError
from secateur.files import write_json
from secateur.fingerprints import operations_of, weights_hash
from secateur.journal import digest_of_batches, identify
from secateur.records import ChannelGroups
from secateur_cli.inputs.data import Data, Split
from secateur_cli.inputs.epochs import Epochs, seed_everything
from secateur_cli.workspace import others

DIGESTED = 1000  # images of each split that tell the data from other data
NETWORK = "network.json"
"""The file that says which network a folder is of, where no run.json does."""


def identity_of(
    model: nn.Module, groups: ChannelGroups, data: Data, *, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what makes measurements those of the same network, images and settings, for `Journal.open`.

    Args:
        model: the dense network, trained.
        groups: its channel groups.
        data: of which the held-out images and those that are scored are looked at, the first of each.
        seed: of everything random; also begun from here, since users' data may draw its order.
        settings: what else decides the measurements, see `RunConfig.deciding`.

    Cost: reads 1,000 images of each of the two.
    """
    seed_everything(seed)
    read = (batch for split in (data.test, data.calibration) for batch in rebatch(split, None, samples=DIGESTED))
    return identify(model, groups, read, seed=seed, settings=settings)


def images_of(data: Data, *, seed: int) -> dict[str, str]:
    """Return a short hash of the images and labels that a run is made of, for `Workspace.open`.

    Args:
        data: of which the held-out images and those that are scored are looked at, the first of each.
        seed: as for `identity_of`: augmentations that draw from torch, numpy or Python begin from it.

    Returns: what the images are called -> their hash. Users' batches that give others when they are read again are left
        out: they cannot be told from other images.

    Raises:
        DataError: a batch cannot be used.

    Cost: reads 1,000 images of each of the two, users' batches twice.
    """

    def digest(split: Split) -> str:
        seed_everything(seed)
        return digest_of_batches(rebatch(split, None, samples=DIGESTED))

    splits = {"held-out": data.test, "training": data.calibration}
    found = {name: digest(split) for name, split in splits.items()}
    return {
        name: found[name] for name, split in splits.items() if isinstance(split, Epochs) or digest(split) == found[name]
    }


def weights_of_builder(model: nn.Module, build: Callable[[], nn.Module], *, seed: int) -> dict[str, str]:
    """Return a short hash of the weights that a network was built with, by what they are called, for `Workspace.open`.

    Args:
        model: as it was built, when the generators had just begun from the seed.
        build: builds it.
        seed: as for `identity_of`.

    Returns: nothing where the builder brings others each time, so that they cannot be told from another network's, or
        none before the first images.

    Cost: builds the network once more.

    Example:
        >>> seed_everything(0)
        >>> first = nn.Linear(2, 3)
        >>> weights_of_builder(first, lambda: nn.Linear(2, 3), seed=0) == {"weights": weights_hash(first)}
        True
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        return {}
    seed_everything(seed)
    found = weights_hash(model)
    return {"weights": found} if weights_hash(build()) == found else {}


def computes(model: nn.Module, data: Data, *, seed: int) -> dict[str, str]:
    """Return a short hash of what the network does with the data, by what it is called: other code of it is told.

    Args:
        model: runs on the example of the data, and has.
        data: see `identity_of`.
        seed: likewise.

    Returns: what it is called -> the hash; the name has the version of torch, since others may do otherwise what the
        same code says. Nothing where the network does something else each time.
    """
    found = set()
    for _ in range(2):
        seed_everything(seed)
        found.add(operations_of(model, data.example))
    return {f"operations in torch {torch.__version__}": found.pop()} if len(found) == 1 else {}


def hold_to(folder: Path, network: Mapping[str, str]) -> None:
    """Refuse a folder that is of another network, and note in it what is known of this one.

    Raises:
        ConfigError: it is, or its note cannot be read.
    """
    path = folder / NETWORK
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); delete it to go on with this network") from error
    if other := others(before, network):
        raise ConfigError(
            f"{folder} is of a network with other {other}; choose another place, or build that network to go on there"
        )
    write_json(path, {**before, **network})
