"""What every trial does first and last: read its parameters before anything can fail, and report in any case."""

from __future__ import annotations

import faulthandler
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORST = -1e9  # what NNI shows of a trial that failed; nothing of ours reads it

Report = Callable[[dict[str, Any]], object]
"""What sends an intermediate result."""


def run_trial(work: Callable[[dict[str, Any], Report], dict[str, Any]], *, timeout: float | None = None) -> int:
    """Read the parameters of this trial, work, report the result, and return the exit code.

    A trial of NNI that dies before it reads its parameters leaves them to the next one; so they are read first, and
    `work` does the importing. Whatever `work` raises is reported as the final result, with the parameters.

    Args:
        work: (parameters, report) -> the final result, a dictionary with the key "default"; `report` sends
            intermediate results of the same kind.
        timeout: seconds after which the trial ends itself, wherever it hangs, with a traceback in its stderr; None:
            what the parameters say under "timeout", if anything.

    Example:
        >>> run_trial.__module__
        'secateur_nni.experiments.trials'
    """
    import nni

    parameters = nni.get_next_parameter()
    seconds = parameters.get("timeout") if timeout is None else timeout
    if seconds:
        faulthandler.dump_traceback_later(float(seconds), exit=True)
    named = {"candidate": parameters["candidate"]} if "candidate" in parameters else {}
    try:
        result = work(parameters, nni.report_intermediate_result)
    except (Exception, SystemExit) as error:  # anything, and NNI would only know that it was not 0, if so much
        nni.report_final_result({"default": WORST, "error": f"{type(error).__name__}: {error}"} | named)
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
    nni.report_final_result(result | named)
    return 0


def named(path: str) -> Callable[..., Any]:
    """Return the callable that `package.module:name` stands for; modules of the working directory are found too.

    Raises:
        ConfigError: there is no such module or name, or it cannot be called.

    Example:
        >>> named("collections:OrderedDict")
        <class 'collections.OrderedDict'>
    """
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise _config_error(f"{path!r} is not an import path; it must read 'package.module:callable'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _config_error(f"{path!r}: {error}") from error
    if not callable(found):
        raise _config_error(f"{path!r} is of type {type(found).__name__}; it must be something that can be called")
    function: Callable[..., Any] = found
    return function


def _config_error(text: str) -> Exception:
    from secateur.errors import ConfigError  # imports torch, which a trial may not need

    return ConfigError(text)
