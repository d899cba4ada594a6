"""HRank's own schedule as a stage: channels go group by group, and the whole network is trained after each."""

from __future__ import annotations

import shutil
from typing import Any

from torch import nn

from secateur.modes import placed
from secateur.records import PruningPlan
from secateur.training import prune_layer_by_layer
from secateur.training.schedules import Round
from secateur_cli.settings.schema import FineTuneConfig
from secateur_cli.stages.job import Job, going_on

ROUNDS = "stages/rounds"


def train_layer_by_layer(job: Job, plan: PruningPlan, settings: FineTuneConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Return the pruned network, and what the rounds did as plain data.

    Each epoch of each round is kept, from which a run that was stopped goes on.
    """
    folder, losing = job.workspace.path(ROUNDS), [group.name for group in plan.groups if plan.removed(group.name)]
    done: list[Round] = []

    def say(one: Round) -> None:
        done.append(one)
        best = _best(one)
        share = "" if best is None else f", {best:.1%} of the validation images"
        job.progress.say(f"  round {len(done)} of {len(losing)}, without channels of {', '.join(one.groups)}{share}")

    with job.progress.task("training layer by layer") as advance:

        def stepped(step: int, total: int) -> None:
            advance(len(done) * total + step, len(losing) * total)

        def train() -> nn.Module:
            done.clear()
            with placed(job.config.device, job.source, job.model):
                pruned, _ = prune_layer_by_layer(
                    *(job.source, plan, job.data.train.fresh(), job.data.validation),
                    recipe=settings.recipe(seed=job.config.seed),
                    checkpoints=folder,
                    teacher=job.model if settings.has_teacher else None,
                    on_round=say,
                    on_step=stepped,
                )
            return pruned.cpu()

        pruned = going_on(train, folder, job.progress)
    shutil.rmtree(folder, ignore_errors=True)
    pruned.eval()
    return pruned, _told(done)


def _best(one: Round) -> float | None:
    epochs = one.history.epochs
    return epochs[one.history.chosen - 1].accuracy if one.history.chosen else None


def _told(done: list[Round]) -> dict[str, Any]:
    """Return the epochs of all rounds, counted through, and the rounds."""
    epochs: list[dict[str, Any]] = [
        {"epoch": 0, "round": number, "loss": e.loss, "accuracy": e.accuracy, "seconds": e.seconds}
        for number, one in enumerate(done, 1)
        for e in one.history.epochs
    ]
    for number, epoch in enumerate(epochs, 1):
        epoch["epoch"] = number
    rounds = [
        {
            "groups": list(one.groups),
            "epochs": len(one.history.epochs),
            "chosen": one.history.chosen,
            "accuracy": _best(one),
        }
        for one in done
    ]
    history = done[-1].history if done else None
    last = len(epochs) - len(history.epochs) + history.chosen if history else 0
    return {"epochs": epochs, "chosen": last, "rounds": rounds}
