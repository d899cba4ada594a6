"""Trying a configuration step by step: what fails becomes a finding, with a change that was seen to work."""

from __future__ import annotations

import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from secateur.errors import MissingDependencyError, SecateurError
from secateur.findings import Finding, Severity
from secateur_cli.failures import described, place
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config
from secateur_cli.settings.schema import RunConfig

T = TypeVar("T")
ENDS = "a run ends here"


@dataclass
class Examination:
    """One configuration under examination; findings add up as its steps are tried.

    Attributes:
        path: the configuration file.
        progress: where to say what takes long.
        overrides: settings that replace what it says.
        trace: whether to print where an error arose.
        findings: what has been found so far.
    """

    path: Path
    progress: Progress
    overrides: Sequence[str] = ()
    trace: bool = False
    findings: list[Finding] = field(default_factory=list)
    _why: str = field(default="", init=False)

    def note(self, check: str, what: str, severity: Severity = "fine", why: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(check, what, severity, why))

    def attempt(self, check: str, work: Callable[[], T], *, why: str = ENDS, title: str = "") -> T | None:
        """Return what the work returns; None, and an error among the findings, where it fails.

        Args:
            check: what the finding is called.
            work: the step; its warnings are left to a run to say, and what it prints goes to stderr.
            why: what the failure means for the user.
            title: what to say while it takes long.
        """
        try:
            with self.progress.waiting(title or check), warnings.catch_warnings(), redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                return work()
        except Exception as error:  # the user's network and data may raise anything
            if self.trace:
                traceback.print_exc()
            said = str(error) if isinstance(error, SecateurError) else f"{described(error)} ({place(error)})"
            self.note(check, said, "error", why)
            self._why = why
            if isinstance(error, MissingDependencyError):
                self.mended_by("see the installation")
            elif not self.trace and (not isinstance(error, SecateurError) or error.__cause__ is not None):
                self.mended_by("this shows where it arises", self._command("doctor", (), "--traceback"))
            return None

    def config(self, *settings: str) -> RunConfig:
        """Return the configuration with further settings. Raises ConfigError, as `load_config` does."""
        return load_config(self.path, overrides=[*self.overrides, *settings])

    def remedy(self, changes: Sequence[tuple[str, ...]], works: Callable[[RunConfig], Any]) -> None:
        """Give the last finding the command that runs with the first of the changes that works; as it is if none does.

        Args:
            changes: settings to try, those together that are in one tuple.
            works: what has failed, for another configuration; raises where that fails too. What it prints goes to
                stderr.
        """
        for settings in changes:
            try:
                with warnings.catch_warnings(), redirect_stdout(sys.stderr):
                    warnings.simplefilter("ignore")
                    works(self.config(*settings))
            except Exception:  # this change is no remedy either
                continue
            self.mended_by("this was tried and gets past it", self.command(*settings))
            return

    def mended_by(self, hint: str, *commands: str) -> None:
        """Give the step that failed last commands, in place of those that it had, and say what they do."""
        self.findings[-1] = replace(self.findings[-1], why=f"{self._why}; {hint}", mend=commands)

    def command(self, *settings: str) -> str:
        """Return the command that runs the configuration with further settings."""
        return self._command("run", settings)

    def _command(self, name: str, settings: Sequence[str], *flags: str) -> str:
        keys = {setting.partition("=")[0] for setting in settings}
        kept = [setting for setting in self.overrides if setting.partition("=")[0] not in keys]
        changes = [word for setting in (*kept, *settings) for word in ("--set", setting)]
        return shlex.join(["secateur", name, str(self.path), *changes, *flags])
