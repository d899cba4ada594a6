"""Errors that secateur did not raise, from a user's network or data or from the machine, in one readable line."""

from __future__ import annotations

import traceback
from pathlib import Path

LONGEST = 500


def described(error: BaseException) -> str:
    """Return an error's kind and message on one line, the message cut where it is very long.

    Example:
        >>> described(RuntimeError("size mismatch,\\n  got 3")), described(StopIteration())
        ('RuntimeError: size mismatch, got 3', 'StopIteration')
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(error: BaseException) -> str:
    """Return the file, line and function in which an error arose, or nothing if it has been nowhere.

    Example:
        >>> try:
        ...     _ = 1 / 0
        ... except ZeroDivisionError as error:
        ...     place(error).endswith("line 2, in <module>")
        True
    """
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else ""
