"""A training of gates on disk after each epoch, from which a killed one goes on to the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from secateur.batches import Batches
from secateur.distributed import Across, jointly, place_in
from secateur.errors import CheckpointError
from secateur.fingerprints import structure_of, weights_hash
from secateur.gates.attached import Attached
from secateur.gates.learning import Learning
from secateur.gates.learnt import GateEpoch
from secateur.gates.recipe import GateRecipe
from secateur.modes import device_of
from secateur.training.random_states import random_states, restore_random_states
from secateur.training.snapshots import (
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
    restore_scaler,
    scaler_tensors,
)
from secateur.weights import check_fit, tensors_of


class GateCheckpoint:
    """The file of a run, or none.

    Args:
        path: where the file is; None keeps nothing.
        model: the dense network.
        recipe: the numbers.
        targets: group -> how many channels should stay.
        stages: which gates learn together.
        project: whether exactly so many stay.
        across: the processes that train together, of which the first one writes.

    Attributes:
        found: what the file holds, None where it does not exist yet.

    Raises:
        CheckpointError: it is the checkpoint of another run, or none at all.
    """

    def __init__(
        self,
        path: str | Path | None,
        model: nn.Module,
        recipe: GateRecipe,
        targets: Mapping[str, int],
        stages: Sequence[Sequence[str]],
        *,
        project: bool,
        across: Across,
    ) -> None:
        self._path, self._across, self.found = None if path is None else Path(path), across, None
        if self._path is None:
            return
        tensors_of(model)
        facts = {
            "structure of the network": structure_of(model),
            "weights at the start": weights_hash(model),
            **asdict(recipe),
            "widths": dict(targets),
            "stages": [list(names) for names in stages],
            "project": project,
            "processes": 1 if across is None else across.size(),
        }
        self._identity = json.loads(json.dumps(facts))
        file = self._path
        read = jointly(lambda: Snapshot.read(file, self._identity), across, what="the checkpoint")
        self.found = read[0 if across is None else place_in(across)[0]]

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """What the finished epochs gave: fields of `GateEpoch`, and with the last of a stage what its gates learnt."""
        return [] if self.found is None else list(self.found.epochs)

    def keep(self, learning: Learning, train: Batches, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Write the file: everything that decides what comes next."""
        if self._path is None:
            return
        network = learning.network
        states = jointly(
            lambda: random_states(train, device_of(network)), self._across, what="the states of the generators"
        )
        tensors = {
            "model": tensors_of(network),
            "gates": _gates(learning.attached),
            "optimizer": optimizer_tensors(learning.optimizer),
            "scaler": scaler_tensors(learning.scaler),
            "schedules": learning.state(),
            "random": {f"{rank}/{name}": state for rank, own in enumerate(states) for name, state in own.items()},
        }
        snapshot = Snapshot(self._identity, [dict(epoch) for epoch in epochs], len(epochs), tensors)

        def write(path: Path = self._path) -> None:
            if self._across is None or place_in(self._across)[0] == 0:
                snapshot.write(path)

        jointly(write, self._across, what="writing the checkpoint")

    def restore(self, attached: Attached, train: Batches) -> None:
        """Give network, gates and generators back what they had.

        Raises:
            CheckpointError: its tensors are not those of the network and its gates.
        """
        if self.found is None:
            return
        tensors, network = self.found.tensors, attached.network
        own = {"model": tensors_of(network), "gates": _gates(attached)}
        for part, mine in own.items():
            shapes = {name: list(tensor.shape) for name, tensor in mine.items()}
            check_fit(tensors.get(part, {}), mine, shapes, source=str(self._path))
        network.load_state_dict(tensors["model"])
        for name, gate in attached.gates.items():
            gate.load_state_dict({key: tensors["gates"][f"{name}/{key}"] for key, _ in gate.named_parameters()})
        rank = 0 if self._across is None else place_in(self._across)[0]
        states = {name.partition("/")[2]: s for name, s in tensors["random"].items() if name.startswith(f"{rank}/")}
        restore_random_states(states, train, device_of(network))

    def restore_stage(self, learning: Learning) -> None:
        """Give a stage that was begun its optimizer and its schedules back."""
        if self.found is None:
            raise CheckpointError("there is no checkpoint to go on from")
        restore_optimizer(learning.optimizer, self.found.tensors.get("optimizer", {}))
        restore_scaler(learning.scaler, self.found.tensors.get("scaler", {}))
        learning.restore(self.found.tensors["schedules"])


def epoch_of(data: Mapping[str, Any]) -> GateEpoch:
    """Return the epoch in an entry of a checkpoint."""
    return GateEpoch(**{key: value for key, value in data.items() if key != "learnt"})


def _gates(attached: Attached) -> dict[str, Any]:
    return {f"{name}/{key}": value for name, gate in attached.gates.items() for key, value in gate.named_parameters()}
