"""What every command shares: its options, one line for whatever goes wrong, and an exit code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from secateur.errors import SecateurError
from secateur_cli.failures import described, place
from secateur_cli.interrupts import insistent_interrupts
from secateur_cli.wording import is_shown

FAILED, BAD_INPUT, STOPPED = 1, 2, 130

Config = Annotated[Path, typer.Argument(help="YAML file that says what to prune, on which data, to which budget.")]
Output = Annotated[
    Path | None, typer.Option(help="Folder for the results; the same run continues there.", show_default=False)
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. plan.budget.macs=40%. Repeatable."),
]
Trace = Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")]


def visible(text: str) -> str:
    r"""Return text as a terminal shows it; characters that it would obey, or that cannot be written, as escapes.

    Example:
        >>> print(visible("\x1b[31mred \ud800"))
        \x1b[31mred \ud800
    """
    return "".join(c if is_shown(c) else ascii(c)[1:-1] for c in text)


class _PlainConsole(Console):
    """Prints text as it is, names from files among it, whatever they hold."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, but for what a terminal would obey: see `visible`."""
    return _PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


@contextmanager
def telling(*, trace: bool, stopped: str = "stopped") -> Iterator[None]:
    """End the command with one line for whatever goes wrong within the block.

    Args:
        trace: whether to show where an error arose.
        stopped: what to say after Ctrl-C.
    """
    try:
        with insistent_interrupts():
            yield
    except KeyboardInterrupt:
        _complain(stopped)
        raise typer.Exit(STOPPED) from None
    except typer.Exit:
        raise
    except (Exception, SystemExit) as error:  # the user's network, data or disk may fail in any way
        if trace:
            traceback.print_exc()
        if isinstance(error, SecateurError):
            _complain(f"error: {error}", style="red")
            raise typer.Exit(BAD_INPUT) from error
        hint = "" if trace else "; --traceback shows the way there"
        _complain(f"error: {described(error)} ({place(error)}{hint})", style="red")
        raise typer.Exit(FAILED) from error


def _complain(text: str, *, style: str = "") -> None:
    plain_console(stderr=True).print(text, style=style, soft_wrap=True)
