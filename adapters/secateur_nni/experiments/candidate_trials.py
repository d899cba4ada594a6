"""The candidates of a search, judged in trials that may crash, hang or be mixed up: one step at a time.

NNI hands parameters to trials in the order in which the trials ask for them, whatever its records say. So a trial that
ends without a word does not tell which candidate it had, and one that dies before it asks leaves its parameters to the
next (nni_node/training_service/v3/compat.js). Nothing here relies on NNI's pairing: a trial names its candidate
when it reports, and what is missing once all trials of a step have ended is sent again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Condition
from typing import Any

from secateur.counts import check_counts
from secateur.errors import ConfigError, EvaluationError
from secateur.protocols import Evaluate, Kept, Worth

Send = Callable[[int, dict[str, Any]], object]
"""What sends parameters to the trial of an id."""

SETTLING = 2.0  # seconds between the end of a trial and its last words, which come another way
STARTING = 120.0  # seconds that a trial may take beyond those it may work


class CandidateTrials:
    """Hands candidates out to trials, and gives the search what they report.

    The search runs in a thread of its own and waits in `race`; the tuner calls the rest, from any thread.

    Args:
        retries: how many more trials a candidate gets whose trial failed; then the search ends with an error.
        timeout: seconds that a trial may take to judge a candidate, told to the trial, which ends itself.
        patience: seconds without a word from any trial after which all that are out count as failed; None: the timeout
            and two minutes. It must be longer than a trial takes from its start to its end.
        on_worth: called after each worth with how many were found so far.

    Attributes:
        judged: how many worths trials have found.

    Raises:
        ConfigError: a number that is out of range.

    Example:
        >>> from threading import Thread
        >>> trials = CandidateTrials()
        >>> found = []
        >>> search = Thread(target=lambda: found.append(trials.judging(len)({"conv": (0, 2)})))
        >>> def trial(number, parameters):
        ...     trials.reported({"candidate": parameters["candidate"], "worth": 0.5})
        ...     trials.ended()
        >>> trials.requested([0], trial)
        []
        >>> search.start()
        >>> search.join()
        >>> found
        [0.5]
    """

    def __init__(
        self,
        *,
        retries: int = 2,
        timeout: float = 600.0,
        patience: float | None = None,
        on_worth: Callable[[int], object] = lambda _judged: None,
    ) -> None:
        check_counts(least=0, retries=retries)
        for name, seconds in (("timeout", timeout), ("patience", 1.0 if patience is None else patience)):
            if not 0 < seconds < math.inf:
                raise ConfigError(f"{name} is {seconds}; it must be a number of seconds above 0")
        self._retries, self._timeout = retries, timeout
        self._patience = timeout + STARTING if patience is None else patience
        self._on_worth = on_worth
        self._changed = Condition()
        self._free: list[int] = []  # ids that NNI waits for parameters for
        self._send: Send | None = None
        self._waiting: dict[str, dict[str, Any]] = {}  # candidate -> parameters, still to be sent
        self._open: set[str] = set()  # candidates whose worth is wanted
        self._past: set[str] = set()  # those of earlier steps
        self._worths: dict[str, float] = {}
        self._failures: dict[str, list[str]] = {}
        self._counted: dict[str, int] = {}  # candidate -> its failures before it was last sent
        self._alive = self._given_up = self._stale = self._steps = self.judged = 0
        self._heard = time.monotonic()

    def requested(self, ids: Sequence[int], send: Send) -> list[dict[str, Any]]:
        """Return parameters for as many of the trials `ids` as there are candidates; the rest get theirs by `send`."""
        with self._changed:
            self._send = send
            self._free += ids
            return [parameters for _, parameters in self._hand_out()]

    def reported(self, said: Any) -> None:
        """Take what a trial reports; what is no answer to an open question is let pass."""
        with self._changed:
            self._heard = time.monotonic()
            name = said.get("candidate") if isinstance(said, Mapping) else None
            if not isinstance(name, str) or name not in self._open:
                self._stale += isinstance(name, str) and name in self._past
            elif "error" in said:
                self._failures[name].append(str(said["error"]))
            elif isinstance(said.get("worth"), (int, float)) and name not in self._worths:
                self._worths[name] = float(said["worth"])
            self._changed.notify_all()

    def ended(self) -> None:
        """A trial has ended, whichever."""
        with self._changed:
            self._heard = time.monotonic()
            self._alive = max(self._alive - 1, 0)
            self._given_up = min(self._given_up, self._alive)
            self._changed.notify_all()

    def judging(self, evaluate: Evaluate, *, identity: str = "") -> Evaluate:
        """Return `evaluate`, judged in trials: a race whose candidates are all judged to the end.

        Args:
            evaluate: what the trials make again; here only its `settings` are read.
            identity: names the network and the data; a trial that has others fails.
        """
        return _Judging(self, evaluate, identity)

    def worths(self, candidates: Sequence[Kept], identity: str = "") -> Iterator[tuple[int, float]]:
        """Yield the number of each candidate and its worth, as they come.

        Raises:
            EvaluationError: a candidate has failed in all of its trials, or no trial gives a sign of life.
        """
        with self._changed:
            self._steps += 1
            names = {f"{self._steps}.{idx}": idx for idx in range(len(candidates))}
            asked = {
                name: {
                    "candidate": name,
                    "kept": {group: list(channels) for group, channels in candidates[idx].items()},
                    "identity": identity,
                    "timeout": self._timeout,
                }
                for name, idx in names.items()
            }
            self._past |= self._open
            self._open, self._worths, self._failures = set(names), {}, {name: [] for name in names}
            self._counted, self._stale = dict.fromkeys(names, 0), 0
            self._waiting, self._heard = dict(asked), time.monotonic()
            self._send_what_waits()
        told: set[str] = set()
        while len(told) < len(names):
            new = self._next(told)
            for name in new:
                yield names[name], self._worths[name]
            told |= set(new)
            if not new:
                self._send_again({name: asked[name] for name in names if name not in told})

    def _next(self, told: set[str]) -> list[str]:
        """Wait for worths that were not told; return none once no trial is left that could bring one."""
        quiet: float | None = None
        with self._changed:
            while True:
                new = [name for name in self._worths if name not in told]
                if new:
                    self.judged += len(new)
                    self._on_worth(self.judged)
                    return new
                now = time.monotonic()
                if now - self._heard > self._patience:
                    self._given_up, self._heard = self._alive, now
                    for name in self._open - self._worths.keys() - self._waiting.keys():
                        self._failures[name].append(f"its trial said nothing for {self._patience:.0f} s")
                    if self._waiting and not self._free:
                        raise EvaluationError(
                            f"no trial has ended or reported for {self._patience:.0f} s, and {len(self._waiting)} "
                            "candidates wait for one; look at the machines and at NNI's web page"
                        )
                    return []
                if self._alive > self._given_up or self._waiting:
                    quiet = None
                elif quiet is None:
                    quiet = now
                elif now - quiet >= SETTLING:
                    return []
                self._changed.wait(min(0.2, SETTLING))

    def _send_again(self, missing: dict[str, dict[str, Any]]) -> None:
        """Send what no trial has answered, or raise for what has failed too often."""
        with self._changed:
            silent = {name for name in missing if len(self._failures[name]) == self._counted[name]}
            if len(silent) <= self._stale:  # trials took what earlier ones had left, and none was lost
                silent = set()
            self._stale = 0
            for name in missing:
                failures = self._failures[name]
                if name in silent:
                    failures.append("no trial reported under its name; see the trials' stderr in NNI's web page")
                self._counted[name] = len(failures)
                if len(failures) > self._retries:
                    raise EvaluationError(
                        f"a candidate failed in {len(failures)} trials, {self._retries} more than one are allowed "
                        f"(retries); the last said: {failures[-1]}; the candidate: {_shortly(missing[name]['kept'])}"
                    )
            self._waiting = {name: parameters for name, parameters in missing.items() if name not in self._waiting} | (
                self._waiting
            )
            self._send_what_waits()

    def _hand_out(self) -> list[tuple[int, dict[str, Any]]]:
        """Return pairs of an id and parameters, as many as there are of both."""
        out = []
        while self._free and self._waiting:
            name = next(iter(self._waiting))
            out.append((self._free.pop(0), self._waiting.pop(name)))
            self._alive += 1
            self._heard = time.monotonic()
        return out

    def _send_what_waits(self) -> None:
        if self._send is not None:
            for number, parameters in self._hand_out():
                self._send(number, parameters)


class _Judging:
    """An evaluation whose candidates are trials."""

    def __init__(self, trials: CandidateTrials, evaluate: Evaluate, identity: str) -> None:
        self._trials, self._identity = trials, identity
        settings = getattr(evaluate, "settings", None)
        if settings is not None:
            self.settings = settings

    def __call__(self, kept: Kept) -> float:
        """Return the worth of one candidate."""
        return self.race([kept])[0].value

    def race(
        self,
        candidates: Sequence[Kept],
        *,
        known: Mapping[int, Worth] | None = None,
        record: Callable[[int, Worth], None] | None = None,
    ) -> list[Worth]:
        """Return the exact worth of each candidate; what is known exactly is not judged again."""
        found = {idx: worth for idx, worth in (known or {}).items() if worth.exact}
        left = [idx for idx in range(len(candidates)) if idx not in found]
        for place, value in self._trials.worths([candidates[idx] for idx in left], self._identity):
            found[left[place]] = Worth(value)
            if record is not None:
                record(left[place], found[left[place]])
        return [found[idx] for idx in range(len(candidates))]


def _shortly(kept: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{group} keeps {len(channels)}" for group, channels in kept.items()) or "the dense network"
