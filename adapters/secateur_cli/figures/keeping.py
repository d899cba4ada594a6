"""What a figure has measured, kept as it happens: killed it goes on where it ended, and processes share the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from secateur.journal import Journal
from secateur_cli.claims import Claims
from secateur_cli.progress import Progress

T = TypeVar("T")


class Keeper:
    """The points of a figure for one seed, each measured once by one of the processes that share a journal.

    Args:
        journal: holds what was found; that of the network, the images and the settings.
        claims: tell who works at what.
        progress: shows how far it has come.
    """

    def __init__(self, journal: Journal, claims: Claims, progress: Progress) -> None:
        self._journal, self._claims, self._progress = journal, claims, progress
        self._points: dict[str, dict[str, Any]] = {}

    def once(self, name: str, find: Callable[[], T]) -> T:
        """Return what is kept under a name, or find it, in one process while others wait, and keep it.

        Args:
            name: tells it from all else of the figure and seed.
            find: returns plain data.
        """
        with self._claims.claim(name, wait=True):
            found: T = self._journal.fact(name, find)
        return found

    def point(self, name: str, measure: Callable[[], T]) -> T:
        """Return a point as `once` does, with the time it took kept beside it for `took`."""
        if name not in self._points:
            self._points[name] = self.once(name, partial(_timed, measure))
        found: T = self._points[name]["found"]
        return found

    def points(self, work: Mapping[str, Callable[[], T]], title: str) -> list[T]:
        """Return several points; those that another process works at are left to it, and waited for at the end.

        Args:
            work: name of each -> what measures it.
            title: what to call the work while it takes long.
        """
        known = self._journal.facts()
        if before := sum(name in known for name in work):
            self._progress.say(f"{before} of {len(work)} points are in the journal already")
        for name in self._progress.track(work, title):
            with self._claims.claim(name) as ours:
                if ours:
                    self._journal.fact(name, partial(_timed, work[name]))
        if left := len(work.keys() - self._journal.facts().keys()):
            self._progress.say(f"waiting for {left} points that another process works at")
        return [self.point(name, measure) for name, measure in work.items()]

    def took(self) -> dict[str, Any]:
        """Return how long the points took that were asked for, in whichever calls, and when the last was measured."""
        return {
            "created": max((point["created"] for point in self._points.values()), default=_now()),
            "seconds": sum(point["seconds"] for point in self._points.values()),
        }


def _timed(measure: Callable[[], Any]) -> dict[str, Any]:
    begun = time.monotonic()
    found = measure()
    return {
        "found": found,
        "seconds": time.monotonic() - begun,
        "created": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
