"""The dense network of one seed, and networks pruned from it, each judged as a run judges them.

A folder for each seed keeps what was found out, and the dense network where it is trained.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from secateur.cost import cost_model
from secateur.journal import Journal
from secateur.records import PruningPlan, ScoreTable
from secateur_cli.claims import Claims
from secateur_cli.figures.keeping import Keeper
from secateur_cli.figures.order import Order, Row, Until
from secateur_cli.inputs.data import Data
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.progress import Progress
from secateur_cli.settings.plan_schema import BudgetConfig, PlanConfig, Search
from secateur_cli.settings.schema import FineTuneConfig, RunConfig, ScoreConfig
from secateur_cli.stages.error_curves import begins_with_curves, error_curves
from secateur_cli.stages.identity import hold_to, identity_of, images_of
from secateur_cli.stages.job import Job
from secateur_cli.stages.latency import search_to_latency
from secateur_cli.stages.pipeline import remove_channels, train_pruned
from secateur_cli.stages.planning import FILES, score, train_dense
from secateur_cli.stages.preparation import prepare
from secateur_cli.stages.recovery import recover
from secateur_cli.workspace import Workspace


@dataclass(frozen=True)
class Scored:
    """Scores, and how long it took to make them."""

    table: ScoreTable
    seconds: float


class Bench:
    """A trained network with its data and groups, and what was found out about it, so that nothing is measured twice.

    Attributes:
        job: the run of the dense network.
        keeper: keeps what is measured.
    """

    def __init__(self, job: Job, scratch: Path, keeper: Keeper) -> None:
        self.job, self.keeper = job, keeper
        self._scratch = scratch

    @property
    def config(self) -> RunConfig:
        """The run, with the seed of this bench."""
        return self.job.config

    def dense(self) -> Row:
        """Return the accuracy of the dense network on the held-out images, with their number."""
        self.job.judge("dense", self.job.model)
        found: Row = self.job.facts["accuracy"][0]
        return found

    @contextmanager
    def cell(self, **sections: Any) -> Iterator[Job]:
        """Yield a job of the same network and data with other sections, in a folder that is gone afterwards.

        Its progress is shown to nobody: a figure has dozens.
        """
        config = self.config.model_copy(update=sections)
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        workspace = Workspace(folder, {}).open()
        budgets = config.plan.budget.counted
        costs = tuple(cost_model(name, self.job.model, self.job.data.example, self.job.groups) for name in budgets)
        try:
            yield replace(
                self.job,
                config=config,
                search=config.plan.search[0],
                workspace=workspace,
                progress=Progress(Console(file=io.StringIO())),
                costs=costs,
                facts={"accuracy": []},
            )
        finally:
            workspace.close()
            shutil.rmtree(folder, ignore_errors=True)

    def scored(self, settings: ScoreConfig) -> Scored:
        """Return the scores by these settings."""

        def make() -> dict[str, Any]:
            with self.cell(score=settings) as job:
                table = score(job)
                return {"table": table.to_json(), "seconds": float(job.workspace.stages["scores"]["seconds"])}

        fact = self.keeper.once(f"scores {settings.model_dump_json()}", make)
        return Scored(ScoreTable.from_json(fact["table"]), fact["seconds"])

    def curves(self, job: Job) -> ScoreTable | None:
        """Return the error curves that the search of a job begins with; None where it begins without."""
        if not begins_with_curves(job):
            return None
        scores = self.scored(job.config.score).table

        def make() -> dict[str, Any]:
            return cast(ScoreTable, error_curves(job, scores)).to_json()

        return ScoreTable.from_json(self.keeper.once(f"curves {job.config.score.model_dump_json()}", make))

    def planned(self, settings: PlanConfig, *, score: ScoreConfig | None = None) -> tuple[PruningPlan, int]:
        """Return the plan of the first search of these settings, and how many steps it took.

        Args:
            settings: what may be spent, and which search spends it.
            score: whose scores it goes by; None: those of the run.
        """
        with self.cell(plan=settings, score=score or self.config.score) as job:
            scores, curves = self.scored(job.config.score).table, self.curves(job)
            seed_everything(job.config.seed)  # as a run begins each stage, whatever went before
            plan, steps = search_to_latency(job, scores, curves)
        return plan, len(steps)

    def judged(
        self, plan: PruningPlan, scores: ScoreTable, *, until: Until, fine_tune: FineTuneConfig | None = None
    ) -> list[dict[str, Any]]:
        """Return the accuracy after each step from the removal on, and the MACs, of the network that the plan gives.

        Args:
            plan: what goes.
            scores: those that decide which filters are frozen, if any are.
            until: the last step.
            fine_tune: how to train; None: as the run says.
        """
        settings = fine_tune or self.config.fine_tune
        with self.cell(fine_tune=settings) as job:
            pruned = remove_channels(job, plan)
            if until != "removed":
                recover(job, plan, pruned)
            if until == "fine-tuned":
                train_pruned(job, plan, pruned, scores)
            macs = job.facts["cost"]["macs"]
            common = {"macs": macs["after"], "dense_macs": macs["before"], "plan": plan.fingerprint}
            return [{**fact, **common} for fact in job.facts["accuracy"]]


def with_search(settings: PlanConfig, search: Search, *, macs: float | None = None) -> PlanConfig:
    """Return the section `plan` for one search, the lowest scores going, to a share of the MACs where that is given.

    Example:
        >>> plan = PlanConfig(search=("uniform", "greedy"), budget=BudgetConfig(parameters="40%"), rescore=1)
        >>> narrowed = with_search(plan, "uniform", macs=0.3)
        >>> narrowed.search, narrowed.rescore, narrowed.budget.given
        (('uniform',), None, {'macs': '30%'})
    """
    budget = settings.budget if macs is None else BudgetConfig(macs=f"{100 * macs:g}%")
    return settings.for_search(search).model_copy(update={"budget": budget, "variant": ("low",)})


@contextmanager
def bench(order: Order, seed: int, *, check: Callable[[Data], object] = lambda _: None) -> Iterator[Bench]:
    """Yield the bench of a seed: data split by it, the network trained with it where the configuration trains.

    Args:
        order: the figure as it was asked for.
        seed: of the run.
        check: raises where the data will not do.

    Raises:
        SecateurError: whatever `secateur_cli.stages.preparation.prepare` or `check` refuses, before anything is kept.
        ConfigError, JournalError: what was kept is of another network, other images or settings; says which.
    """
    config = order.config.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory(prefix="secateur-figure-") as scratch:
        job = prepare(
            config,
            config.plan.search[0],
            folder=order.folder,
            output=Path(scratch) / "dense",
            progress=order.progress,
            smoke=order.smoke,
            files=FILES,
            begun=time.monotonic(),
        )
        order.facts.setdefault(
            "network", job.facts["network"] | {"weights_sha256": job.workspace.settings["weights_sha256"]}
        )
        order.facts.setdefault("data", job.facts["data"])
        kept = (order.kept or Path(scratch) / "kept") / f"seed-{seed}"
        try:
            check(job.data)
            kept.mkdir(parents=True, exist_ok=True)
            with Claims(kept / "claims", order.progress.waiting) as claims:
                _train(job, kept / "dense", claims)
                identity = identity_of(job.model, job.groups, job.data, seed=seed, settings=config.deciding())
                with Journal.open(kept / "journal.sqlite", identity) as journal:
                    hold_to(kept, job.workspace.network)
                    keeper = Keeper(journal, claims, order.progress)
                    yield Bench(job, Path(scratch), keeper)
                    order.add(keeper.took())
        finally:
            job.workspace.close()


def _train(job: Job, folder: Path, claims: Claims) -> None:
    """Train the dense network where the configuration says so, by one process, in a folder that keeps its epochs."""
    if job.config.train is None:
        return
    with claims.claim("dense network", wait=True):
        settings = {"seed": job.config.seed, **job.config.deciding()}
        images = images_of(job.data, seed=job.config.seed)
        workspace = Workspace(folder, settings, files=FILES).open(images, job.workspace.network)
        try:
            train_dense(replace(job, workspace=workspace))
        finally:
            workspace.close()
