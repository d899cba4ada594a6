"""The second half of a cell: the plan cut, and accuracy and time measured at each stage, each kept as it happens."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

import secateur_onnx
from secateur.channel_graph import apply_plan, verify_pruning, zero_masked
from secateur.errors import ConfigError, SecateurWarning
from secateur.evaluation import judged
from secateur.journal import Journal
from secateur.modes import placed
from secateur.records import PruningPlan, ScoreTable
from secateur.recovery import compensate, recalibrate_batch_norm
from secateur.training import highest_filters, restart_batch_norm
from secateur_cli.claims import Claims
from secateur_cli.comparison.cells import DENSE, Cell, latency_name
from secateur_cli.comparison.learning import learnt_network
from secateur_cli.comparison.paired import packed
from secateur_cli.comparison.scoring import scores_for
from secateur_cli.comparison.setting import Setting
from secateur_cli.comparison.training import trained
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.stages.recovery import MEMORY


def measure_dense(setting: Setting, journal: Journal) -> float:
    """Return the accuracy of the dense network, which is measured once."""
    fact = journal.fact(DENSE, lambda: _judged(setting, setting.model))
    return float(fact["accuracy"])


def measure(setting: Setting, journal: Journal, claims: Claims, cell: Cell, plan: PruningPlan) -> dict[str, float]:
    """Measure all stages of a cell that the journal lacks; return the accuracy at each.

    What another process measures at this moment, for a cell of the same channels, is waited for.

    Raises:
        SecateurError: the cut network does not compute what the masked one does, or cannot be recovered, trained or
            exported.
    """
    work = _Work(setting, journal, cell, plan)
    found = {}

    def once(name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with claims.claim(name, wait=True):
            fact: dict[str, Any] = journal.fact(name, find)
        return fact

    for stage in setting.config.compare.stages:
        find: Callable[[], dict[str, Any]] = getattr(work, stage.replace("-", "_"))
        found[str(stage)] = float(once(cell.accuracy(stage, plan.kept), find)["accuracy"])
    if setting.config.compare.latency:
        once(latency_name(plan.widths), lambda: _timed(setting, work.cut_network))
    return found


class _Work:
    """The networks of a cell, each made when it is first needed, from the cell's seed: a stop changes none of them."""

    def __init__(self, setting: Setting, journal: Journal, cell: Cell, plan: PruningPlan) -> None:
        self.setting, self.journal, self.cell, self.plan = setting, journal, cell, plan
        self.data = setting.of_seed(cell.seed)

    @cached_property
    def cut_network(self) -> nn.Module:
        setting, cell, plan = self.setting, self.cell, self.plan
        source = learnt_network(setting, cell, plan) if cell.contender.learns else setting.model
        network = apply_plan(source, plan)
        verify_pruning(source, network, plan, setting.data.example)
        return network

    @cached_property
    def recalibrated_network(self) -> nn.Module:
        network, samples = copy.deepcopy(self.cut_network), self.setting.images("recalibrate")
        seed_everything(self.cell.seed)
        with self._placed(network):
            recalibrate_batch_norm(network, self.data.calibration, samples=samples)
        return network

    @cached_property
    def compensated_network(self) -> nn.Module:
        if self.cell.contender.learns:
            return self.recalibrated_network  # as in a run: the weights were trained without what goes
        network, samples = copy.deepcopy(self.cut_network), self.setting.images("compensate")
        seed_everything(self.cell.seed)
        with warnings.catch_warnings(), self._placed(network, self.setting.model):
            warnings.filterwarnings("ignore", "fewer rows than unknowns", SecateurWarning)
            compensate(self.setting.model, network, self.plan, self.data.calibration, samples=samples, memory=MEMORY)
        return network

    def cut(self) -> dict[str, Any]:
        return _judged(self.setting, self.cut_network)

    def recalibrated(self) -> dict[str, Any]:
        return self._recovered(lambda: self.recalibrated_network)

    def compensated(self) -> dict[str, Any]:
        return self._recovered(lambda: self.compensated_network)

    def fine_tuned(self) -> dict[str, Any]:
        """Train from where `recover.method` leaves the network, by the one schedule of all cells."""
        setting, cell, settings = self.setting, self.cell, self.setting.config.fine_tune
        if settings is None:
            raise ConfigError("fine-tuned needs a schedule, but fine_tune is null")
        starts = {
            "none": lambda: self.cut_network,
            "recalibrate": lambda: self.recalibrated_network,
            "compensate": lambda: self.compensated_network,
        }
        network = copy.deepcopy(starts[setting.config.recover.method]())
        if settings.restart_batch_norm:
            restart_batch_norm(network)
        lesson: dict[str, Any] = {"teacher": setting.model, "plan": self.plan} if settings.has_teacher else {}
        if settings.freeze:
            scores: ScoreTable = scores_for(setting, self.journal, cell)
            lesson["freeze"] = highest_filters(scores, settings.freeze, plan=self.plan)
        checkpoint = setting.checkpoint(cell.accuracy("fine-tuned", self.plan.kept))
        recipe = settings.recipe(seed=cell.seed)
        with setting.progress.task(f"fine-tuning: {cell.name}") as advance:

            def stepped(done: int, total: int) -> None:
                zero_masked(network, self.plan)
                advance(done, total)

            seed_everything(cell.seed)
            history = trained(setting, network, self.data, recipe, checkpoint, stepped, **lesson)
        checkpoint.unlink(missing_ok=True)
        return _judged(setting, network) | {"training": history}

    def _placed(self, *networks: nn.Module) -> AbstractContextManager[None]:
        return placed(self.setting.config.device, *networks)

    def _recovered(self, recover: Callable[[], nn.Module]) -> dict[str, Any]:
        begun = time.monotonic()
        network = recover()
        seconds = time.monotonic() - begun
        return _judged(self.setting, network) | {"seconds": seconds}


def _judged(setting: Setting, network: nn.Module) -> dict[str, Any]:
    with placed(setting.config.device, network):
        right, labels = judged(network, setting.data.test)
    return {"accuracy": int(right.sum()) / len(right), "images": len(right), "right": packed(right, labels)}


def _timed(setting: Setting, network: nn.Module) -> dict[str, Any]:
    """Time the network against the dense one in ONNX Runtime."""
    onnx = setting.config.onnx
    with tempfile.TemporaryDirectory() as folder, setting.progress.waiting("timing in ONNX Runtime"):
        paths = [Path(folder) / name for name in ("dense.onnx", "pruned.onnx")]
        for model, path in zip((setting.model, network), paths, strict=True):
            secateur_onnx.export(model, setting.data.example, path)
        timed = secateur_onnx.benchmark(
            *paths,
            batch_sizes=onnx.batch_sizes,
            provider=onnx.provider,
            threads=onnx.threads,
            seconds=onnx.seconds,
            seed=setting.config.seed,
            memory=False,
        ).to_json()
    sides = {side: {"file_bytes": timed[side]["file_bytes"]} for side in ("dense", "pruned")}
    return {key: timed[key] for key in ("provider", "threads", "comparisons", "machine")} | sides
