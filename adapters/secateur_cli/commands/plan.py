"""`secateur plan show PATH`: a plan as a table, or as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from secateur_cli.commands.telling import Trace, plain_console, telling
from secateur_cli.plan_file import read_plan
from secateur_cli.report.plan_table import plan_facts, print_plan

app = typer.Typer(no_args_is_help=True, help="Look at plans: which channels are kept, and what that costs.")


@app.callback()
def _plan() -> None:
    """Keep `show` a command of its own, though it is the only one."""


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A plan.json, or the folder of a run or a search.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table, with every setting.")] = False,
    trace: Trace = False,
) -> None:
    """Print a plan: widths of each group, costs with their budgets, how it was found."""
    with telling(trace=trace):
        facts = plan_facts(read_plan(path))
        if as_json:
            typer.echo(json.dumps(facts, indent=1))
        else:
            print_plan(plain_console(), facts)
