"""Which search a journal belongs to: everything that decides what it finds, in a few short values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from torch import Tensor, nn

from secateur.batches import Batches, opened, unpack
from secateur.errors import JournalError
from secateur.fingerprints import tensors_hash, weights_hash
from secateur.plain_data import own_number
from secateur.records import ChannelGroup

Identity = Mapping[str, Any]
"""Name of a part -> its value, plain data; mappings within it are told apart key by key."""


def identify(
    model: nn.Module, groups: Mapping[str, ChannelGroup], batches: Batches, *, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what makes a search the same search, for `Journal.open`.

    Args:
        model: the dense network: its tensors, and what its modules are.
        groups: its channel groups by name.
        batches: the inputs and labels that candidates are judged on, as they are read; gone through once.
        seed: of whatever is drawn at random.
        settings: everything else that decides the result (criterion, budget, ...), plain data.

    Returns: the parts weights, structure, data, seed and settings.

    Raises:
        DataError: a batch is none.

    Cost: one pass of sha256 over the tensors, about a second a gigabyte.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 2)
        >>> parts = identify(net, {}, [torch.ones(1, 2)], seed=0, settings={"delta": 0.01})
        >>> list(parts), len(parts["weights"])
        (['weights', 'structure', 'data', 'seed', 'settings'], 16)
    """
    return {
        "weights": weights_hash(model),
        "structure": _digest_of_structure(model, groups),
        "data": digest_of_batches(batches),
        "seed": seed,
        "settings": dict(settings),
    }


def digest_of_batches(batches: Batches) -> str:
    """Return a short hash of inputs and labels in `batches`, one after the other.

    Raises:
        DataError: a batch is none, or holds NaN.

    Example:
        >>> import torch
        >>> images = torch.ones(4, 1)
        >>> digest_of_batches([images]) == digest_of_batches([images[:2], images[2:]])  # sums may round otherwise
        False
    """
    return tensors_hash(_named(batches))


def flat(identity: Identity, *, what: str = "the identity of a search") -> dict[str, str]:
    """Return each part of an identity as JSON, those within mappings by their full path.

    Args:
        identity: the parts.
        what: what an error calls them.

    Raises:
        JournalError: a value is not plain data.

    Example:
        >>> flat({"seed": 0, "settings": {"plan": {"delta": 0.01}, "tap": "act"}})
        {'seed': '0', 'settings.plan.delta': '0.01', 'settings.tap': '"act"'}
    """
    return dict(_parts(identity, "", what))


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return which parts of two flat identities differ, with both values.

    Example:
        >>> differences({"seed": "0", "tap": '"act"'}, {"seed": "1"})
        ['seed: 0 before, 1 now', 'tap: "act" before, absent now']
    """
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return [f"{key}: {before.get(key, 'absent')} before, {now.get(key, 'absent')} now" for key in keys]


def refuse_another(path: str | PathLike[str], before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise JournalError where the journal `path` has parts of another identity, with those that differ."""
    if before and (differing := differences(before, now)):
        raise JournalError(
            f"the journal {path} is of another search or comparison: {'; '.join(differing)}. Repeat its settings to go "
            "on with it, or choose another place for this one"
        )


def _parts(values: Mapping[str, Any], path: str, what: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _parts(value, f"{path}{name}.", what)
            continue
        try:
            yield f"{path}{name}", json.dumps(value, sort_keys=True, default=own_number)
        except (TypeError, ValueError) as error:
            raise JournalError(
                f"{what} must be plain data (text, numbers, true, false, null, and lists and mappings of them); "
                f"{path}{name} is not: {error}"
            ) from error


def _digest_of_structure(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> str:
    """Return a short hash of which modules there are, what torch's own among them do, and which channels fall together.

    What users' modules say about themselves is left out: it may hold an address, which no two processes share.
    """
    modules = [
        [name, type(module).__qualname__, module.extra_repr() if type(module).__module__.startswith("torch.nn") else ""]
        for name, module in model.named_modules()
    ]
    text = json.dumps([modules, [group.to_json() for group in groups.values()]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named(batches: Batches) -> Iterator[tuple[str, Tensor]]:
    for batch in opened(batches):
        inputs, labels = unpack(batch)
        yield "inputs", inputs
        if labels is not None:
            yield "labels", labels
