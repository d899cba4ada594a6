"""The tables that end a run and a benchmark in the terminal: dense against pruned, within 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from secateur_cli.costs import COUNTED, label, spent, unit
from secateur_cli.wording import PROVIDERS, amount, milliseconds, peaks, percent


def summary(search: str, report: Mapping[str, Any]) -> Table:
    """Return the table of one run.

    Args:
        search: which search decided the widths.
        report: the run as plain data, all its stages done.
    """
    cost, onnx = report["cost"], report["onnx"]
    timed = onnx["benchmark"]
    title = Text(f"{report['network']['build']}, {search} plan {report['plan']['fingerprint']}", style="bold")
    table = _table(title, timed)
    dense_share, *steps = (step["accuracy"] for step in report["accuracy"])
    table.add_row("top-1, held out", f"{dense_share:.1%}")
    for step, share in zip(report["accuracy"][1:], steps, strict=True):
        table.add_row(f"  {step['stage']}", "", f"{share:.1%}", f"{100 * (share - dense_share):+.1f} points")
    budgets = spent(report["plan"])
    for name in dict.fromkeys([*COUNTED, *budgets]):
        dense, pruned = (cost.get(name) or budgets[name])["before"], (cost.get(name) or budgets[name])["after"]
        allowed = f"allowed {percent(budgets[name]['budget'] / dense)}" if name in budgets else ""
        told = (amount(count, unit(name)) for count in (dense, pruned))
        table.add_row(label(name), *told, f"{pruned / dense:.1%}", allowed)
    _add_measured(table, timed)
    return table


def benchmark_table(timed: Mapping[str, Any]) -> Table:
    """Return the table of a benchmark of two files.

    Args:
        timed: `BenchmarkResult.to_json()`.
    """
    dense, pruned = (Path(timed[side]["path"]).name for side in ("dense", "pruned"))
    table = _table(Text(f"{dense} against {pruned}", style="bold"), timed)
    _add_measured(table, timed)
    return table


def _table(title: Text, timed: Mapping[str, Any]) -> Table:
    confidence = timed["comparisons"][0]["confidence"]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("", "dense", "pruned", "ratio"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.add_column(f"{confidence:.0%} interval", justify="right")  # in two lines rather than any other cut short
    table.caption = Text(f"median times in ONNX Runtime on {PROVIDERS[timed['provider']]}, threads: {timed['threads']}")
    table.caption_justify = "left"
    return table


def _add_measured(table: Table, timed: Mapping[str, Any]) -> None:
    """Add what a benchmark measured: files, times, and memory where it is known."""
    dense, pruned = (timed[side]["file_bytes"] for side in ("dense", "pruned"))
    table.add_row("ONNX file", amount(dense, "B"), amount(pruned, "B"), f"{pruned / dense:.1%}")
    for row in timed["comparisons"]:
        bound = "" if row["measured"] == "end to end" else f", {row['measured']}"
        times = (milliseconds(row[side]["median_ms"]) for side in ("dense", "pruned"))
        table.add_row(f"batch {row['batch_size']}{bound}", *times, *speed_and_interval(row))
    for batch_size, dense, pruned in peaks(timed):
        table.add_row(f"memory, batch {batch_size}", amount(dense, "B"), amount(pruned, "B"), f"{pruned / dense:.1%}")


def speed_and_interval(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """Return how the times compare, and the interval; faster and slower only where the whole interval says so.

    Example:
        >>> speed_and_interval({"ratio": 2.161, "lower": 2.15, "upper": 2.18, "faster": True, "slower": False})
        ('2.16x, faster', '2.15 to 2.18')
        >>> speed_and_interval({"ratio": 1.03, "lower": 0.98, "upper": 1.09, "faster": False, "slower": False})
        ('1.03x, not faster', '0.98 to 1.09')
        >>> speed_and_interval({"ratio": 1.0043, "lower": 1.0021, "upper": 1.0067, "faster": True, "slower": False})
        ('1.0043x, faster', '1.0021 to 1.0067')
        >>> speed_and_interval({"ratio": 0.9972, "lower": 0.9961, "upper": 0.9984, "faster": False, "slower": True})
        ('0.9972x, slower', '0.9961 to 0.9984')
    """
    ratio, lower, upper = comparison["ratio"], comparison["lower"], comparison["upper"]
    digits = 2 if min(abs(lower - 1), abs(upper - 1)) >= 0.01 else 4  # never rounded onto 1
    word = "faster" if comparison["faster"] else "slower" if comparison["slower"] else "not faster"
    own = 2 if word == "not faster" else digits
    return f"{ratio:.{own}f}x, {word}", f"{lower:.{digits}f} to {upper:.{digits}f}"
