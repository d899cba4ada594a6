"""An end to work that may never end: Torch-Pruning's tracing takes hours for some networks, and for some all time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 1.0


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raise TimeoutError within the block once it has taken so many seconds, and again should it be swallowed.

    Python code is interrupted between two instructions; a single long call into C ends first. Where there is no
    SIGALRM (Windows), or outside the main thread, the block takes as long as it takes.

    Example:
        >>> try:
        ...     with patience(0.05):
        ...         while True:
        ...             pass
        ... except TimeoutError as error:
        ...     print(error)
        no end after 0.05 seconds
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"no end after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, handler)
    other = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *other)  # an alarm that was set before is late by the time of the block
        signal.signal(signal.SIGALRM, before)
