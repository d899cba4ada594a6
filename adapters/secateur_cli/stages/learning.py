"""The stage of the searches that train: which channels go is learnt along with the weights, to the widths of the plan.

The widths are those of the uniform search: the same share of every group, the smallest that meets the budgets. What is
learnt is kept in the folder of the run, and the network that is cut from then on is the one that was trained.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.cost import cost_model, record_layers
from secateur.errors import ConfigError, NetworkError, PlanError
from secateur.files import write_json
from secateur.gates import GateEpoch, autoprune
from secateur.gates.attached import check_gates
from secateur.modes import placed
from secateur.protocols import CostModel
from secateur.records import ChannelGroup, ChannelGroups, PruningPlan
from secateur.search import stages_of
from secateur.training import Epoch, prune_by_soft_clusters
from secateur.training.soft_clusters import check_mergeable
from secateur.weights import load_weights
from secateur_cli.inputs.data import Data
from secateur_cli.progress import Progress
from secateur_cli.settings.learning_schema import AutoPrunerConfig, SoftClustersConfig
from secateur_cli.settings.schema import PlanConfig, Search
from secateur_cli.settings.values import Method
from secateur_cli.stages.job import CHECKPOINT, Job, going_on
from secateur_cli.workspace import LEARNT, LEARNT_PLAN

BY_SCORES = ("scores", "reduction", "variant")
"""What a plan records of how scores chose its channels."""
WEIGHTS = "stages/learnt.safetensors"
Found = tuple[nn.Module, PruningPlan, dict[str, Any]]
"""The network that was trained, the plan, and what the report tells of it."""


@dataclass(frozen=True)
class Lesson:
    """What these searches read beside the widths.

    Attributes:
        model: the dense network, which stays as it is.
        groups: its channel groups.
        cost: what is learnt is counted in; the plan then takes the costs of the widths.
        data: of which the training images are read.
        seed: of the training.
        device: where it happens.
        checkpoint: a file that holds the last epoch, from which a training that was stopped goes on. It stays.
        progress: shows what happens.
        name: of the training, where there are several.
    """

    model: nn.Module
    groups: ChannelGroups
    cost: CostModel
    data: Data
    seed: int
    device: str
    checkpoint: Path
    progress: Progress
    name: str = ""

    def title(self, work: str) -> str:
        """Return what the work is called while it goes on."""
        return f"{work}: {self.name}" if self.name else work


def learn(search: Search, config: PlanConfig, start: PruningPlan, given: Lesson) -> Found:
    """Train a copy of the network by one of the searches `LEARNT`, and return it with the plan of what it has learnt.

    Args:
        search: which of them.
        config: of which the section of that search is read; without it, the defaults hold.
        start: how many channels of each group stay.
        given: what else is read.

    Raises:
        SecateurError: as `autoprune` or `prune_by_soft_clusters`; a checkpoint of another network is begun anew.
    """
    train = _autoprune if search == "autopruner" else _soft_clusters
    return going_on(lambda: train(config, start, given), given.checkpoint, given.progress)


def learn_channels(job: Job, start: PruningPlan) -> PruningPlan:
    """Return the plan of the channels that are learnt to stay, as many of each group as in `start`.

    From then on `job.source` is the network that was trained. A run that is killed goes on from the last epoch.
    """

    def work() -> dict[str, Any]:
        begun = time.monotonic()
        counted = cost_model("macs", job.model, job.data.example, job.groups)  # where a latency alone has a budget, too
        lesson = Lesson(
            *(job.model, job.groups, counted, job.data),
            seed=job.config.seed,
            device=job.config.device,
            checkpoint=job.workspace.path(CHECKPOINT),
            progress=job.progress,
        )
        model, plan, facts = learn(job.search, job.config.plan, start, lesson)
        job.keep(model, WEIGHTS)
        write_json(job.workspace.path(LEARNT_PLAN), plan.to_json())
        return {"search": job.search, "seconds": time.monotonic() - begun, **facts}

    job.facts["learning"] = job.once("learning", work)
    job.learnt = copy.deepcopy(job.model)
    load_weights(job.learnt, job.workspace.path(WEIGHTS))
    return PruningPlan.from_json(job.workspace.read(LEARNT_PLAN))


def rehearse_learning(
    search: Search,
    config: PlanConfig,
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    example: Tensor,
    *,
    method: Method,
) -> None:
    """Refuse before any work what would stop the training of channels.

    Raises:
        NetworkError: nothing in the network can be trained, or a group takes no gate.
        PlanError: a group whose channels are only masked.
        ConfigError: a recovery that makes filters anew.
    """
    if search not in LEARNT:
        return
    if method == "sketch":
        raise ConfigError(f"recover: sketch makes new filters of all, where search: {search} has learnt which stay")
    if not any(p.requires_grad for p in model.parameters()):
        raise NetworkError(f"no parameter of the network needs a gradient, so search: {search} has nothing to train")
    try:
        if search == "autopruner":
            settings = config.autopruner or AutoPrunerConfig()
            check_gates(model, groups, example, most=settings.recipe(seed=0).most)
        for group in groups.values() if search == "soft_clusters" else ():
            check_mergeable(model, group)
    except (NetworkError, PlanError) as error:
        raise type(error)(f"search: {search}: {error}; plan.ignore leaves a layer as it is") from error


def _autoprune(config: PlanConfig, start: PruningPlan, given: Lesson) -> Found:
    settings = config.autopruner or AutoPrunerConfig()
    recipe = settings.recipe(seed=given.seed)
    stages = _stages(start, given, settings.granularity)

    def say(epoch: GateEpoch) -> None:
        which = f"stage {epoch.stage} of {len(stages)}, " if len(stages) > 1 else ""
        given.progress.say(
            f"  {which}epoch {epoch.number} of {recipe.epochs}: loss {epoch.loss:.3f}, the codes keep {epoch.kept:.1%} "
            f"of the channels, {epoch.binary:.0%} of the gates are binary"
        )

    with given.progress.task(given.title("training gates")) as advance, placed(given.device, given.model):
        found = autoprune(
            *(given.model, given.groups, given.cost, given.data.train.fresh()),
            keep=start.widths,
            stages=stages,
            recipe=recipe,
            checkpoint=given.checkpoint,
            on_step=advance,
            on_epoch=say,
        )
    gates = [
        {
            "group": name,
            "width": len(gate.code),
            "target": gate.target,
            "code": gate.kept,
            "kept": len(found.plan[name]),
            "alpha": gate.alpha,
            "binary": gate.binary,
        }
        for name, gate in found.gates.items()
    ]
    return (
        found.model,
        _learnt(start, found.plan),
        {"epochs": [asdict(epoch) for epoch in found.epochs], "gates": gates},
    )


def _soft_clusters(config: PlanConfig, start: PruningPlan, given: Lesson) -> Found:
    settings = config.soft_clusters or SoftClustersConfig()

    def say(epoch: Epoch) -> None:
        given.progress.say(f"  epoch {epoch.number} of {settings.epochs}: loss {epoch.loss:.3f}")

    with given.progress.task(given.title("training clusters of filters")) as advance, placed(given.device, given.model):
        found = prune_by_soft_clusters(
            *(given.model, given.groups, given.cost, given.data.train.fresh()),
            keep=start.widths,
            recipe=settings.recipe(seed=given.seed),
            checkpoint=given.checkpoint,
            on_step=advance,
            on_epoch=say,
        )
    clusters = [
        {"group": name, "width": sum(map(len, own)), "kept": len(own), "largest": max(map(len, own))}
        for name, own in found.clusters.items()
    ]
    epochs = [{"number": epoch.number, "loss": epoch.loss} for epoch in found.history.epochs]
    return found.model, _learnt(start, found.plan), {"epochs": epochs, "clusters": clusters}


def _learnt(start: PruningPlan, found: PruningPlan) -> PruningPlan:
    """Return the plan of the channels that were found, at the widths and with the costs of the start."""
    widths = {key: value for key, value in start.settings.items() if key not in BY_SCORES}
    return replace(start, kept=found.kept, ties={}, settings={**widths, **found.settings})


def _stages(start: PruningPlan, given: Lesson, granularity: str) -> list[list[str]]:
    """Return the groups that lose channels: those that learn together, one stage after the other."""
    names = [group.name for group in start.groups if start.removed(group.name)]
    if granularity == "all":
        return [names]
    if granularity == "layer":
        return [[name] for name in names]
    places = stages_of(given.groups, record_layers(given.model, given.data.example))
    numbers = sorted({places[name].number for name in names})
    return [[name for name in names if places[name].number == number] for number in numbers]
