"""Ctrl-C that is not lost: where Python must swallow it, it comes again."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

AGAIN = 0.05


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Within the block, a KeyboardInterrupt that is raised where none can be, is raised again a moment later.

    Python prints and forgets what is raised while objects die, and torch's exporter keeps thousands of objects that
    call Python when they die; a Ctrl-C often falls into such a call.

    Example:
        >>> class Dying:
        ...     def __del__(self):
        ...         raise KeyboardInterrupt
        >>> try:
        ...     with insistent_interrupts():
        ...         _ = Dying() and None
        ...         while True:
        ...             pass
        ... except KeyboardInterrupt:
        ...     print("stopped")
        stopped
    """
    usual, timers = sys.unraisablehook, list[Timer]()

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            usual(unraisable)
            return
        timers.append(Timer(AGAIN, _thread.interrupt_main))  # at once, it would be lost in here
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = usual
