"""The first half of a cell, up to its plan: scores with what they took, error curves, widths, channels."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from secateur.errors import SaturationWarning
from secateur.journal import Journal
from secateur.modes import placed
from secateur.protocols import Kept
from secateur.records import ChannelGroup, PruningPlan, ScoreTable
from secateur.scoring import reconstruction_scores
from secateur.search import curve_plan, greedy_plan, uniform_plan
from secateur_cli.claims import Claims
from secateur_cli.comparison.cells import Cell
from secateur_cli.comparison.contenders import chosen, curves_are_its_own, scores_of
from secateur_cli.comparison.learning import learn_plan
from secateur_cli.comparison.setting import GREEDY, Setting
from secateur_cli.inputs.epochs import seed_everything
from secateur_cli.stages import prescribed
from secateur_cli.stages.judge import judge_of
from secateur_cli.stages.preparation import logits
from secateur_cli.stages.recovery import MEMORY
from secateur_onnx.raw_session import forget_peak, resident

Found = TypeVar("Found")


def plan_of(setting: Setting, journal: Journal, claims: Claims, cell: Cell) -> PruningPlan:
    """Return the plan of a cell: from the journal, or found and stored there.

    Scores and curves that another process makes at this moment are waited for.

    Raises:
        SecateurError: the criterion cannot score the network, the search or the masks do not go with it, or the budget
            is out of its reach. Nothing of the plan is stored then.
    """

    def learnt() -> dict[str, Any]:
        begun = time.monotonic()
        plan = learn_plan(setting, cell)
        return _plain(plan, time.monotonic() - begun)

    def find() -> dict[str, Any]:
        contender = cell.contender
        with claims.claim(cell.scores, wait=True):
            scores = scores_for(setting, journal, cell)
        curves = None
        if cell.search == "curves":
            with claims.claim(cell.curves, wait=True):
                curves = _curves(setting, journal, cell, scores)
        begun = time.monotonic()
        plan = seeded(cell.seed, lambda: _search(setting, cell, scores, curves))
        samples = contender.samples or setting.config.score.samples
        subject = setting.subject(cell.seed)
        with placed(setting.config.device, setting.model):
            plan = seeded(
                cell.seed,
                lambda: chosen(subject, plan, contender.name, contender.options, samples=samples, scores=scores),
            )
        return _plain(plan, time.monotonic() - begun)

    return planned(setting, journal.fact(cell.plan, learnt if cell.contender.learns else find))


def planned(setting: Setting, fact: Mapping[str, Any]) -> PruningPlan:
    """Return the plan that a fact of the journal holds."""
    groups = [group.to_json() for group in setting.groups.values()]
    return PruningPlan.from_json({**fact, "groups": groups})


def decided(groups: Mapping[str, ChannelGroup], fact: Mapping[str, Any]) -> tuple[Kept, dict[str, int]]:
    """Return which channels, and how many, each group keeps by the plan that a fact of the journal holds."""
    kept = {name: tuple(channels) for name, channels in fact["kept"].items()}
    return kept, {name: len(kept[name]) if name in kept else group.width for name, group in groups.items()}


def scores_for(setting: Setting, journal: Journal, cell: Cell) -> ScoreTable:
    """Return the scores of a cell: from the journal, or made and stored there with the time and memory they took."""
    contender = cell.contender
    samples = contender.samples or setting.config.score.samples

    def make() -> dict[str, Any]:
        subject = setting.subject(cell.seed)

        def score() -> ScoreTable:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SaturationWarning)  # the table says which criterion ties
                return scores_of(subject, contender.name, contender.options, samples=samples, seed=cell.seed)

        waiting = setting.progress.waiting(f"scoring: {contender.full_label}")
        with waiting, placed(setting.config.device, setting.model):
            logits(setting.model, setting.data.example)  # a device that has done nothing yet takes seconds to begin
            table, took = measured(score)
        return took | {"table": table.to_json()}

    fact = journal.fact(cell.scores, lambda: seeded(cell.seed, make))
    return ScoreTable.from_json(fact["table"])


def measured(work: Callable[[], Found]) -> tuple[Found, dict[str, Any]]:
    """Return what `work` does, and what it took.

    Which is: `seconds`; `processor_seconds`, of all threads, which other processes on the machine hardly change; and
    `peak_bytes`, the highest resident memory meanwhile less what was resident, once memory that earlier work gave back
    has been handed to the system: None on other systems than Linux. What happens on a device is not counted.

    Example:
        >>> found, took = measured(lambda: bytearray(64 * 2**20))
        >>> len(found), list(took), took["peak_bytes"] is None or 60e6 < took["peak_bytes"] < 200e6
        (67108864, ['seconds', 'processor_seconds', 'peak_bytes'], True)
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    before = resident("VmRSS") if sys.platform == "linux" and forget_peak() else None
    begun, spent = time.perf_counter(), time.process_time()
    found = work()
    seconds, processor = time.perf_counter() - begun, time.process_time() - spent
    after = None if before is None else resident("VmHWM")
    peak = None if before is None or after is None else max(0, after - before)
    return found, {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak}


