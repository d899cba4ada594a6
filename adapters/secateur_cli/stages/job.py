"""What the stages of a run share: network, data, groups, cost, the folder, and the report as it grows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from secateur.errors import CheckpointError
from secateur.evaluation import accuracy
from secateur.modes import placed
from secateur.protocols import CostModel, Evaluate
from secateur.records import ChannelGroups
from secateur.training import Epoch, History, fine_tune
from secateur.weights import save_weights
from secateur_cli.inputs.data import Data
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.progress import Progress
from secateur_cli.settings.schema import RunConfig, Search, TrainConfig
from secateur_cli.stages.prescribed import Shallow
from secateur_cli.workspace import Workspace

CHECKPOINT = "stages/epochs.safetensors"
T = TypeVar("T")


def going_on(train: Callable[[], T], kept: Path, progress: Progress) -> T:
    """Train from what was kept in a file or folder; anew where that is another network's, or damaged.

    A network may be built with other weights each time.
    """
    try:
        return train()
    except CheckpointError:
        if not kept.exists():
            raise
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        progress.say("the epochs that were kept belong to another network: beginning anew")
        return train()


class InTrials(Protocol):
    """Where candidates are judged, if not here."""

    def __call__(self, worth: Evaluate, *, identity: str = "") -> Evaluate:
        """Return `worth`, judged elsewhere, of the network and the data that `identity` names."""
        ...


@dataclass(frozen=True)
class Hooks:
    """What others do with a search by evaluation.

    Attributes:
        in_trials: judges the candidates elsewhere; None: here.
        on_step: called with each step of the search, also one that an earlier call has taken.
    """

    in_trials: InTrials | None = None
    on_step: Callable[[Any], object] = lambda _step: None


@dataclass
class Job:
    """One run of one search.

    Attributes:
        build: returns the network as its factory makes it, without the weights of the configuration.
        model: the dense network, in eval mode.
        costs: what has a budget; the plan is counted in the first.
        shallow: the plan that a search is to distil.
        facts: grows into the report.
        learnt: the network that a search has trained, of the dense one's shape; None where none has.
        journal: the file in which the search keeps what it finds out.
        hooks: what others do with the search as it goes.
    """

    config: RunConfig
    search: Search
    workspace: Workspace
    progress: Progress
    build: Callable[[], nn.Module]
    model: nn.Module
    data: Data
    groups: ChannelGroups
    costs: tuple[CostModel, ...]
    shallow: Shallow | None
    facts: dict[str, Any]
    journal: str = "journal.sqlite"
    hooks: Hooks = Hooks()
    learnt: nn.Module | None = None

    @property
    def source(self) -> nn.Module:
        """The network that is cut: what a search has trained, else the dense one."""
        return self.model if self.learnt is None else self.learnt

    @property
    def budgets(self) -> dict[str, str | int | float]:
        """Name of each cost -> its budget, as it was given."""
        return self.config.plan.budget.given

    def once(self, stage: str, work: Callable[[], Any]) -> Any:
        """Return the result of a stage: what an earlier call has recorded, else of `work`, which is recorded then.

        Each stage starts from the seed, so that it gives the same after a stop as without one, also where the user's
        data draws its order or its augmentation from the generators of torch, numpy and Python.
        """
        if stage not in self.workspace.stages:
            seed_everything(self.config.seed)
            self.workspace.done(stage, work())
            self.workspace.path(CHECKPOINT).unlink(missing_ok=True)  # of a training, if the stage was one
        return self.workspace.stages[stage]

    def judge(self, stage: str, model: nn.Module) -> None:
        """Measure the accuracy on the held-out images, unless it was measured before, and say it."""
        images = 0

        def counted() -> Iterator[Any]:
            nonlocal images
            for batch in self.progress.track(self.data.test, f"judging: {stage}"):
                images += len(batch[0])
                yield batch

        def measure() -> dict[str, Any]:
            with placed(self.config.device, model):
                share = accuracy(model, counted())
            return {"stage": stage, "accuracy": share, "images": images}

        fact = self.once(f"accuracy: {stage}", measure)
        self.facts["accuracy"].append(fact)
        self.progress.say(f"{stage}: {fact['accuracy']:.1%} of {fact['images']:,} held-out images right")

    def keep(self, model: nn.Module, name: str) -> None:
        """Write the tensors of `model` to a safetensors file of the folder, which appears whole or not at all."""
        save_weights(model, self.workspace.path(name))

    def train(
        self,
        model: nn.Module,
        settings: TrainConfig,
        title: str,
        *,
        after_step: Callable[[], None] = lambda: None,
        **more: Any,
    ) -> dict[str, Any]:
        """Train `model` in place, choosing the epoch by the validation images; return the epochs as plain data.

        Each epoch is kept in a checkpoint, from which a run that was stopped goes on. `more` goes to `fine_tune`.
        """
        recipe = settings.recipe(seed=self.config.seed)
        checkpoint = self.workspace.path(CHECKPOINT)

        def say(epoch: Epoch) -> None:
            share = "" if epoch.accuracy is None else f", {epoch.accuracy:.1%} of the validation images"
            if recipe.epochs <= 5 or epoch.number % 5 == 0 or epoch.number == recipe.epochs:
                self.progress.say(f"  epoch {epoch.number} of {recipe.epochs}: loss {epoch.loss:.3f}{share}")

        with self.progress.task(title) as advance:

            def stepped(done: int, total: int) -> None:
                after_step()
                advance(done, total)

            def train() -> History:
                with placed(self.config.device, model, more.get("teacher")):
                    return fine_tune(
                        *(model, self.data.train.fresh(), self.data.validation),
                        recipe=recipe,
                        checkpoint=checkpoint,
                        on_epoch=say,
                        on_step=stepped,
                        **more,
                    )

            history = going_on(train, checkpoint, self.progress)
        model.eval()
        epochs = [
            {"epoch": e.number, "loss": e.loss, "accuracy": e.accuracy, "seconds": e.seconds} for e in history.epochs
        ]
        return {"epochs": epochs, "chosen": history.chosen}
