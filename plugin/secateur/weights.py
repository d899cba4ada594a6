"""Weights from a file into a network: safetensors, or torch state dicts read without running the code in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError
from secateur.files import replacing


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill `model` with the weights in `path`: safetensors, or a torch state dict, read without running its code.

    A state dict may lie under the key "state_dict", and its names may begin with "module." (DataParallel). Batch norm's
    `num_batches_tracked`, which old files lack, may be missing; everything else must be there and nothing besides.

    Raises:
        CheckpointError: no such file, neither of the two formats, or names and shapes that do not fit, with the first
            of each kind. The model is untouched then.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> net = nn.Linear(2, 1, bias=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.ones(1, 2)}, Path(folder) / "ones.safetensors")
        ...     load_weights(net, Path(folder) / "ones.safetensors")
        >>> net.weight.tolist()
        [[1.0, 1.0]]
    """
    path = Path(path)
    own = tensors_of(model)
    tensors = _read_weights(path)
    if tensors and all(name.startswith("module.") and name not in own for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    counters = {n: t for n, t in own.items() if n.endswith("num_batches_tracked") and n not in tensors}
    tensors = tensors | counters
    check_fit(tensors, own, {name: list(tensor.shape) for name, tensor in own.items()}, source=str(path))
    model.load_state_dict(tensors, strict=True)


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the tensors of `model` to a safetensors file, which appears whole or not at all.

    Args:
        model: a network.
        path: of the file.
        metadata: what is to stand beside the tensors; see `read_safetensors`.

    Raises:
        CheckpointError: the state of the model is more than tensors.

    Example:
        >>> import tempfile
        >>> net, other = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(net, Path(folder) / "net.safetensors")
        ...     load_weights(other, Path(folder) / "net.safetensors")
        >>> torch.equal(net.weight, other.weight)
        True
    """
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors_of(model).items()}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata) if metadata else None)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name and the metadata. Raises CheckpointError for a file that is not whole safetensors."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no mapping
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or it is truncated: {error}") from error


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what `model.state_dict()` holds. Raises CheckpointError where that is more than tensors."""
    state: dict[str, Any] = dict(model.state_dict())
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise CheckpointError(f"only tensors can be saved and loaded; the network also has the state {few(foreign)}")
    return state


def check_fit(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], shapes: Mapping[str, list[int]], *, source: str
) -> None:
    """Refuse tensors whose names, shapes or kind (floating or not) are not those of the network.

    Args:
        tensors: what was read.
        own: the tensors of the network.
        shapes: the shape to find, by name; for every name in `own`.
        source: where `tensors` came from, for the message.

    Raises:
        CheckpointError: how many are missing, unexpected and misshapen, with the first of each.
    """
    misfits = []
    for name in sorted(tensors.keys() & own.keys()):
        found, wanted = list(tensors[name].shape), shapes[name]
        if found != wanted:
            misfits.append(f"{name} is {tuple(found)}, not {tuple(wanted)}")
        elif tensors[name].is_floating_point() != own[name].is_floating_point():
            misfits.append(f"{name} is {tensors[name].dtype}, not {own[name].dtype}")
    kinds = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "misshapen": misfits,
    }
    faults = [f"{len(names)} {kind} ({few(names)})" for kind, names in kinds.items() if names]
    if faults:
        raise CheckpointError(f"the tensors in {source} do not fit the network: " + "; ".join(faults))


def few(names: list[str], *, shown: int = 4) -> str:
    """Return the first names, separated by commas, and dots for those left out."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            safetensors = path.suffix == ".safetensors" or file.read(9)[8:] == b"{"  # a length, then a table in JSON
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror}") from error
    if safetensors:
        return read_safetensors(path)[0]
    allowed = "allowed: safetensors, or a torch state dict that loads with weights_only=True"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in the unpickler in any way
        said = str(error).partition("\n")[0].partition(". ")[0]  # what follows is advice to run the code in it
        reason = said or type(error).__name__
        raise CheckpointError(f"{path} holds no weights that can be read ({reason}); {allowed}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict, a mapping of names to tensors; {allowed}")
    return {str(name): tensor for name, tensor in state.items()}
