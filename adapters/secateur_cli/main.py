"""The command line: `secateur run CONFIG`."""

from __future__ import annotations

import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur.errors import ConfigError, MissingDependencyError, SecateurError
from secateur_cli.config import load_config
from secateur_cli.failures import described, place
from secateur_cli.interrupts import insistent_interrupts
from secateur_cli.pipeline import run_job
from secateur_cli.preparation import run_settings
from secateur_cli.progress import Progress
from secateur_cli.report import write_report
from secateur_cli.summary import summary
from secateur_cli.workspace import RUN_FILE, Workspace

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prune a trained network by what its feature maps say, and prove the ONNX file is the same and faster.",
)
FAILED, BAD_INPUT, STOPPED = 1, 2, 130


@app.callback(invoke_without_command=True)
def _version(show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if show:
        typer.echo(f"secateur {version('secateur')}")
        raise typer.Exit


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file that says what to prune, on which data, to which budget.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results; the same run continues there.", show_default=False)
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. plan.budget.macs=40%. Repeatable."),
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few images, seconds: shows that everything runs.")] = False,
    trace: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Prune a network: score, plan, remove, recover, fine-tune, export to ONNX, compare, time, report."""
    console = Console(markup=False, emoji=False, highlight=False)
    try:
        with insistent_interrupts():
            _run(config, output, change or [], smoke, console)
    except KeyboardInterrupt:
        _say("stopped; the same command continues where this one ended")
        raise typer.Exit(STOPPED) from None
    except Exception as error:  # the user's network, data or disk may fail in any way
        if trace:
            traceback.print_exc()
        if isinstance(error, SecateurError):
            _say(f"error: {error}", style="red")
            raise typer.Exit(BAD_INPUT) from error
        hint = "" if trace else "; --traceback shows the way there"
        _say(f"error: {described(error)} ({place(error)}{hint})", style="red")
        raise typer.Exit(FAILED) from error


def _say(text: str, *, style: str = "") -> None:
    errors = Console(stderr=True, markup=False, emoji=False, highlight=False)
    errors.print(text, style=style, soft_wrap=True)


def _run(path: Path, output: Path | None, changes: Sequence[str], smoke: bool, console: Console) -> None:
    config = load_config(path, overrides=changes)
    if smoke:
        config = config.smoke()
    target = output or (config.output.with_name(f"{config.output.name}-smoke") if smoke else config.output)
    several = len(config.plan.search) > 1
    folders = {search: target / search if several else target for search in config.plan.search}
    if several and ((target / RUN_FILE).exists() or (target.exists() and not target.is_dir())):
        raise ConfigError(f"the output {target} holds another run or is a file; choose another with --output")
    for search, folder in folders.items():  # all of them, before any work is done in the first
        Workspace(folder, run_settings(config, search, folder=path.parent, smoke=smoke))
    progress, reports = Progress(console), {}
    for search, folder in folders.items():
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: progress.say(f"warning: {message}")
            report = run_job(config, search, folder=path.parent, output=folder, progress=progress, smoke=smoke)
        report["command"] = shlex.join(["secateur", *sys.argv[1:]])
        try:
            write_report(report, folder)
        except MissingDependencyError as error:
            progress.say(f"report.json is written; report.html is not: {error}")
        reports[search] = report
        progress.say(f"everything lies in {folder}")
    for search, report in reports.items():
        console.print(summary(search, report))
    if smoke:
        progress.say("a smoke run: accuracy and speed mean nothing here")
