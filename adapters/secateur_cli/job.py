"""What the stages of a run share: network, data, groups, cost, the folder, and the report as it grows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from torch import Tensor, nn

import secateur_onnx
from secateur.channel_graph import channel_groups
from secateur.cost import MacsCost
from secateur.criteria import criterion
from secateur.errors import DataError
from secateur.evaluation import accuracy
from secateur.modes import evaluating
from secateur.records import ChannelGroups
from secateur.search import format_cost, parse_budget
from secateur.training import Epoch, Recipe, fine_tune
from secateur_cli.config import resolve
from secateur_cli.data import Data, load_data
from secateur_cli.progress import Progress
from secateur_cli.schema import RunConfig, Search, TrainConfig
from secateur_cli.sources import build_network, network_factory
from secateur_cli.workspace import Workspace


@dataclass
class Job:
    """One run of one search.

    Attributes:
        build: returns the network as its factory makes it, without the weights of the configuration.
        model: the dense network, in eval mode.
        facts: grows into the report.
    """

    config: RunConfig
    search: Search
    workspace: Workspace
    progress: Progress
    build: Callable[[], nn.Module]
    model: nn.Module
    data: Data
    groups: ChannelGroups
    cost: MacsCost
    facts: dict[str, Any]

    def judge(self, stage: str, model: nn.Module) -> None:
        """Measure the accuracy on the held-out images, unless it was measured before, and say it."""
        key = f"accuracy: {stage}"
        if key not in self.workspace.stages:
            images = 0

            def counted() -> Iterator[Any]:
                nonlocal images
                for batch in self.progress.track(self.data.test, f"judging: {stage}"):
                    images += len(batch[0])
                    yield batch

            share = accuracy(model, counted())
            self.workspace.done(key, {"stage": stage, "accuracy": share, "images": images})
        fact = self.workspace.stages[key]
        self.facts["accuracy"].append(fact)
        self.progress.say(f"{stage}: {fact['accuracy']:.1%} of {fact['images']:,} held-out images right")

    def train(self, model: nn.Module, settings: TrainConfig, title: str) -> dict[str, Any]:
        """Train `model` in place, choosing the epoch by the validation images; return the epochs as plain data."""
        recipe = Recipe(**settings.model_dump(), seed=self.config.seed)

        def say(epoch: Epoch) -> None:
            share = "" if epoch.accuracy is None else f", {epoch.accuracy:.1%} of the validation images"
            if recipe.epochs <= 5 or epoch.number % 5 == 0 or epoch.number == recipe.epochs:
                self.progress.say(f"  epoch {epoch.number} of {recipe.epochs}: loss {epoch.loss:.3f}{share}")

        with self.progress.task(title) as advance:
            batches = self.data.train.fresh()
            history = fine_tune(model, batches, self.data.validation, recipe=recipe, on_epoch=say, on_step=advance)
        model.eval()
        epochs = [
            {"epoch": e.number, "loss": e.loss, "accuracy": e.accuracy, "seconds": e.seconds} for e in history.epochs
        ]
        return {"epochs": epochs, "chosen": history.chosen}


def prepare(config: RunConfig, search: Search, *, folder: Path, output: Path, progress: Progress, smoke: bool) -> Job:
    """Load network and data, and find out what can be wrong before any work is done or any file is written.

    Raises: SecateurError: see `secateur_cli.pipeline.run_job`.
    """
    machine = secateur_onnx.describe_machine(provider=config.onnx.provider).to_json()
    criterion(config.score.criterion, **config.score.options)
    torch.manual_seed(config.seed)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = build_network(config.network, folder).eval()
    data = load_data(config.data, folder=folder, seed=config.seed)
    outputs = _logits(model, data.example).shape[1]
    data = data.for_outputs(outputs)
    groups = channel_groups(model, data.example, ignore=config.plan.ignore)
    cost = MacsCost(model, data.example, groups)
    parse_budget(config.plan.budget.macs, cost({}))
    settings = config.canonical() | {"search": search, "smoke": smoke, "weights_sha256": _digest(config, folder)}
    workspace = Workspace(output, settings)
    if workspace.continued:
        progress.say(f"continuing the run in {output}; done so far: {', '.join(workspace.stages)}")
    macs = format_cost(cost({}), "MACs")
    progress.say(f"{config.network.build}: {macs}, {len(groups)} groups of channels can be pruned")
    if data.classes is not None and data.classes < outputs:
        progress.say(f"warning: the network has {outputs} outputs, but the data only {data.classes} classes")
    facts: dict[str, Any] = {
        "versions": versions(),
        "machine": machine | {"threads": torch.get_num_threads()},
        "config": config.model_dump(mode="json"),
        "network": {
            "build": config.network.build,
            "weights": None if config.network.weights is None else str(config.network.weights),
            "skipped": dict(groups.skipped),
        },
        "data": dict(data.describe),
        "accuracy": [],
    }
    build = network_factory(config.network, folder)
    return Job(config, search, workspace, progress, build, model, data, groups, cost, facts)


def versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    packages = ("secateur", "torch", "torch-pruning", "onnx")
    runtime = {"onnxruntime": str(secateur_onnx.describe_machine().onnxruntime)}
    return {"python": python_version()} | {name: version(name) for name in packages} | runtime


def _logits(model: nn.Module, example: Tensor) -> Tensor:
    try:
        with evaluating(model), torch.no_grad():
            outputs = model(example)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise DataError(
            f"the network does not run on the data, a batch of shape {tuple(example.shape)}: {error}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(f"the network must return logits (N, classes) for a batch of the data; it returned {found}")
    return outputs


def _digest(config: RunConfig, folder: Path) -> str | None:
    """Return the hash of the weights file, so that replaced weights are another run."""
    if config.network.weights is None:
        return None
    return hashlib.sha256(resolve(config.network.weights, folder).read_bytes()).hexdigest()
