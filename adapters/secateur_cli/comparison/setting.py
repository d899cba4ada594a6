"""What a comparison starts from: the dense network, its groups and costs, the images of each seed, and the journal."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur_onnx
from secateur.batches import rebatch
from secateur.channel_graph import channel_groups
from secateur.channel_map import with_channel_maps
from secateur.cost import cost_model
from secateur.errors import ConfigError
from secateur.fingerprints import weights_hash
from secateur.journal import Journal, digest_of_batches
from secateur.journal.identity import Identity
from secateur.protocols import CostModel
from secateur.records import ChannelGroups, ScoreTable
from secateur.search.problem import state_problem
from secateur.weights import tensors_of
from secateur_cli.comparison.contenders import Subject
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.inputs.data import Data, load_data
from secateur_cli.inputs.epochs import Epochs, seed_everything
from secateur_cli.inputs.sources import build_network
from secateur_cli.progress import Progress
from secateur_cli.settings.plan_schema import BudgetConfig
from secateur_cli.settings.schema import RecoverConfig
from secateur_cli.settings.values import Recovery
from secateur_cli.stages.identity import DIGESTED, NETWORK, identity_of
from secateur_cli.stages.preparation import check_device, logits
from secateur_cli.stages.recovery import calibration_images
from secateur_cli.stages.timed_batches import check_batches
from secateur_cli.stages.trainings import rehearse_training
from secateur_cli.workspace import UNFINISHED

JOURNAL, CLAIMS, DENSE_WEIGHTS = "comparison.sqlite", "claims", "dense.safetensors"
TRAINING, LEARNT, GREEDY = "training", "learnt", "greedy"
OWN_FILES = {CLAIMS, DENSE_WEIGHTS, NETWORK, TRAINING, LEARNT, GREEDY}
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
        """Return the images of a seed; those of the configuration's own and of the last other one are kept.

        Where the dense network is trained here, all seeds set the same images aside: those that it has not seen.
        """
        if seed == self.config.seed:
            return self.data
        if self._of_seed is None or self._of_seed[0] != seed:
            outputs = logits(self.model, self.data.example).shape[1]
            split_seed = None if self.config.train is None else self.config.seed
            data = load_data(self.config.data, folder=self.folder, seed=seed, split_seed=split_seed)
            self._of_seed = seed, data.for_outputs(outputs)
        return self._of_seed[1]

    def subject(self, seed: int) -> Subject:
        """Return what criteria score under a seed."""
        return Subject(self.model, self.groups, self.of_seed(seed).calibration, self.config.score.tap)

    @property
    def even(self) -> ScoreTable:
        """Scores that mean nothing, for widths that depend on none."""
        return ScoreTable({name: torch.ones(group.width) for name, group in self.groups.items()})

    def checkpoint(self, name: str) -> Path:
        """Return where a training keeps its last epoch; the folder exists."""
        folder = self.output / TRAINING
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.safetensors"

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
    trains = "fine-tuned" in config.compare.stages
    told = config if trains else config.model_copy(update={"fine_tune": None})
    check_folder(output)
    check_device(told)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    with progress.waiting("building the network and reading the data"):
        model = build_network(config.network, folder).eval()
        data = load_data(config.data, folder=folder, seed=config.seed)
        data = data.for_outputs(logits(model, data.example).shape[1])
        model = with_channel_maps(model, data.example)
        groups = channel_groups(model, data.example, ignore=config.plan.ignore, residual=config.plan.residual)
    setting = Setting(config, folder, output, progress, model, groups, data)
    for budget in config.compare.budgets:
        plan, costs = config.plan, setting.costs(budget)
        state_problem(
            *(groups, setting.even, costs, budget.given),
            round_to=plan.round_to,
            min_keep=plan.min_keep,
            reduction="sum",
        )
    _check_seeds(setting)
    tensors_of(model)
    rehearse_training(told, "uniform", model, data.example)
    for method in METHODS:
        setting.images(method)
    _check_packages(config)
    if config.compare.latency:
        check_batches(config, model, data.example)
    return setting


def _check_seeds(setting: Setting) -> None:
    """Refuse seeds that change nothing: what they measure would count as so many measurements, all alike."""
    seeds = setting.config.compare.seeds
    if len(seeds) == 1 or isinstance(setting.data.calibration, Epochs):
        return
    read = {}
    for seed in seeds[:2]:
        seed_everything(seed)
        read[seed] = digest_of_batches(rebatch(setting.of_seed(seed).calibration, None, samples=DIGESTED))
    if len(set(read.values())) == 1:
        raise ConfigError(
            f"compare.seeds: {setting.config.data.source} gives the same images in the same order under the seeds "
            f"{' and '.join(map(str, read))}, so that they would be one measurement told as several; let its training "
            "batches be shuffled (shuffle=True of a DataLoader), leave its validation split out, or name one seed"
        )


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
        others = (path.name for path in output.iterdir() if path.name not in OWN_FILES)
        if strange := sorted(name for name in others if not UNFINISHED.fullmatch(name)):
            raise ConfigError(
                f"the output folder {output} holds {strange[0]!r}, which is no comparison's; choose another with "
                "--output"
            )
    except OSError as error:
        raise ConfigError(f"the output folder {output} cannot be used: {error.strerror}") from error


def open_journal(setting: Setting, parts: Identity) -> Journal:
    """Open the journal of the comparison: of its identity, with the weights as they are now.

    Raises:
        JournalError: it is another's; says what differs.
    """
    return Journal.open(setting.output / JOURNAL, {**parts, "weights": weights_hash(setting.model)})


def identity(setting: Setting) -> dict[str, Any]:
    """Return what makes it the same comparison, the weights as they are now; reads 2,000 images, see `identity_of`."""
    return identity_of(
        *(setting.model, setting.groups, setting.data), seed=setting.config.seed, settings=setting.config.schedule()
    )
