"""Findings for people: one line for each check, then why what is not right matters, and the commands that mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secateur.findings import Finding

STYLES = {"error": "bold red", "warning": "yellow", "fine": "green"}
INDENT = 2


def print_findings(console: Console, title: str, findings: Sequence[Finding]) -> None:
    """Print the checks as a table that fits the console, and below it what there is to do.

    Commands stand on lines of their own and are never wrapped, so that they can be copied.
    """
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.severity, style=STYLES[finding.severity]), finding.check, finding.what)
    console.print(table)
    for finding in findings:
        if finding.severity != "fine" or finding.mend:
            _print_advice(console, finding)


def print_verdict(console: Console, findings: Sequence[Finding]) -> None:
    """Print in one line how many checks found something."""
    counts = Counter(finding.severity for finding in findings)
    told = [
        Text(f"{counts[severity]} {severity}{'s' if counts[severity] > 1 else ''}", style=STYLES[severity])
        for severity in ("error", "warning") if counts[severity]
    ]  # fmt: skip
    console.print(Text(", ").join(told or [Text("no error, no warning", style=STYLES["fine"])]), end="")
    console.print(f" in {len(findings)} checks")


def _print_advice(console: Console, finding: Finding) -> None:
    console.print(Text.assemble((finding.severity, STYLES[finding.severity]), f": {finding.check}"))
    if finding.why:
        console.print(Padding(Text(f"{finding.why}."), (0, 0, 0, INDENT), expand=False))
    for command in finding.mend:
        console.print(Text(f"{' ' * 2 * INDENT}{command}", style="cyan"), soft_wrap=True)
    console.print()
