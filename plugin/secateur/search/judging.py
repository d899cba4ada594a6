"""What the candidates of a search are worth, whoever judges them, with everything that can go wrong named.

An evaluation may carry more than its call:

    race        finds the best of several with less work (`secateur.protocols.Race`)
    fresh       judges anew what the evaluation would remember
    settings    what it measures, as plain data, for the plan
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.errors import ConfigError, EvaluationError, JournalError, ProcessError, SecateurWarning
from secateur.plain_data import own_number
from secateur.protocols import Evaluate, Kept, Race, Worth

NOT_OF_A_CANDIDATE = (JournalError, ProcessError)  # what remembers or shares the evaluation failed


@dataclass(frozen=True)
class Candidate:
    """What is judged, and how errors call it."""

    kept: Kept
    name: str


def judge(
    evaluate: Evaluate, candidates: Sequence[Candidate], *, where: str, known: Mapping[int, float] | None = None
) -> list[Worth]:
    """Return what each candidate is worth: by a race if the evaluation offers one, or one by one.

    The exact worths are finite, and there is at least one; what is not exact is a bound and may be infinite.

    Args:
        where: names the step in errors about all candidates.
        known: number of a candidate -> what it is worth, where that is known.

    Raises:
        EvaluationError: the evaluation raised or gave no finite number for a candidate, which is named, or the race
            failed as a whole.
        JournalError, ProcessError: as they come.

    Example:
        >>> judge(lambda kept: len(kept["conv"]), [Candidate({"conv": (0, 2)}, "the candidate")], where="in step 1")
        [Worth(value=2.0, exact=True)]
    """
    found = {idx: Worth(value) for idx, value in (known or {}).items()}
    if not isinstance(evaluate, Race):
        return [found.get(idx) or Worth(_value(evaluate, candidate)) for idx, candidate in enumerate(candidates)]
    try:
        given = evaluate.race([candidate.kept for candidate in candidates], known=found)
        worths = [Worth(float(value), bool(exact)) for value, exact in given]
    except NOT_OF_A_CANDIDATE:
        raise
    except Exception as error:
        raise EvaluationError(
            f"the race of {len(candidates)} candidates {where} failed: {type(error).__name__}: {error}"
        ) from error
    if len(worths) != len(candidates) or not any(worth.exact for worth in worths):
        raise EvaluationError(
            f"the race of {len(candidates)} candidates {where} gave {len(worths)} worths, "
            f"{sum(worth.exact for worth in worths)} of them exact; it must give one each, and the best of them exactly"
        )
    for worth, candidate in zip(worths, candidates, strict=True):
        if math.isnan(worth.value) or (worth.exact and math.isinf(worth.value)):
            raise EvaluationError(_no_number(candidate, worth.value))
    return worths


def check_repeats(evaluate: Evaluate, candidate: Candidate, worth: float) -> None:
    """Judge a candidate once more, and warn if it is not worth the same.

    Raises:
        EvaluationError: as `judge`.
    """
    again = _value(getattr(evaluate, "fresh", evaluate), candidate)
    if again != worth:
        warnings.warn(
            f"the evaluation is not deterministic: {candidate.name} was worth {worth!r} and, judged once more, "
            f"{again!r}; the same search may end in another plan",
            SecateurWarning,
            stacklevel=3,
        )


def settings_of(evaluate: Evaluate) -> dict[str, Any]:
    """Return {"evaluation": the settings that an evaluation carries}, or nothing.

    Raises:
        ConfigError: they are not plain data.

    Example:
        >>> settings_of(lambda kept: 0.0)
        {}
    """
    settings = getattr(evaluate, "settings", None)
    if settings is None:
        return {}
    try:
        if not isinstance(settings, Mapping):
            raise TypeError(f"found {type(settings).__name__}")
        json.dumps(dict(settings), allow_nan=False, default=own_number)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the settings of an evaluation must be a mapping of plain data: {error}") from error
    return {"evaluation": dict(settings)}


def _value(evaluate: Evaluate, candidate: Candidate) -> float:
    try:
        worth = float(evaluate(candidate.kept))
    except NOT_OF_A_CANDIDATE:
        raise
    except Exception as error:
        raise EvaluationError(f"evaluating {candidate.name} failed: {type(error).__name__}: {error}") from error
    if not math.isfinite(worth):
        raise EvaluationError(_no_number(candidate, worth))
    return worth


def _no_number(candidate: Candidate, worth: float) -> str:
    return f"evaluating {candidate.name} gave {worth}; it must give a finite number, larger = better"
