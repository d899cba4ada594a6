"""The generators that a training run draws from: seeded, and their states as tensors, there and back."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generator of the processor and that of `device`, and no other.

    `torch.manual_seed` seeds those of all CUDA devices, also of such as nobody has asked for.

    Example:
        >>> seed_generators(3, torch.device("cpu"))
        >>> torch.initial_seed()
        3
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def random_states(loader: Any, device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's, numpy's and Python's generators, and of those that a loader draws its order from.

    Args:
        loader: training batches; the generators of a DataLoader and of its samplers are found.
        device: where the network lies; the generator of a CUDA device counts.

    Example:
        >>> before = random_states([], torch.device("cpu"))
        >>> first = random.random()
        >>> restore_random_states(before, [], torch.device("cpu"))
        >>> random.random() == first, sorted(before)
        (True, ['numpy', 'python', 'torch'])
    """
    states = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    _, keys, *rest = np.random.get_state(legacy=True)
    states["numpy"] = torch.tensor([*map(float, keys), *map(float, rest)], dtype=torch.float64)
    version, words, gauss = random.getstate()
    states["python"] = torch.tensor([version, *words, math.nan if gauss is None else gauss], dtype=torch.float64)
    return states | {f"loader{i}": generator.get_state() for i, generator in enumerate(_generators(loader))}


def restore_random_states(states: Mapping[str, Tensor], loader: Any, device: torch.device) -> None:
    """Put back what `random_states` returned, as far as it is there and the loader has as many generators.

    Example:
        >>> generator = torch.Generator().manual_seed(3)
        >>> data = torch.utils.data.DataLoader([1, 2, 3], shuffle=True, generator=generator)
        >>> before = random_states(data, torch.device("cpu"))
        >>> first = [int(number) for number in data]
        >>> restore_random_states(before, data, torch.device("cpu"))
        >>> first == [int(number) for number in data]
        True
    """
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    *keys, position, has_gauss, gauss = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_gauss), gauss))
    version, *words, last = states["python"].tolist()
    random.setstate((int(version), tuple(map(int, words)), None if math.isnan(last) else last))
    for i, generator in enumerate(_generators(loader)):
        if f"loader{i}" in states:
            generator.set_state(states[f"loader{i}"])


def _generators(loader: Any) -> list[Generator]:
    """Return the generators of a loader, or of the `source` that it reads, and of its samplers, each once."""
    loader = getattr(loader, "source", loader)
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [g for holder in holders if isinstance(g := getattr(holder, "generator", None), Generator)]
    return list({id(generator): generator for generator in found}.values())
