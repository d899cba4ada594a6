"""An evaluation that looks up what it has found before, and stores what it finds as it happens."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from secateur.errors import JournalError
from secateur.journal.identity import flat
from secateur.journal.store import Store
from secateur.plain_data import own_number
from secateur.protocols import Evaluate, Kept, Race, Worth


class Remembering:
    """An evaluation with a memory in a journal; made by `Journal.remembering`.

    A worth counts as stored in the file, also right after it was computed: several processes on one journal decide by
    the same values, those of whoever was first. Numbers that are not finite are returned but never stored.

    Attributes:
        made: how many candidates were judged to the end by the evaluation itself, not looked up.
        settings: those of the evaluation, where it has any; what evaluations of other settings have found is not used.

    Example:
        >>> import tempfile
        >>> from secateur.journal import Journal
        >>> folder = tempfile.TemporaryDirectory()
        >>> with folder as path, Journal.open(f"{path}/journal.sqlite", {"seed": 0}) as journal:
        ...     evaluate = journal.remembering(lambda kept: len(kept["conv"]) / 8)
        ...     evaluate({"conv": (0, 3)}), evaluate({"conv": (0, 3)}), evaluate.made
        (0.25, 0.25, 1)
    """

    settings: Mapping[str, Any]

    def __init__(self, store: Store, evaluate: Evaluate, on_worth: Callable[[], object] = lambda: None) -> None:
        self.made = 0
        self._on_worth = on_worth
        self._store = store
        self._evaluate = evaluate
        settings = getattr(evaluate, "settings", None)
        if settings is not None:
            self.settings = settings
        self._evaluation = _name_of(settings or {})

    def __call__(self, kept: Kept) -> float:
        """Return the worth of a candidate, from memory if it is there.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        return self._once(kept, self._evaluate, self._evaluation)

    def fresh(self, kept: Kept) -> float:
        """Return the worth that a candidate has when it is judged once more; that is remembered by itself.

        Raises:
            JournalError: as a call.
        """
        return self._once(kept, getattr(self._evaluate, "fresh", self._evaluate), f"{self._evaluation} once more")

    def _once(self, kept: Kept, evaluate: Evaluate, evaluation: str) -> float:
        known = self._recall(kept, evaluation)
        if known is not None and known.exact:
            return known.value
        begun = time.monotonic()
        value = float(evaluate(kept))
        self.made += 1
        if not math.isfinite(value):
            return value
        return self._keep(kept, Worth(value), evaluation, seconds=time.monotonic() - begun).value

    def _recall(self, kept: Kept, evaluation: str) -> Worth | None:
        """Return what is stored of a candidate."""
        key = candidate_key(kept)
        rows = self._store.read(
            "SELECT worth, exact FROM evaluations WHERE candidate = ? AND evaluation = ?", key, evaluation
        )
        with self._store.interpreting():
            return Worth(float(rows[0][0]), bool(rows[0][1])) if rows else None

    def _keep(self, kept: Kept, worth: Worth, evaluation: str, *, seconds: float) -> Worth:
        """Store a worth; return what is stored: the first exact worth, else the lowest bound."""
        widths = json.dumps({group: len(channels) for group, channels in kept.items()})
        with self._store.writing(lasting=worth.exact) as write:
            write(
                "INSERT INTO evaluations (candidate, evaluation, worth, exact, seconds, widths) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (candidate, evaluation) DO UPDATE SET worth = excluded.worth, "
                "exact = excluded.exact, seconds = excluded.seconds, at = CURRENT_TIMESTAMP "
                "WHERE NOT exact AND (excluded.exact OR excluded.worth < worth)",
                *(candidate_key(kept), evaluation, worth.value, worth.exact, seconds, widths),
            )
        self._on_worth()
        return self._recall(kept, evaluation) or worth


class RememberingRace(Remembering):
    """A race with a memory in a journal: what earlier races have found is handed to the next.

    Example:
        >>> import tempfile
        >>> from secateur.journal import Journal
        >>> class Widest:
        ...     def __call__(self, kept):
        ...         return float(len(kept["conv"]))
        ...     def race(self, candidates, known=(), record=lambda idx, worth: None):
        ...         return [Worth(self(kept)) for kept in candidates]
        >>> folder = tempfile.TemporaryDirectory()
        >>> with folder as path, Journal.open(f"{path}/journal.sqlite", {"seed": 0}) as journal:
        ...     evaluate = journal.remembering(Widest())
        ...     worths = [evaluate.race([{"conv": (0,)}, {"conv": (0, 1)}]) for _ in range(2)]
        ...     worths[0] == worths[1], [worth.value for worth in worths[1]], evaluate.made
        (True, [1.0, 2.0], 2)
    """

    _evaluate: Race

    def race(
        self,
        candidates: Sequence[Kept],
        *,
        known: Mapping[int, Worth] | None = None,
        record: Callable[[int, Worth], None] | None = None,
    ) -> list[Worth]:
        """Return the worth of each candidate, as `secateur.protocols.Race` has it.

        Args:
            candidates: what is compared.
            known: number of a candidate -> what is known besides what the journal holds.
            record: called with a candidate's number and worth once that is stored.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        start = dict(known or {})
        for idx, kept in enumerate(candidates):
            remembered = self._recall(kept, self._evaluation)
            if remembered is not None:
                start[idx] = _better(remembered, start.get(idx))
        settled = dict(start)
        begun = time.monotonic()

        def settle(idx: int, worth: Worth) -> None:
            nonlocal begun
            if settled.get(idx) != worth and math.isfinite(worth.value):
                self.made += worth.exact
                worth = self._keep(candidates[idx], worth, self._evaluation, seconds=time.monotonic() - begun)
                begun = time.monotonic()
            settled[idx] = worth
            if record is not None:
                record(idx, worth)

        for idx, worth in enumerate(self._evaluate.race(candidates, known=start, record=settle)):
            if _better(worth, settled.get(idx)) != settled.get(idx):  # the race has not told of it
                settle(idx, worth)
        return [settled[idx] for idx in range(len(candidates))]


def remembering(store: Store, evaluate: Evaluate, on_worth: Callable[[], object]) -> Remembering:
    """Return `evaluate` with a memory; it can hold races if `evaluate` can."""
    kind = RememberingRace if isinstance(evaluate, Race) else Remembering
    return kind(store, evaluate, on_worth)


def _name_of(settings: Mapping[str, Any]) -> str:
    """Return the settings of an evaluation as the text that what it finds is kept by."""
    what = "the settings of an evaluation that a journal remembers"
    try:
        return json.dumps(dict(settings), sort_keys=True, default=own_number)
    except (TypeError, ValueError) as error:
        if isinstance(settings, Mapping):
            flat(settings, what=what)  # names the one
        raise JournalError(f"{what} must be a mapping from text to plain data: {error}") from error


def candidate_key(kept: Kept) -> str:
    """Return the sha256 of a candidate: groups in any order, and the channels that they keep.

    Raises:
        JournalError: the channels are no numbers.

    Example:
        >>> candidate_key({"a": (0, 1), "b": (2,)}) == candidate_key({"b": (2,), "a": (0, 1)})
        True
    """
    channels = {group: list(stay) for group, stay in kept.items()}
    try:
        text = json.dumps(channels, sort_keys=True, default=own_number)
    except TypeError as error:
        raise JournalError(f"a candidate must map groups to the channels that they keep, numbers: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _better(worth: Worth, other: Worth | None) -> Worth:
    """Return what says more of a candidate: what is exact, else the lower bound; the second where they say the same."""
    if other is None or (worth.exact, -worth.value) > (other.exact, -other.value):
        return worth
    return other
