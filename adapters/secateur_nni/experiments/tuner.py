"""A greedy search as a tuner of NNI: one trial a candidate, a barrier after each step, the in-process search's plan.

References:
    [Hou2020] Z. Hou and S.-Y. Kung, A Feature-map Discriminant Perspective for Pruning Deep Neural Networks,
        arXiv 2005.13796, 2020, Algorithm 1.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from secateur_nni.experiments.trials import named

try:
    from nni.tuner import Tuner
except ImportError as error:
    from secateur.errors import MissingDependencyError

    raise MissingDependencyError(f'NNI 3.0 cannot be imported ({error}); pip install "secateur[nni]"') from error

if TYPE_CHECKING:
    from secateur_nni.experiments.candidate_trials import CandidateTrials

SEARCH_FILE = "search.json"
BUILTIN_NAME = "SecateurGreedy"
_logger = logging.getLogger("nni.secateur")  # NNI writes to dispatcher.log what its own loggers are told


class GreedyTuner(Tuner):  # type: ignore[misc]  # NNI has no types
    """A search whose candidates are trials of NNI.

    The search is not written again here: it is `secateur.greedy_plan` itself (or any other search by evaluation), in a
    thread of the tuner, with an evaluation that hands all candidates of a step to trials and waits for their worths. So
    its plan is that of the same search within one process, whatever trials crash, hang or are mixed up on the way; see
    `CandidateTrials`. A candidate that fails in `1 + retries` trials ends the search with an error: to leave it out
    would give another plan without a word.

    The plan is written to `output` as plan.json, and what became of the search to search.json, with the state
    "searching", "done" or "failed". NNI itself never notices that a tuner has finished: `secateur nni run` does, and
    after `nnictl create` an `nnictl stop` is left to do.

    Args:
        search: import path of `search(in_trials, **arguments) -> PruningPlan`. `in_trials(worth, identity="")` is the
            evaluation `worth`, judged in trials; with `lambda worth: worth` in its place it is the in-process search.
        output: folder of the results; relative paths count from the experiment's trialCodeDirectory, which is the
            working directory of the search too.
        arguments: keyword arguments of the search.
        retries, timeout, patience: see `CandidateTrials`.
        optimize_mode: "maximize" alone: larger is better, always.

    What is wrong with the arguments, the search itself or its trials ends the search with the state "failed"; where not
    even that can be written, the process ends, and NNI's experiment with it after half a minute.

    Example:
        >>> tuner = GreedyTuner("my_module:my_search", "out")
        >>> tuner.generate_multiple_parameters([0, 1])
        []
    """

    def __init__(
        self,
        search: str,
        output: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        retries: int = 2,
        timeout: float = 600.0,
        patience: float | None = None,
        optimize_mode: str = "maximize",
    ) -> None:
        folder = code_directory(sys.argv)
        if folder is not None:
            os.chdir(folder)  # the dispatcher is a process of its own, begun among NNI's logs
        home = os.environ.get("SECATEUR_USER_HOME")
        if home:
            os.environ["HOME"] = home
        self._output = Path(output).absolute()
        self._search, self._arguments = search, dict(arguments or {})
        self._settings: dict[str, Any] = {"retries": retries, "timeout": timeout, "patience": patience}
        self._optimize_mode, self._judged = optimize_mode, 0
        self._lock = Lock()
        self._trials: CandidateTrials | None = None
        self._early: list[tuple[Sequence[int], Callable[..., Any]]] = []
        self._thread: Thread | None = None

    def update_search_space(self, _search_space: Any) -> None:
        """Begin the search; the candidates are its own, whatever the search space says."""
        if self._thread is None:
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()

    def generate_multiple_parameters(
        self, parameter_id_list: Sequence[int], st_callback: Callable[..., Any] | None = None, **_given: Any
    ) -> list[dict[str, Any]]:
        """Return as many candidates as there are for these trials; the others are sent when there are more."""
        send = st_callback or (lambda *_: None)
        with self._lock:
            if self._trials is None:
                self._early.append((parameter_id_list, send))
                return []
        return self._trials.requested(parameter_id_list, send)

    def receive_trial_result(self, _parameter_id: int, _parameters: Any, value: Any, **_given: Any) -> None:
        """Take what a trial has found; which candidate it had, it says itself."""
        if self._trials is not None:
            self._trials.reported(value)

    def trial_end(self, _parameter_id: int, _success: bool, **_given: Any) -> None:
        """Take note that one trial fewer is out; NNI does not know which."""
        if self._trials is not None:
            self._trials.ended()

    def _run(self) -> None:
        try:
            self._find_plan()
        except BaseException as error:
            what = f"{type(error).__name__}: {error}"
            try:
                self._note("failed", judged=self._judged, error=what)
            except BaseException as unsaid:  # a full disk, say: what ends without a word is waited for for ever
                why = f"{type(unsaid).__name__}: {unsaid}"
                _logger.error(f"the search failed ({what}), which could not be written: {why}")
                logging.shutdown()
                os._exit(1)  # NNI ends an experiment whose tuner is gone, but none whose tuner has only raised
            _logger.error(f"the search failed: {what}", exc_info=True)

    def _find_plan(self) -> None:
        # NNI gives a tuner ten seconds to come up (core/tuner_command_channel.js); torch may take longer than that.
        from secateur.checkpoint import save_plan
        from secateur.errors import ConfigError
        from secateur_nni.experiments.candidate_trials import CandidateTrials

        self._output.mkdir(parents=True, exist_ok=True)
        self._note("searching", judged=0)
        if self._optimize_mode != "maximize":
            raise ConfigError(f"optimize_mode is {self._optimize_mode!r}; larger worths are better: maximize")
        trials = CandidateTrials(**self._settings, on_worth=self._tell)
        search = named(self._search)
        with self._lock:
            self._trials = trials
            for ids, send in self._early:
                trials.requested(ids, send)
        plan = search(trials.judging, **self._arguments)
        save_plan(plan, self._output)
        self._note("done", judged=self._judged, plan=plan.fingerprint)

    def _tell(self, judged: int) -> None:
        self._judged = judged
        self._note("searching", judged=judged)

    def _note(self, state: str, **facts: Any) -> None:
        from secateur.files import write_json

        write_json(self._output / SEARCH_FILE, {"state": state, **facts})


def code_directory(arguments: Sequence[str]) -> Path | None:
    """Return the trialCodeDirectory of the experiment that a dispatcher of NNI with these arguments belongs to.

    Example:
        >>> told = base64.b64encode(json.dumps({"trialCodeDirectory": "/code"}).encode()).decode()
        >>> code_directory(["-m", "--exp_params", told]), code_directory(["pytest"])
        (PosixPath('/code'), None)
    """
    if "--exp_params" not in arguments[:-1]:
        return None
    told = json.loads(base64.b64decode(arguments[list(arguments).index("--exp_params") + 1]))
    folder = told.get("trialCodeDirectory") or told.get("trainingService", {}).get("trialCodeDirectory")
    return None if folder is None else Path(folder)
