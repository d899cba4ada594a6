"""Going through the cells: what is known is passed by, what another process works at is left to it, all is kept."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from secateur.errors import JournalError, MissingDependencyError, SecateurError, SecateurWarning
from secateur.journal import Journal
from secateur_cli.claims import Claims
from secateur_cli.comparison.cells import DENSE, Cell
from secateur_cli.comparison.measuring import measure, measure_dense
from secateur_cli.comparison.scoring import decided, plan_of
from secateur_cli.comparison.setting import Setting
from secateur_cli.wording import duration, percent

POLL = 1.0  # seconds between two looks at what another process works at
NOT_OF_A_CELL = (JournalError, MissingDependencyError)


def work(setting: Setting, journal: Journal, claims: Claims, cells: Sequence[Cell]) -> None:
    """Measure what the journal lacks of the cells, alone or beside other processes, and wait for what those do.

    A cell that cannot be measured is recorded with the reason, and tried again by each call: the reason may be gone.

    Raises:
        JournalError: the journal cannot be read or written.
        MissingDependencyError: a package is missing that some cell needs.
    """
    say = setting.progress.say
    with claims.claim(DENSE, wait=True):
        say(f"dense: {percent(measure_dense(setting, journal))} of the held-out images right")
    tried: set[str] = set()
    left = _unfinished(setting, journal, cells, tried)
    known, clock = len(cells) - len(left), _Clock(len(left))
    if known:
        say(f"{known} of {len(cells)} cells are in the journal already")
    told = False
    while left:
        before = len(left)
        for cell in left:
            with claims.claim(f"cell {cell.name}") as ours:
                if ours and _is_open(setting, journal, cell, tried):
                    result = _measured(setting, journal, claims, cell, tried)
                    still = len(_unfinished(setting, journal, cells, tried))
                    say(f"[{len(cells) - still}/{len(cells)}] {cell.name}: {result}; {clock.told(still)}")
        left = _unfinished(setting, journal, cells, tried)
        if left and len(left) == before:
            if not told:
                say(f"waiting for {len(left)} of {len(cells)} cells, which other processes work at")
                told = True
            time.sleep(POLL)


class _Clock:
    """The time left at the pace of all processes that measure cells."""

    def __init__(self, left: int) -> None:
        self._first, self._begun = left, time.monotonic()

    def told(self, left: int) -> str:
        """Return how long has passed, and how long the cells that are left may take, if any are."""
        took = time.monotonic() - self._begun
        each = took / max(1, self._first - left)
        return duration(took) + (f", about {duration(each * left)} left" if left else "")


def _measured(setting: Setting, journal: Journal, claims: Claims, cell: Cell, tried: set[str]) -> str:
    """Measure a cell; return what came of it in words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecateurWarning)  # of groups without scores, which the table counts
            plan = plan_of(setting, journal, claims, cell)
            found = measure(setting, journal, claims, cell, plan)
    except NOT_OF_A_CELL:
        raise
    except SecateurError as error:
        tried.add(cell.refusal)
        reason = str(error)
        journal.fact(f"{cell.refusal}: {reason}", lambda: {"reason": reason})
        return f"not measured: {error}"
    return ", ".join(f"{stage} {percent(share)}" for stage, share in found.items())


def _unfinished(setting: Setting, journal: Journal, cells: Sequence[Cell], tried: set[str]) -> list[Cell]:
    facts: dict[str, Any] = journal.facts()
    return [cell for cell in cells if _open_in(setting, facts, cell, tried)]


def _is_open(setting: Setting, journal: Journal, cell: Cell, tried: set[str]) -> bool:
    return bool(_unfinished(setting, journal, [cell], tried))


def _open_in(setting: Setting, facts: dict[str, Any], cell: Cell, tried: set[str]) -> bool:
    if cell.refusal in tried:
        return False
    if cell.plan not in facts:
        return True
    kept, widths = decided(setting.groups, facts[cell.plan])
    return any(name not in facts for name in cell.needed(setting.config.compare, kept, widths))
