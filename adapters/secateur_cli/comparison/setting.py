"""What a comparison starts from: the dense network, its groups and costs, the images of each seed, and the journal."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur_onnx
from secateur.channel_graph import channel_groups
from secateur.channel_map import with_channel_maps
from secateur.cost import cost_model
from secateur.errors import ConfigError
from secateur.journal import Journal
from secateur.modes import placed
from secateur.protocols import CostModel
from secateur.records import ChannelGroups, ScoreTable
from secateur.search.problem import state_problem
from secateur.training import fine_tune
from secateur.weights import load_weights, save_weights, tensors_of
from secateur_cli.claims import Claims
from secateur_cli.comparison.contenders import Subject
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.sources import build_network
from secateur_cli.progress import Progress
from secateur_cli.settings.plan_schema import BudgetConfig
from secateur_cli.settings.schema import RecoverConfig
from secateur_cli.settings.values import Recovery
from secateur_cli.stages.identity import identity_of
from secateur_cli.stages.job import going_on
from secateur_cli.stages.preparation import check_device, logits
from secateur_cli.stages.recovery import calibration_images
from secateur_cli.stages.timed_batches import check_batches

JOURNAL, CLAIMS, DENSE_WEIGHTS = "comparison.sqlite", "claims", "dense.safetensors"
OWN_FILES = {"claims", "dense.safetensors", "greedy", "training"}
METHODS: tuple[Recovery, ...] = ("recalibrate", "compensate")


@dataclass
class Setting:
    """One comparison.

    Attributes:
        folder: where the configuration lies; relative paths count from there.
        output: where the results go.
        model: the dense network, trained, in eval mode.
        groups: its channel groups.
        data: the images of the configuration's own seed; the held-out ones are those of all seeds.
    """

    config: CompareRun
    folder: Path
    output: Path
    progress: Progress
    model: nn.Module
    groups: ChannelGroups
    data: Data
    _of_seed: tuple[int, Data] | None = field(default=None, repr=False)

    def of_seed(self, seed: int) -> Data:
        """Return the images of a seed; those of the last one asked for are kept."""
        if self._of_seed is None or self._of_seed[0] != seed:
            outputs = logits(self.model, self.data.example).shape[1]
            data = load_data(self.config.data, folder=self.folder, seed=seed).for_outputs(outputs)
            self._of_seed = seed, data
        return self._of_seed[1]

    def subject(self, seed: int) -> Subject:
        """Return what criteria score under a seed."""
        return Subject(self.model, self.groups, self.of_seed(seed).calibration, self.config.score.tap)

    def costs(self, budget: BudgetConfig) -> tuple[CostModel, ...]:
        """Return what has a budget, the cost that plans are counted in first."""
        return tuple(cost_model(name, self.model, self.data.example, self.groups) for name in budget.given)

    def images(self, method: Recovery) -> int:
        """Return how many images a way to recover reads; `recover.samples` is that of `recover.method`."""
        settings = self.config.recover
        return calibration_images(
            settings if settings.method == method else RecoverConfig(method=method), self.data.example
        )


def look(config: CompareRun, *, folder: Path, output: Path, progress: Progress) -> Setting:
    """Load network and data, and find out what can be wrong before any work is done or any file is written.

    Args:
        config: the comparison.
        folder: where relative paths and modules of the configuration are looked up.
        output: the folder of the results.
        progress: shows what happens.

    Raises:
        SecateurError: what network, data or schedule are refused for; a budget that is out of reach; a folder that
            holds something else.
    """
    check_folder(output)
    check_device(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with progress.waiting("building the network and reading the data"):
        model = build_network(config.network, folder).eval()
        data = load_data(config.data, folder=folder, seed=config.seed)
        data = data.for_outputs(logits(model, data.example).shape[1])
        model = with_channel_maps(model, data.example)
        groups = channel_groups(model, data.example, ignore=config.plan.ignore, residual=config.plan.residual)
    setting = Setting(config, folder, output, progress, model, groups, data)
    even = ScoreTable({name: torch.ones(group.width) for name, group in groups.items()})
    for budget in config.compare.budgets:
        plan, costs = config.plan, setting.costs(budget)
        state_problem(
            *(groups, even, costs, budget.given), round_to=plan.round_to, min_keep=plan.min_keep, reduction="sum"
        )
    tensors_of(model)
    for method in METHODS:
        setting.images(method)
    _check_packages(config)
    if config.compare.latency:
        check_batches(config, model, data.example)
    return setting


def _check_packages(config: CompareRun) -> None:
    """Refuse now, and not after hours, what needs a package that is not there."""
    if config.compare.latency:
        secateur_onnx.check_installation(provider=config.onnx.provider)
    if any(contender.house == "NNI" for contender in config.compare.criteria):
        importlib.import_module("secateur_nni.host")


def check_folder(output: Path) -> None:
    """Refuse a folder that holds what no comparison has written.

    Raises:
        ConfigError: it does, or is a file.
    """
    try:
        if output.exists() and not output.is_dir():
            raise ConfigError(f"the output {output} is a file; it must be a folder")
        if not output.exists() or (output / JOURNAL).exists():
            return
        if strange := sorted(path.name for path in output.iterdir() if path.name not in OWN_FILES):
            raise ConfigError(
                f"the output folder {output} holds {strange[0]!r}, which is no comparison's; choose another with "
                "--output"
            )
    except OSError as error:
        raise ConfigError(f"the output folder {output} cannot be used: {error.strerror}") from error


def train_dense(setting: Setting, claims: Claims) -> None:
    """Train the dense network where the configuration says so, unless its folder holds it; one process does."""
    settings = setting.config.train
    if settings is None:
        return
    path, checkpoint = setting.output / DENSE_WEIGHTS, setting.output / "training" / "dense.safetensors"
    with claims.claim("dense", wait=True):
        if not path.exists():
            checkpoint.parent.mkdir(exist_ok=True)
            with setting.progress.task("training the dense network") as advance:
                trained(
                    setting, setting.model, setting.data, settings.recipe(seed=setting.config.seed), checkpoint, advance
                )
            save_weights(setting.model, path)
            checkpoint.unlink(missing_ok=True)
    load_weights(setting.model, path)
    setting.model.eval()


def trained(
    setting: Setting, model: nn.Module, data: Data, recipe: Any, checkpoint: Path, advance: Any, **more: Any
) -> dict[str, Any]:
    """Train `model` in place; a training that was stopped goes on from its last epoch. Return what happened."""
    begun = time.monotonic()

    def train() -> Any:
        with placed(setting.config.device, model, more.get("teacher")):
            return fine_tune(
                *(model, data.train.fresh(), data.validation),
                recipe=recipe,
                checkpoint=checkpoint,
                on_step=advance,
                **more,
            )

    history = going_on(train, checkpoint, setting.progress)
    model.eval()
    epochs = [{"epoch": e.number, "loss": e.loss, "accuracy": e.accuracy} for e in history.epochs]
    return {"epochs": epochs, "chosen": history.chosen, "seconds": time.monotonic() - begun}


def open_journal(setting: Setting) -> Journal:
    """Open the journal of the comparison. Raises JournalError where it is another's, saying what differs."""
    identity = identity_of(
        *(setting.model, setting.groups, setting.data), seed=setting.config.seed, settings=setting.config.schedule()
    )
    return Journal.open(setting.output / JOURNAL, identity)
