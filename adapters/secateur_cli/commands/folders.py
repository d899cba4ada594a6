"""Where the results of a command go: one folder for each search of the configuration."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import ConfigError
from secateur_cli.preparation import run_settings
from secateur_cli.progress import Progress
from secateur_cli.schema import RunConfig, Search
from secateur_cli.workspace import RUN_FILE, Workspace


def workspaces(config: RunConfig, target: Path, *, folder: Path, smoke: bool) -> dict[Search, Workspace]:
    """Return the folder of each search, all of them looked at before any work is done in the first.

    Args:
        config: what to do.
        target: the folder of the results; several searches have a folder each in it.
        folder: where relative paths of the configuration are looked up.
        smoke: whether the run is a smoke run.

    Raises:
        ConfigError: a folder holds another run, or files that are none.
    """
    several = len(config.plan.search) > 1
    if several and ((target / RUN_FILE).exists() or (target.exists() and not target.is_dir())):
        raise ConfigError(f"the output {target} holds another run or is a file; choose another with --output")
    folders = {search: target / search if several else target for search in config.plan.search}
    return {
        search: Workspace(output, run_settings(config, search, folder=folder, smoke=smoke))
        for search, output in folders.items()
    }


@contextmanager
def warnings_said(progress: Progress) -> Iterator[None]:
    """Say warnings in a line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: progress.say(f"warning: {message}")
        yield
