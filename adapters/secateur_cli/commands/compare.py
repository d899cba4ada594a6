"""`secateur compare CONFIG`: criteria against one another on one network, under one schedule, over seeds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from secateur.errors import ConfigError
from secateur_cli.claims import Claims
from secateur_cli.commands.folders import output_folder, warnings_said
from secateur_cli.commands.telling import Changes, Output, Trace, plain_console, telling
from secateur_cli.comparison.cells import cells_of
from secateur_cli.comparison.files import described, write_files
from secateur_cli.comparison.results import results
from secateur_cli.comparison.schema import CompareRun
from secateur_cli.comparison.setting import CLAIMS, JOURNAL, identity, look, open_journal
from secateur_cli.comparison.tables import notes, tables
from secateur_cli.comparison.training import train_dense
from secateur_cli.comparison.work import work
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config


def compare(
    config: Annotated[Path, typer.Argument(help="YAML file that says what to compare, on which network and data.")],
    output: Output = None,
    change: Changes = None,
    show: Annotated[bool, typer.Option("--show", help="Measure nothing: show and write what is known so far.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few images, a criterion of each house: shows that everything runs.")
    ] = False,
    trace: Trace = False,
) -> None:
    """Compare criteria of secateur, Torch-Pruning and NNI: accuracy at each stage, cost, time, over seeds.

    Every measurement is kept in comparison.sqlite as it happens: what is killed goes on where it ended when the same
    command is given again, and several processes may share the work by giving it at once. More criteria, searches,
    budgets or seeds join what is there; another network, other data or another schedule are refused.
    """
    stopped = "stopped; the same command continues where this one ended, and with --show writes what is known so far"
    with telling(trace=trace, stopped=stopped):
        progress = Progress(plain_console())
        with warnings_said(progress):
            _compare(config, output, change or [], progress, show=show, smoke=smoke)


def _compare(
    path: Path, output: Path | None, changes: Sequence[str], progress: Progress, *, show: bool, smoke: bool
) -> None:
    config = load_config(path, overrides=changes, kind=CompareRun)
    if smoke:
        config = config.smoke()
    target = output_folder(output, config, ending="-smoke" if smoke else "")
    console = progress.console
    if show and not (target / JOURNAL).exists():
        raise ConfigError(f"{target} holds no comparison yet; leave out --show to begin it")
    setting = look(config, folder=path.parent, output=target, progress=progress)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the output folder {target} cannot be used: {error.strerror}") from error
    cells = cells_of(config)
    with Claims(target / CLAIMS, progress.waiting) as claims:
        parts = identity(setting)
        train_dense(setting, parts, claims)
        with open_journal(setting, parts) as journal:
            if not show:
                work(setting, journal, claims, cells)
            found = results(setting, journal.facts(), cells)
    command = shlex.join(["secateur", *(word for word in sys.argv[1:] if word != "--show")])
    write_files(described(setting, found, command=command, smoke=smoke), target, progress)
    for table in tables(found, width=console.width):
        console.print(table)
    for line in [*found["verdicts"], *notes(found, width=console.width)]:
        progress.say(line)
    progress.say(f"results are in {target}")
    if smoke:
        progress.say("a smoke run: accuracy and speed mean nothing here")