def seeded(seed: int, work: Callable[[], Found]) -> Found:
    """Return what `work` does when all draw from a seed, so that it does the same after a stop as without one."""
    seed_everything(seed)
    return work()


def _plain(plan: PruningPlan, seconds: float) -> dict[str, Any]:
    facts = plan.to_json()
    del facts["groups"]  # those of the network, which the journal is of
    narrowed = {name: list(kept) for name, kept in plan.kept.items() if plan.removed(name)}
    return facts | {"kept": narrowed, "seconds": seconds}  # by which equal plans are known


def _search(setting: Setting, cell: Cell, scores: ScoreTable, curves: ScoreTable | None) -> PruningPlan:
    plan, budget, costs = setting.config.plan, cell.budget.given, setting.costs(cell.budget)
    widths: dict[str, Any] = {"round_to": plan.round_to, "min_keep": plan.min_keep}
    if cell.search == "uniform":
        return uniform_plan(setting.groups, scores, costs, budget, **widths)
    if cell.search == "cross_layer":
        given = prescribed.Setting(setting.model, setting.data.example, setting.groups, costs, budget, None, cell.seed)
        return prescribed.prescribed_plan(cell.search, plan, scores, given)
    if curves is not None:
        return curve_plan(setting.groups, curves, costs, budget, order=scores, **widths)
    with _judging(setting, cell) as evaluate:
        return greedy_plan(setting.groups, scores, costs, budget, evaluate, delta=plan.delta, **widths)


def _curves(setting: Setting, journal: Journal, cell: Cell, scores: ScoreTable) -> ScoreTable:
    """Return the error curves in the order of the scores; these themselves where they are such."""
    if curves_are_its_own(cell.contender.name, cell.contender.options):
        return scores

    def make() -> dict[str, Any]:
        begun = time.monotonic()
        batches, samples = setting.of_seed(cell.seed).calibration, setting.images("compensate")
        waiting = setting.progress.waiting(f"error curves: {cell.contender.full_label}")
        with waiting, placed(setting.config.device, setting.model):
            table = reconstruction_scores(
                setting.model, setting.groups, batches, samples=samples, memory=MEMORY, order=scores
            )
        return {"seconds": time.monotonic() - begun, "table": table.to_json()}

    return ScoreTable.from_json(journal.fact(cell.curves, lambda: seeded(cell.seed, make))["table"])


@contextmanager
def _judging(setting: Setting, cell: Cell) -> Iterator[Any]:
    """Yield what judges the candidates of a greedy search, with a journal that the searches to other budgets share."""
    config, contender = setting.config, cell.contender
    score = config.score.model_copy(update={"criterion": contender.full_label, "options": dict(contender.options)})
    run = config.model_copy(update={"seed": cell.seed, "score": score})
    folder = setting.output / GREEDY
    folder.mkdir(exist_ok=True)
    made = 0
    with placed(setting.config.device, setting.model):
        judge = judge_of(run, "greedy", model=setting.model, groups=setting.groups, data=setting.of_seed(cell.seed))
    with (
        Journal.open(folder / f"{judge.name}.sqlite", judge.identity) as candidates,
        setting.progress.task(f"greedy search: {cell.name}, candidates") as advance,
    ):

        def tell() -> None:
            nonlocal made
            made += 1
            advance(made, 0)

        yield candidates.remembering(judge.evaluate, on_worth=tell)
