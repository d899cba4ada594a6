"""The journal of one search: every score, evaluation, measurement and decision, stored as it happens.

A search is a function of its scores, its evaluations and its settings. So a search that was killed is simply begun
again: it finds in the journal what it had found out, decides what it had decided, and goes on where it ended.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from numbers import Real
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import torch

from secateur.errors import JournalError
from secateur.journal.identity import Identity, flat, refuse_another
from secateur.journal.remembering import Remembering, candidate_key, remembering
from secateur.journal.store import Store
from secateur.plain_data import own_number
from secateur.protocols import Evaluate, Kept
from secateur.records import PruningPlan, ScoreTable


class Decision(Protocol):
    """A step that a search took: a dataclass with the number `step`, of plain data."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Journal:
    """What one search has found out, in a file of sqlite that any tool reads.

    Its tables are identity (key, value), score_tables and scores (name, layer, channel, score), evaluations (candidate,
    worth, exact, seconds, widths), decisions (step, channel_group, width, cost, worth), measurements (name, value,
    unit), facts (name, fact) and plans (fingerprint, plan).

    What is stored is there for good, whenever the process is killed and, but for bounds of a race, also when the power
    fails. Several processes may hold one journal open: whoever stores first is believed by all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):  # the second search finds what the first has found out
        ...         with Journal.open(f"{folder}/journal.sqlite", {"seed": 0}) as journal:
        ...             evaluate = journal.remembering(lambda kept: 0.5)
        ...             evaluate({"conv": (0, 1)}), evaluate.made
        (0.5, 1)
        (0.5, 0)
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def open(cls, path: str | PathLike[str], identity: Identity, *, patience: float = 30.0) -> Self:
        """Open the journal of a search, or begin it.

        Args:
            path: the file; its folder exists.
            identity: what makes it the same search, plain data; see `identify`.
            patience: seconds to wait for another process that writes.

        Raises:
            JournalError: the journal is of another search (named is what differs), the file is no journal or one of a
                newer format, and stays as it is then; or it cannot be read or written.
        """
        parts = flat(identity)
        if not parts:
            raise JournalError("the identity of a search must have at least one part, or any search would do")
        store = Store(Path(path), patience=patience)
        try:
            with store.writing() as write:
                before = dict(store.read("SELECT key, value FROM identity ORDER BY rowid"))
                if not before:
                    for key, value in parts.items():
                        write("INSERT INTO identity VALUES (?, ?)", key, value)
            refuse_another(path, before, parts)
        except BaseException:
            store.close()
            raise
        return cls(store)

    @staticmethod
    def check(path: str | PathLike[str], identity: Identity) -> None:
        """Refuse the journal of another search by the parts of its identity that are known, before the rest is made.

        Args:
            path, identity: as for `open`, but fewer parts; where there is no file nothing is refused, and none is made.

        Raises:
            JournalError: as `open`.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Journal.open(f"{folder}/journal.sqlite", {"weights": "0f", "seed": 0}).close()
            ...     Journal.check(f"{folder}/journal.sqlite", {"seed": 0})
        """
        if Path(path).exists():
            with closing(Store(Path(path))) as store:
                before = store.read("SELECT key, value FROM identity ORDER BY rowid")
            known = {key: value for key, value in before if key.partition(".")[0] in identity}
            refuse_another(path, known, flat(identity))

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def scores(self, name: str, compute: Callable[[], ScoreTable]) -> ScoreTable:
        """Return the scores stored under a name, or compute and store them.

        Raises:
            JournalError: their settings are no plain data, or the journal cannot be read or written.
        """
        stored = self._scores(name)
        if stored is not None:
            return stored
        begun = time.monotonic()
        table = compute()
        row = (name, _record(f"the settings of the scores {name!r}", dict(table.settings)), time.monotonic() - begun)
        with self._store.writing() as write:
            if write("INSERT OR IGNORE INTO score_tables (name, settings, seconds) VALUES (?, ?, ?)", *row):
                for layer, values in table.items():
                    for channel, score in enumerate(values.tolist()):
                        write("INSERT INTO scores VALUES (?, ?, ?, ?)", name, layer, channel, score)
        return self._scores(name) or table

    def rescoring(self, name: str, rescore: Callable[[Kept], ScoreTable]) -> Callable[[Kept], ScoreTable]:
        """Return `rescore`, the scores of a network as cut so far, with this journal as its memory.

        Args:
            name: tells these scores from others.
            rescore: the scores of the network that keeps some channels.
        """
        return lambda kept: self.scores(f"{name} {candidate_key(kept)}", lambda: rescore(kept))

    def remembering(self, evaluate: Evaluate, *, on_worth: Callable[[], object] = lambda: None) -> Remembering:
        """Return `evaluate` with this journal as its memory; a `Race` stays one.

        What evaluations of other `settings` have found is kept apart.

        Args:
            evaluate: what a candidate is worth.
            on_worth: called whenever the worth of a candidate, or a bound of it, was found and stored.

        Raises:
            JournalError: the settings of the evaluation are not plain data, with the one that is not.
        """
        return remembering(self._store, evaluate, on_worth)

    def measurements(
        self, names: Sequence[str], measure: Callable[[], Sequence[float]], *, unit: str = ""
    ) -> list[float]:
        """Return the numbers stored under several names; where any is missing, measure all and store those together.

        Raises:
            JournalError: a number is not finite, or not one for each name; or the journal cannot be read or written.
        """
        stored = self._measured(names)
        if len(stored) < len(set(names)):
            begun = time.monotonic()
            values = [float(value) for value in measure()]
            if len(values) != len(names):
                raise JournalError(f"{len(names)} measurements were asked for, and {len(values)} came")
            for name, value in zip(names, values, strict=True):
                if not math.isfinite(value):
                    raise JournalError(f"the measurement {name!r} gave {value}; it must be a finite number")
            seconds = time.monotonic() - begun
            with self._store.writing() as write:
                for row in zip(names, values, strict=True):
                    sql = "INSERT OR IGNORE INTO measurements (name, value, unit, seconds) VALUES (?, ?, ?, ?)"
                    write(sql, *row, unit, seconds)
            stored = self._measured(names)
        return [stored[name] for name in names]

    def _measured(self, names: Sequence[str]) -> dict[str, float]:
        sql = "SELECT value FROM measurements WHERE name = ?"
        with self._store.interpreting():
            return {name: float(row[0][0]) for name in names if (row := self._store.read(sql, name))}

    def fact(self, name: str, find: Callable[[], Any]) -> Any:
        """Return the plain data stored under a name, or find and store it.

        Raises:
            JournalError: what was found is no plain data, or the journal cannot be read or written.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Journal.open(f"{folder}/journal.sqlite", {"seed": 0}) as journal:
            ...         journal.fact("dense", lambda: {"right": 9}), journal.fact("dense", lambda: {"right": 8})
            ({'right': 9}, {'right': 9})
        """
        stored = self._store.read("SELECT fact FROM facts WHERE name = ?", name)
        if not stored:
            record = _record(f"the fact {name!r}", find(), finite=True)
            with self._store.writing() as write:
                write("INSERT OR IGNORE INTO facts (name, fact) VALUES (?, ?)", name, record)
            stored = self._store.read("SELECT fact FROM facts WHERE name = ?", name)
        with self._store.interpreting():
            return json.loads(stored[0][0])

    def facts(self, beginning: str = "") -> dict[str, Any]:
        """Return all facts whose names begin so, in the order in which they were stored."""
        rows = self._store.read("SELECT name, fact FROM facts ORDER BY rowid")
        with self._store.interpreting():
            return {name: json.loads(fact) for name, fact in rows if name.startswith(beginning)}

    def decided(self, step: Decision) -> None:
        """Store a step of the search; for `on_step`.

        Raises:
            JournalError: an earlier run of the same search decided otherwise, the step is no plain data, or the journal
                cannot be written.
        """
        fields = asdict(step)
        number, record = fields["step"], _record("a step of the search", fields)
        columns = (fields.get("group"), fields.get("width"), _number(fields.get("cost")), _number(fields.get("worth")))
        with self._store.writing() as write:
            write(
                "INSERT OR IGNORE INTO decisions (step, channel_group, width, cost, worth, record) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                *(number, *columns, record),
            )
        self._compare(f"step {number}", record, self._store.read("SELECT record FROM decisions WHERE step = ?", number))

    def finished(self, plan: PruningPlan) -> None:
        """Store the plan that the search has ended in.

        Raises:
            JournalError: an earlier run of the same search ended in another, the plan's settings are no plain data, or
                the journal cannot be written.
        """
        record = _record("the plan of the search", plan.to_json())
        with self._store.writing() as write:
            write("INSERT OR IGNORE INTO plans (id, fingerprint, plan) VALUES (1, ?, ?)", plan.fingerprint, record)
        self._compare("the plan", record, self._store.read("SELECT plan FROM plans"))

    @property
    def plan(self) -> PruningPlan | None:
        """The plan that the search has ended in; None where it has not."""
        stored = self._store.read("SELECT plan FROM plans")
        with self._store.interpreting():
            return PruningPlan.from_json(json.loads(stored[0][0])) if stored else None

    @property
    def evaluations(self) -> int:
        """How many exact worths are stored."""
        return int(self._store.read("SELECT count(*) FROM evaluations WHERE exact")[0][0])

    def _compare(self, what: str, record: str, stored: list[tuple[Any, ...]]) -> None:
        ((before,),) = stored
        if record != before:
            raise JournalError(
                f"{what} of the search is {_shortly(record)}, but the journal {self._store.path} holds "
                f"{_shortly(before)}: it is not the same search, or not a deterministic one"
            )

    def _scores(self, name: str) -> ScoreTable | None:
        found = self._store.read("SELECT settings FROM score_tables WHERE name = ?", name)
        if not found:
            return None
        layers: dict[str, list[float]] = {}
        with self._store.interpreting():
            for layer, score in self._store.read("SELECT layer, score FROM scores WHERE name = ? ORDER BY rowid", name):
                layers.setdefault(layer, []).append(float(score))
            scores = {layer: torch.tensor(values, dtype=torch.float64) for layer, values in layers.items()}
            return ScoreTable(scores, settings=json.loads(found[0][0]))


def _record(what: str, data: Any, *, finite: bool = False) -> str:
    try:
        return json.dumps(data, allow_nan=not finite, default=own_number)
    except (TypeError, ValueError) as error:
        kind = "finite plain data" if finite else "plain data"
        raise JournalError(f"{what} must be {kind}; it is not: {error}") from error


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) else None


def _shortly(record: str) -> str:
    return record if len(record) < 160 else f"{record[:150]} ..."
