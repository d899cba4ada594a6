"""`secateur search CONFIG`: the first half of a run, up to the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from secateur.errors import ConfigError
from secateur_cli.commands.folders import output_folder, warnings_said, workspaces
from secateur_cli.commands.telling import Changes, Config, Output, Trace, plain_console, telling
from secateur_cli.progress import Progress
from secateur_cli.report.plan_table import plan_facts, print_plan
from secateur_cli.settings.config import load_config
from secateur_cli.stages.planning import plan_job


def search(
    config: Config,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search that was stopped, where it ended.")
    ] = False,
    change: Changes = None,
    trace: Trace = False,
) -> None:
    """Find out which channels to keep, write plan.json and print it as a table.

    Every evaluation is kept in journal.sqlite as it happens: a search that is killed loses one at most.

    --resume goes on where it ended, and ends in the same plan.

    `secateur run` with the same configuration and folder goes on from the plan.
    """
    with telling(trace=trace, stopped="stopped; the same command with --resume continues where this one ended"):
        _search(config, output, change or [], resume)


def _search(path: Path, output: Path | None, changes: Sequence[str], resume: bool) -> None:
    config = load_config(path, overrides=changes)
    console = plain_console()
    progress, plans, beside = Progress(console), {}, None
    places = workspaces(config, output_folder(output, config), folder=path.parent, smoke=False)
    for workspace in (way.workspace for way in places.values()):
        if workspace.stages and "plan" not in workspace.stages and not resume:
            raise ConfigError(
                f"{workspace.folder} holds a search that is not finished; continue it with --resume, or choose another "
                "folder with --output"
            )
        if resume and not workspace.stages:
            progress.say(f"{workspace.folder} holds no search to go on with: a new one begins")
    for name, way in places.items():
        folder = way.workspace.folder
        with warnings_said(progress):
            plans[name] = plan_job(
                way.config, way.search, folder=path.parent, output=folder, progress=progress, beside=beside
            )
        beside = way.finished()
        progress.say(f"the plan is in {folder / 'plan.json'}")
    for plan in plans.values():
        print_plan(console, plan_facts(plan))
