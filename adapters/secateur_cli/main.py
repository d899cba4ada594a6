"""The command line: `secateur run`, `search`, `compare`, `plan show`, `nni run`, `bench`, `figure`, `doctor`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from secateur_cli.commands import nni, plan
from secateur_cli.commands.bench import bench
from secateur_cli.commands.compare import compare
from secateur_cli.commands.doctor import doctor
from secateur_cli.commands.figure import figure
from secateur_cli.commands.run import run
from secateur_cli.commands.search import search

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prune a trained network by what its feature maps say, and prove the ONNX file is the same and faster.",
)
app.command()(run)
app.command()(search)
app.command()(compare)
app.command()(bench)
app.command()(figure)
app.add_typer(plan.app, name="plan")
app.add_typer(nni.app, name="nni")
app.command()(doctor)


@app.callback(invoke_without_command=True)
def _version(show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if show:
        typer.echo(f"secateur {version('secateur')}")
        raise typer.Exit
