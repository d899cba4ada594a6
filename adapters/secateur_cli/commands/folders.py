"""Where the results of a command go: one folder for each search and variant of the configuration."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from secateur.errors import ConfigError
from secateur_cli.progress import Progress
from secateur_cli.settings.schema import RunConfig, Search
from secateur_cli.settings.values import with_home
from secateur_cli.stages.preparation import run_settings
from secateur_cli.workspace import RUN_FILE, Workspace


class Way(NamedTuple):
    """One run of several that a configuration asks for: its own configuration, its search, and its folder."""

    config: RunConfig
    search: Search
    workspace: Workspace

    def finished(self) -> Workspace:
        """Return the folder as the run has left it."""
        return Workspace(self.workspace.folder, self.workspace.settings)


def output_folder(given: Path | None, config: RunConfig, *, ending: str = "") -> Path:
    """Return the folder of a command's results: the one that it was given, or the configuration's.

    Args:
        given: what follows `--output`.
        config: says where the results go otherwise.
        ending: what the name of the configuration's folder is lengthened by.

    Raises:
        ConfigError: the configuration's folder has no name to lengthen.
    """
    if given is not None:
        return with_home(given)
    folder = config.output
    if not ending:
        return folder
    named = folder.resolve() if folder.name in ("", "..") else folder
    if not named.name:
        raise ConfigError(f"output: {folder} has no name that {ending} could follow; choose a folder with --output")
    return named.with_name(named.name + ending)


def workspaces(config: RunConfig, target: Path, *, folder: Path, smoke: bool) -> dict[str, Way]:
    """Return the folder of each search and variant, all of them looked at before any work is done in the first.

    Args:
        config: what to do.
        target: the folder of the results; several searches or variants have a folder each in it.
        folder: where relative paths of the configuration are looked up.
        smoke: whether the run is a smoke run.

    Raises:
        ConfigError: a folder holds another run, or files that are none.
    """
    searches, variants = config.plan.search, config.plan.variant
    several = len(searches) * len(variants) > 1
    if several and ((target / RUN_FILE).exists() or (target.exists() and not target.is_dir())):
        raise ConfigError(
            f"the output {target} holds another run or is a file; choose another, such as --output {target}-searches"
        )
    found = {}
    for search, variant in itertools.product(searches, variants):
        name = search if len(variants) == 1 else variant if len(searches) == 1 else f"{search}-{variant}"
        one = config.model_copy(update={"plan": config.plan.model_copy(update={"variant": (variant,)})})
        settings = run_settings(one, search, folder=folder, smoke=smoke)
        found[name] = Way(one, search, Workspace(target / name if several else target, settings))
    return found


@contextmanager
def warnings_said(progress: Progress) -> Iterator[None]:
    """Say warnings in a line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: progress.say(f"warning: {message}")
        yield
