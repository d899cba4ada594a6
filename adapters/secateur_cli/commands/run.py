"""`secateur run CONFIG`: the whole way, from a trained network to a smaller ONNX file with its proof."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from secateur.errors import MissingDependencyError
from secateur_cli.commands.folders import output_folder, warnings_said, workspaces
from secateur_cli.commands.telling import Changes, Config, Output, Trace, plain_console, telling
from secateur_cli.progress import Progress
from secateur_cli.report.quantized_table import quantized_tables
from secateur_cli.report.report import write_report
from secateur_cli.settings.config import load_config
from secateur_cli.stages.pipeline import run_job
from secateur_cli.summary import summary
from secateur_cli.wording import cautions


def run(
    config: Config,
    output: Output = None,
    change: Changes = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few images and the first search, seconds: shows that everything runs.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write static INT8 too, and time it: --set onnx.int8=true.")
    ] = False,
    trace: Trace = False,
) -> None:
    """Prune a network: score, plan, remove, recover, fine-tune, export to ONNX, compare, time, report."""
    changes = [*(change or []), *(["onnx.int8=true"] if int8 else [])]
    with telling(trace=trace, stopped="stopped; the same command continues where this one ended"):
        _run(config, output, changes, smoke)


def _run(path: Path, output: Path | None, changes: Sequence[str], smoke: bool) -> None:
    config = load_config(path, overrides=changes)
    if smoke:
        config = config.smoke()
    target = output_folder(output, config, ending="-smoke" if smoke else "")
    console = plain_console()
    progress, reports, beside = Progress(console), {}, None
    for name, way in workspaces(config, target, folder=path.parent, smoke=smoke).items():
        folder = way.workspace.folder
        with warnings_said(progress):
            report = run_job(
                way.config,
                way.search,
                folder=path.parent,
                output=folder,
                progress=progress,
                smoke=smoke,
                beside=beside,
            )
        beside = way.finished()
        report["command"] = shlex.join(["secateur", *sys.argv[1:]])
        try:
            write_report(report, folder)
        except MissingDependencyError as error:
            progress.say(f"report.json is written; report.html is not: {error}")
        reports[name] = report
        progress.say(f"results are in {folder}")
    for name, report in reports.items():
        for table in (summary(name, report), *quantized_tables(report)):
            console.print(table)
        for doubt in [] if smoke else cautions(report["onnx"]["benchmark"]["comparisons"]):
            progress.say(doubt)
    if smoke:
        progress.say("a smoke run: accuracy and speed mean nothing here")
