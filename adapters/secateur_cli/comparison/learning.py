"""Channels that are learnt along with the weights, by AutoPruner, and the network that is cut from then on.

Its gates are trained from the dense network on, on the training images of the seed, at the uniform widths of the
budget. The weights that were trained are kept in the folder of the comparison; the plan holds a hash of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import CheckpointError
from secateur.fingerprints import weights_hash
from secateur.records import PruningPlan
from secateur.search import uniform_plan
from secateur.weights import load_weights, save_weights
from secateur_cli.comparison.cells import Cell
from secateur_cli.comparison.contenders import AUTOPRUNER, gates_of
from secateur_cli.comparison.setting import LEARNT, Setting
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.stages.learning import Lesson, learn, rehearse_learning

WEIGHTS = "weights"
"""The setting of a plan that is a hash of the network that was trained for it."""


def learn_plan(setting: Setting, cell: Cell) -> PruningPlan:
    """Train gates along with a copy of the dense network; keep the copy, and return the plan of what they have learnt.

    A training that was killed goes on from its last epoch.

    Raises:
        SecateurError: a group takes no gate, the budget is out of reach, or the training fails.
    """
    network, plan = _trained(setting, cell)
    save_weights(network, _path(setting, cell))
    return plan


def learnt_network(setting: Setting, cell: Cell, plan: PruningPlan) -> nn.Module:
    """Return the network that was trained for the plan, on the processor and in eval mode, with all of its channels.

    Where its file is gone, or holds another, it is trained anew.

    Raises:
        CheckpointError: trained anew it is another, as on another device or number of threads.
        SecateurError: as `learn_plan`.
    """
    path, network = _path(setting, cell), copy.deepcopy(setting.model)
    with suppress(CheckpointError):
        load_weights(network, path)
    if weights_hash(network) != plan.settings[WEIGHTS]:
        setting.progress.say(f"{path} is gone, or is not what was written: training anew")
        network, anew = _trained(setting, cell)
        if anew.settings[WEIGHTS] != plan.settings[WEIGHTS]:
            raise CheckpointError(
                f"{path} does not hold the network that was trained before, and trained anew it is another, as on "
                "a GPU, another device or number of threads; put the file back, or choose another --output"
            )
        save_weights(network, path)
    setting.checkpoint(cell.weights).unlink(missing_ok=True)  # by now the plan stands in the journal
    return network.eval()


def learnt_epochs(plan: Mapping[str, Any]) -> int:
    """Return how many epochs a network was trained for along with its gates, by the plan as plain data."""
    return int(plan["settings"]["recipe"]["epochs"]) * len(plan["settings"]["stages"])


def _trained(setting: Setting, cell: Cell) -> tuple[nn.Module, PruningPlan]:
    """Return the network that was trained, on the processor, and the plan."""
    config, costs = setting.config, setting.costs(cell.budget)
    gates = config.plan.model_copy(update={AUTOPRUNER: gates_of(cell.contender.options)})
    rehearse_learning(
        *("autopruner", gates, setting.model, setting.groups, setting.data.example), method=config.recover.method
    )
    start = uniform_plan(
        *(setting.groups, setting.even, costs, cell.budget.given),
        round_to=config.plan.round_to,
        min_keep=config.plan.min_keep,
    )
    lesson = Lesson(
        *(setting.model, setting.groups, costs[0], setting.of_seed(cell.seed)),
        seed=cell.seed,
        device=config.device,
        checkpoint=setting.checkpoint(cell.weights),
        progress=setting.progress,
        name=cell.name,
    )
    seed_everything(cell.seed)
    network, plan, _ = learn("autopruner", gates, start, lesson)
    network.cpu()
    return network, replace(plan, settings={**plan.settings, WEIGHTS: weights_hash(network)})


def _path(setting: Setting, cell: Cell) -> Path:
    folder = setting.output / LEARNT
    folder.mkdir(exist_ok=True)
    return folder / f"{cell.weights}.safetensors"
