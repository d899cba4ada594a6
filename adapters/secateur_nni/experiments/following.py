"""Until an experiment has come to its end, which NNI itself does not notice.

A manager whose tuner has nothing more to try stays in TUNER_NO_MORE_TRIAL for ever (microsoft/nni issue 3859), where it
also is while a GreedyTuner waits for the last trials of a step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import ProcessError
from secateur_nni.experiments.manager import Running, last_words
from secateur_nni.experiments.results import OUT, Trial, join, write_trials
from secateur_nni.experiments.setting import search_file

POLL = 0.5
IDLE = 4.0  # seconds without a trial after which a tuner that has nothing more to try has ended
SILENCE = 120.0  # seconds that a manager on a busy machine may let us wait for an answer
OnTrials = Callable[[Sequence[Trial], dict[str, Any]], object]
"""Called with the trials, and what search.json says (empty where there is no search), when anything has changed."""


def follow(
    running: Running, *, on_change: OnTrials = lambda _trials, _search: None, timeout: float | None = None
) -> list[Trial]:
    """Wait for the end of an experiment, and return its trials; they are written to trials.json as they come.

    The end is: the search of a GreedyTuner is done; or NNI's own limits are reached; or no trial is left and the tuner
    has nothing more to try.

    Args:
        running: the experiment.
        on_change: told whenever a trial or the search has gone on.
        timeout: seconds to wait at most; None: for ever.

    Raises:
        ProcessError: the manager or the tuner failed, or the search did, with what it said; or the manager has ended
            or not answered for two minutes; or the timeout is over; or NNI's limits ended the experiment before the
            search was done.

    Example:
        >>> follow.__name__
        'follow'
    """
    experiment, before = running.experiment, None
    greedy = search_file(running.experiment.config)
    begun = idle = heard = time.monotonic()
    done = 0.0
    while True:
        try:
            status, trials = experiment.get_status(), read(experiment)
        except OSError as error:  # what the package requests raises is one
            gone = running.ended
            if gone or time.monotonic() - heard > SILENCE:
                what = "has ended" if gone else f"has not answered for {SILENCE:.0f} s ({error})"
                raise ProcessError(f"NNI's manager {what}{last_words(running.folder)}") from error
            time.sleep(POLL)
            continue
        heard = time.monotonic()
        search = state_of(greedy)
        if (trials, search) != before:
            before = (trials, search)
            write_trials(trials, running.folder)
            on_change(trials, search)
        if search.get("state") == "failed":
            raise ProcessError(f"the search failed: {search.get('error')}")
        if search.get("state") == "done":
            done = done or time.monotonic()  # the last trial has reported, but may not have ended
            if time.monotonic() - done > IDLE or not any(trial.status in OUT for trial in trials):
                return trials
        if status == "ERROR":
            silent = "" if greedy is None else f", and its search has not said why in {greedy.parent}"
            raise ProcessError(f"NNI's experiment failed{silent}{last_words(running.folder)}")
        if status in ("DONE", "STOPPED"):
            if greedy is not None:
                raise ProcessError(
                    f"NNI ended the experiment ({status}) before the search was done: raise maxTrialNumber or "
                    "maxExperimentDuration, or leave them out"
                )
            return trials
        now = time.monotonic()
        if status != "TUNER_NO_MORE_TRIAL" or any(trial.status in OUT for trial in trials):
            idle = now
        elif greedy is None and now - idle > IDLE:
            return trials
        if timeout is not None and now - begun > timeout:
            raise ProcessError(f"the experiment has not come to its end within {timeout:.0f} s; NNI says {status}")
        time.sleep(POLL)


def read(experiment: Any) -> list[Trial]:
    """Return the trials of an experiment whose manager runs, each with the parameters that it really had."""
    return join(experiment.list_trial_jobs(), experiment.get_job_metrics())


def state_of(path: Path | None) -> dict[str, Any]:
    """Return what a search says of itself; nothing where there is none yet."""
    if path is None:
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found
