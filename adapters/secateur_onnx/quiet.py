"""Torch's exporters kept quiet: what they print, log and warn of, also where they print past Python."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

LOGGERS = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")
OUTPUT = 1  # the descriptor of the process, into which torch prints the graph of a network that it cannot trace


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress, hints and warnings from the user; what they raise still comes through.

    Example:
        >>> with quiet():
        ...     print("a hint")
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        talk = io.StringIO()
        streams = contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk)
        with _discarded(), streams[0], streams[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _discarded() -> Iterator[None]:
    """Within the block, what is written to the output of the process is lost."""
    try:
        kept = os.dup(OUTPUT)
    except OSError:  # a process without one
        yield
        return
    try:
        with contextlib.suppress(AttributeError, ValueError):  # None, or closed
            sys.stdout.flush()
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), OUTPUT)
        yield
    finally:
        os.dup2(kept, OUTPUT)
        os.close(kept)
