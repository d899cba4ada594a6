"""`secateur figure NAME CONFIG`: a figure of the papers from our own run, with its numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.errors import ConfigError, MissingDependencyError
from secateur_cli.commands.folders import output_folder, warnings_said
from secateur_cli.commands.telling import Changes, Trace, plain_console, telling
from secateur_cli.figures.catalogue import FIGURES, order_of
from secateur_cli.figures.order import Until
from secateur_cli.figures.tables import table_of
from secateur_cli.figures.writing import check_folder, record_of, write_numbers
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config


def _list(wanted: bool) -> None:
    if wanted:
        for kind in FIGURES.values():
            typer.echo(f"{kind.name}\n    {kind.shows}\n    {' '.join(kind.takes())}")
        raise typer.Exit


def figure(
    name: Annotated[str, typer.Argument(help="Which figure; --list names them.", show_default=False)],
    config: Annotated[Path, typer.Argument(help="YAML file of a run: its network and data are what it is about.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; the output of the run with -figures by default.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many runs, by the seed of CONFIG and those after it.", show_default=False)
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Points of the horizontal axis, such as 70%,50%.", show_default=False)
    ] = None,
    lines: Annotated[
        str | None, typer.Option(help="What is compared, such as hrank,di,l1 or uniform,greedy.", show_default=False)
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Images to read, of the figures of stability; di-stability reads as many others beside them.",
                     show_default=False),
    ] = None,
    until: Annotated[
        Until | None,
        typer.Option(help="Follow each pruned network up to here, by CONFIG's recover and fine_tune.",
                     show_default=False),
    ] = None,
    change: Changes = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few images, seconds: shows that everything runs.")] = False,
    _show: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Name the figures, and exit.")
    ] = False,
    trace: Trace = False,
) -> None:  # fmt: skip
    """Measure and draw a figure of the papers: SVG, PDF and PNG, with the numbers as CSV and JSON.

    Each seed is a run of its own: another split of the images, and another training where CONFIG trains. Every point is
    kept in points/NAME as it is measured: what is killed goes on where it ended when the same command is given again,
    and several processes may share the work. More points, lines or seeds join what is there; another network, other
    images or settings are refused: give another --output, or delete points/NAME to begin anew.
    """
    with telling(trace=trace, stopped="stopped; the same command continues where this one ended"):
        run = load_config(config, overrides=change or [])
        run = run.smoke() if smoke else run
        progress = Progress(plain_console())
        folder = output_folder(output, run, ending="-figures-smoke" if smoke else "-figures")
        order = order_of(
            name,
            run,
            folder=config.parent,
            progress=progress,
            smoke=smoke,
            seeds=seeds,
            at=at,
            lines=lines,
            images=images,
            until=until,
            kept=folder / "points" / name,
        )
        check_folder(folder)
        try:
            from secateur_cli.figures.drawings import DRAWINGS
            from secateur_cli.figures.paper import MOST_LINES, paper, save
        except ImportError as error:
            raise MissingDependencyError(
                f'figures need matplotlib ({error}): pip install "secateur[report]"'
            ) from error
        if len(order.lines) > MOST_LINES:
            raise ConfigError(f"--lines: {len(order.lines)} lines cannot be told apart; at most {MOST_LINES}")
        with warnings_said(progress):
            found = FIGURES[name].measure(order)
        record = record_of(
            name,
            FIGURES[name].shows,
            found,
            order,
            command=shlex.join(["secateur", *sys.argv[1:]]),
        )
        files = write_numbers(record, folder)
        with paper():
            files += save(DRAWINGS[name](found), folder, name)
        plain_console().print(table_of(name, found))
        progress.say(record["caption"])
        progress.say(f"written: {', '.join(str(path) for path in files)}")
        if smoke:
            progress.say("a smoke run: its numbers mean nothing")
