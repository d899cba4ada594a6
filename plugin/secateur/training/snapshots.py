"""A training run on disk after each epoch, from which a killed one goes on to the same numbers.

One safetensors file holds everything: tensors by name, and as its metadata a table in JSON. It is written under a
temporary name and then renamed, so that a run that is killed while it writes leaves the epoch before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.files import replacing
from secateur.weights import read_safetensors

FORMAT = 2
KEY = "secateur.training"
SCALED = ("scale", "_growth_tracker")  # what changes in the state of a scaler


@dataclass
class Snapshot:
    """What a run is after some epochs.

    Attributes:
        identity: what makes it this run: the network that it began with, its recipe; plain data.
        epochs: what the epochs gave, as plain data.
        chosen: the number of the best one; 0: none yet.
        tensors: part ("model", "best", "average", "optimizer", "scaler", "steps", "random") -> name -> tensor.
    """

    identity: dict[str, Any]
    epochs: list[dict[str, Any]]
    chosen: int
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        flat = {
            f"{part}/{name}": tensor.detach().cpu().clone().contiguous()
            for part, named in self.tensors.items()
            for name, tensor in named.items()
        }
        table = {"format": FORMAT, "identity": self.identity, "epochs": self.epochs, "chosen": self.chosen}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(flat, temporary, metadata={KEY: json.dumps(table)})

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, Any]) -> Snapshot | None:
        """Return the snapshot in `path`, None where there is no such file.

        Raises:
            CheckpointError: the file is no snapshot, or one of another run, with what differs.
        """
        if not path.exists():
            return None
        tensors, metadata = read_safetensors(path)
        try:
            table = json.loads(metadata[KEY])
            found = cls(dict(table["identity"]), list(table["epochs"]), int(table["chosen"]))
            if table["format"] != FORMAT:
                raise CheckpointError(f"{path} has format {table['format']!r}; this version reads format {FORMAT}")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is no checkpoint of a training run; remove it to begin anew") from error
        different = [
            f"{name} was {found.identity.get(name)!r}, is {identity.get(name)!r}"
            for name in found.identity | dict(identity)
            if found.identity.get(name) != identity.get(name)
        ]
        if different:
            raise CheckpointError(
                f"{path} is the checkpoint of another training run ({'; '.join(different)}); remove it to begin anew"
            )
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            found.tensors.setdefault(part, {})[rest] = tensor
        return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer remembers of its parameters, by their number and the memory's name.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.ones(1)
        >>> optimizer = torch.optim.SGD([weight], momentum=0.9)
        >>> optimizer.step()
        >>> optimizer_tensors(optimizer)
        {'0/momentum_buffer': tensor([1.])}
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{number}/{name}": value
        for number, memory in state.items()
        for name, value in memory.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the memory that `optimizer_tensors` returned.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], momentum=0.9)
        >>> restore_optimizer(optimizer, {"0/momentum_buffer": torch.ones(1)})
        >>> optimizer_tensors(optimizer)
        {'0/momentum_buffer': tensor([1.])}
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, kind = name.partition("/")
        state.setdefault(int(number), {})[kind] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def scaler_tensors(scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """Return what a scaler of the loss has come to; nothing where it is off.

    Example:
        >>> scaler_tensors(torch.amp.GradScaler("cpu", init_scale=8.0))
        {'scale': tensor(8., dtype=torch.float64), '_growth_tracker': tensor(0., dtype=torch.float64)}
    """
    state = scaler.state_dict()
    return {name: torch.tensor(float(state[name]), dtype=torch.float64) for name in SCALED if name in state}


def restore_scaler(scaler: torch.amp.GradScaler, tensors: Mapping[str, Tensor]) -> None:
    """Give a scaler what `scaler_tensors` returned.

    Example:
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> restore_scaler(scaler, scaler_tensors(torch.amp.GradScaler("cpu", init_scale=8.0)))
        >>> scaler.get_scale()
        8.0
    """
    if tensors:
        found = {"scale": float(tensors["scale"]), "_growth_tracker": int(tensors["_growth_tracker"])}
        scaler.load_state_dict(scaler.state_dict() | found)
