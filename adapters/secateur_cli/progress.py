"""What a person sees while a run works: a bar on a terminal, plain lines elsewhere, nothing for what is quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

T = TypeVar("T")
Advance = Callable[[int, int], None]
QUICK = 2.0
EVERY = 10.0


class Progress:
    """Reports to a console how far each piece of work has come.

    A piece that ends within two seconds stays silent. On a terminal the others show a bar with the time left, which
    vanishes when the piece is done; elsewhere (a file, a CI log) a line appears after two seconds and then every ten.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """Print one line that stays, as it is: not wrapped, and without what rich reads into brackets and colons."""
        self.console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)

    @contextmanager
    def task(self, title: str) -> Iterator[Advance]:
        """Yield a function `(done, total)` to be called as the work goes on; a total of 0 is not known."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            yield from self._bar(title)
        else:
            yield self._lines(title)

    def track(self, items: Iterable[T], title: str, *, total: int = 0) -> Iterator[T]:
        """Yield `items` and report how many have been taken, of how many if that is given or known."""
        total = total or (len(items) if isinstance(items, Sized) else 0)
        with self.task(title) as advance:
            for done, item in enumerate(items, 1):
                yield item
                advance(done, total)

    @contextmanager
    def waiting(self, title: str) -> Iterator[None]:
        """Print a line if the block, which cannot tell how far it has come, takes more than two seconds."""
        timer = Timer(QUICK, self.say, [f"  {title} ..."])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _bar(self, title: str) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=True) as bar:
            begun = time.monotonic()
            task = bar.add_task(title, total=None, visible=False)

            def advance(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total or None, visible=time.monotonic() - begun > QUICK)

            yield advance

    def _lines(self, title: str) -> Advance:
        begun = time.monotonic()
        due = begun + QUICK

        def advance(done: int, total: int) -> None:
            nonlocal due
            now = time.monotonic()
            if now >= due and done != total:
                due = now + EVERY
                self.say(f"  {title}: {done}{f' of {total}' if total else ''} ({now - begun:.0f} s)")

        return advance
