"""The command line: `secateur run CONFIG`."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from secateur.errors import MissingDependencyError, SecateurError
from secateur.search import format_cost
from secateur_cli.config import load_config
from secateur_cli.pipeline import run_job
from secateur_cli.progress import Progress
from secateur_cli.report import write_report

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prune a trained network by what its feature maps say, and prove the ONNX file is the same and faster.",
)
BAD_INPUT, STOPPED = 2, 130
LABELS = {"macs": "MACs", "parameters": "parameters"}


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
) -> None:
    """Prune a network: score, plan, remove, recover, fine-tune, export to ONNX, compare, time, report."""
    console = Console()
    try:
        _run(config, output, change or [], smoke, console)
    except SecateurError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command continues where this one ended", highlight=False)
        raise typer.Exit(STOPPED) from None


def _run(path: Path, output: Path | None, changes: Sequence[str], smoke: bool, console: Console) -> None:
    config = load_config(path, overrides=changes)
    if smoke:
        config = config.smoke()
    target = output or (config.output.with_name(f"{config.output.name}-smoke") if smoke else config.output)
    progress, reports = Progress(console), {}
    for search in config.plan.search:
        folder = target / search if len(config.plan.search) > 1 else target
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
        console.print(_summary(search, report))
    if smoke:
        progress.say("a smoke run: accuracy and speed mean nothing here")


def _summary(search: str, report: Mapping[str, Any]) -> Table:
    """Return the table that ends a run: dense against pruned."""
    plan, cost, onnx = report["plan"], report["cost"], report["onnx"]
    table = Table(title=f"{report['network']['build']}, {search} plan", title_justify="left")
    for heading in ("", "dense", "pruned", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = report["accuracy"][0], report["accuracy"][-1]
    lost = 100 * (after["accuracy"] - before["accuracy"])
    table.add_row("top-1, held out", f"{before['accuracy']:.1%}", f"{after['accuracy']:.1%}", f"{lost:+.1f} points")
    for name in ("macs", "parameters"):
        dense, pruned = cost[name]["before"], cost[name]["after"]
        table.add_row(LABELS[name], format_cost(dense), format_cost(pruned), f"{pruned / dense:.1%}")
    dense, pruned = (onnx[side]["file_bytes"] for side in ("dense", "pruned"))
    table.add_row("ONNX file", f"{dense / 1e6:.2f} MB", f"{pruned / 1e6:.2f} MB", f"{pruned / dense:.1%}")
    for timing in onnx["benchmark"]["comparisons"]:
        times = [f"{timing[side]['median_ms']:.2f} ms" for side in ("dense", "pruned")]
        bound = "" if timing["measured"] == "end to end" else f", {timing['measured']}"
        label = f"batch {timing['batch_size']}, {onnx['benchmark']['provider']}{bound}"
        table.add_row(label, *times, f"{timing['verdict']}")
    table.caption = f"plan {plan['fingerprint']}"
    return table
