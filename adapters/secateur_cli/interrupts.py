"""Ctrl-C that is not lost: where Python must swallow it, it comes again, and no error stands for it."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from types import FrameType
from typing import Any

AGAIN = 0.05


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Within the block, a Ctrl-C ends in a KeyboardInterrupt, whatever becomes of the first one.

    Python prints and forgets what is raised while objects die, and torch's exporter keeps thousands of objects that
    call Python when they die; a Ctrl-C often falls into such a call. It is raised again a moment later. And compiled
    code may put an error of its own in its place, as torch does ("could not determine the shape of object type
    'torch.storage.UntypedStorage'"): after a Ctrl-C the block ends in no other error than a KeyboardInterrupt.

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
        with _no_error_in_their_place():
            yield
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = usual


@contextmanager
def _no_error_in_their_place() -> Iterator[None]:
    usual, asked = signal.default_int_handler, False
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield  # signals are handled in the main thread alone, and another's handler stays
        return

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        usual(number, frame)

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Exception as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, usual)
