"""How a training run goes on: what its checkpoint holds of it, and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.batches import Batches
from secateur.distributed import Across, jointly, place_in
from secateur.fingerprints import structure_of, weights_hash
from secateur.modes import device_of
from secateur.records import PruningPlan
from secateur.training.random_states import random_states, restore_random_states
from secateur.training.recipe import Recipe
from secateur.training.snapshots import Snapshot, optimizer_tensors, restore_optimizer, restore_scaler, scaler_tensors
from secateur.training.steps import Steps
from secateur.weights import check_fit, tensors_of


@dataclass
class Resumable:
    """A run with a checkpoint, or with none.

    Attributes:
        path: the checkpoint; None keeps nothing.
        identity: what makes it this run.
        across: the processes that train together, of which the first one writes.
        found: what the checkpoint holds, None where it does not exist yet.
    """

    path: Path | None
    identity: dict[str, Any]
    across: Across = None
    found: Snapshot | None = None

    @classmethod
    def of(
        cls,
        path: str | Path | None,
        model: nn.Module,
        recipe: Recipe,
        *,
        teacher: nn.Module | None = None,
        plan: PruningPlan | None = None,
        freeze: Mapping[str, Sequence[int]] | None = None,
        across: Across = None,
    ) -> Resumable:
        """Return the run that begins with these, with what its checkpoint holds.

        Raises:
            CheckpointError: the checkpoint is of another run, cannot be read, or could not hold the network's state.
        """
        if path is None:
            return cls(None, {})
        tensors_of(model)
        facts = {
            "structure of the network": structure_of(model),
            "weights at the start": weights_hash(model),
            **asdict(recipe),
            "teacher": None if teacher is None else weights_hash(teacher),
            "plan": None if plan is None else plan.fingerprint,
            "frozen filters": {layer: sorted(filters) for layer, filters in (freeze or {}).items()},
            "processes": 1 if across is None else across.size(),
        }
        identity = json.loads(json.dumps(facts))
        found = jointly(lambda: Snapshot.read(Path(path), identity), across, what="the checkpoint")
        place = 0 if across is None else place_in(across)[0]
        return cls(Path(path), identity, across, found[place])

    def keep(
        self, steps: Steps, train: Batches, best: Mapping[str, Tensor], epochs: Sequence[Any], chosen: int
    ) -> None:
        """Write the checkpoint: everything that decides what comes next."""
        if self.path is None:
            return
        states = jointly(
            lambda: random_states(train, device_of(steps.model)), self.across, what="the states of the generators"
        )
        tensors = {
            "model": tensors_of(steps.model),
            "best": dict(best),
            "average": {} if steps.average is None else tensors_of(steps.average),
            "optimizer": optimizer_tensors(steps.optimizer),
            "scaler": scaler_tensors(steps.scaler),
            "steps": {"taken": torch.tensor(steps.step)},
            "random": {f"{rank}/{name}": state for rank, own in enumerate(states) for name, state in own.items()},
        }
        snapshot = Snapshot(self.identity, [asdict(epoch) for epoch in epochs], chosen, tensors)

        def write(path: Path = self.path) -> None:
            if self.across is None or place_in(self.across)[0] == 0:
                snapshot.write(path)

        jointly(write, self.across, what="writing the checkpoint")

    def restore(self, steps: Steps, train: Batches) -> tuple[dict[str, Tensor], int]:
        """Put everything back that the checkpoint holds; return the best state by then, and its epoch.

        Raises:
            CheckpointError: its tensors are not those of the network.
        """
        if self.found is None or self.path is None:
            raise ValueError("there is no checkpoint to go on from")
        tensors, own = self.found.tensors, tensors_of(steps.model)
        shapes = {name: list(tensor.shape) for name, tensor in own.items()}
        for part in ("model", "best"):
            check_fit(tensors.get(part, {}), own, shapes, source=str(self.path))
        steps.model.load_state_dict(tensors["model"])
        if steps.average is not None:
            steps.average.load_state_dict(tensors["average"])
        restore_optimizer(steps.optimizer, tensors.get("optimizer", {}))
        restore_scaler(steps.scaler, tensors.get("scaler", {}))
        steps.step = int(tensors["steps"]["taken"])
        rank = 0 if self.across is None else place_in(self.across)[0]
        states = {name.partition("/")[2]: s for name, s in tensors["random"].items() if name.startswith(f"{rank}/")}
        restore_random_states(states, train, device_of(steps.model))
        return tensors["best"], self.found.chosen
