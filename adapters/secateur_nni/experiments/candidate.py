"""The trial that judges one candidate: `python -m secateur_nni.experiments.candidate MODULE:CALLABLE [KEY=VALUE ...]`.

The callable, called with the keys, returns an evaluation (`secateur.protocols.Evaluate`), or a pair of one and the
identity that `CandidateTrials.judging` was told, so that a machine with other weights or other images is noticed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from secateur_nni.experiments.trials import Report, named, run_trial


def judge_candidate(parameters: dict[str, Any], worth: str, arguments: dict[str, str]) -> dict[str, Any]:
    """Return what the candidate of a trial is worth, as its final result.

    Args:
        parameters: those of the trial: candidate, kept, identity.
        worth: import path of what makes the evaluation.
        arguments: its keyword arguments.

    Raises:
        ConfigError: the import path leads nowhere.
        EvaluationError: the network or data of this machine are others, or the worth is not finite.

    Example:
        >>> judge_candidate({"kept": {"a": [0, 1]}}, "secateur_nni.experiments.candidate:width_worth", {})
        {'default': 2.0, 'worth': 2.0}
    """
    made = named(worth)(**arguments)
    evaluate, identity = made if isinstance(made, tuple) else (made, "")
    if identity != parameters.get("identity", ""):
        raise _evaluation_error(
            f"this machine has another network or other images ({identity or 'no identity'}) than the search "
            f"({parameters.get('identity') or 'no identity'}): copy the weights and the data there"
        )
    value = float(evaluate({group: tuple(channels) for group, channels in parameters["kept"].items()}))
    if not math.isfinite(value):
        raise _evaluation_error(f"the candidate is worth {value}; it must be a finite number, larger = better")
    return {"default": value, "worth": value}


def _evaluation_error(text: str) -> Exception:
    from secateur.errors import EvaluationError  # imports torch, which a trial may not need

    return EvaluationError(text)


def width_worth() -> Any:
    """Return an evaluation that counts channels, to try an experiment with nothing but itself."""
    return lambda kept: float(sum(len(channels) for channels in kept.values()))


def main(arguments: Sequence[str]) -> int:
    """Judge the candidate that NNI has for this process."""

    def work(parameters: dict[str, Any], _report: Report) -> dict[str, Any]:
        worth, *given = arguments
        return judge_candidate(parameters, worth, dict(pair.split("=", 1) for pair in given))

    return run_trial(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
