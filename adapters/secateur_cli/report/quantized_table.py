"""The tables of fewer bits: beside the float file in the terminal, and how each provider executes what was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from secateur_cli.report.page import part
from secateur_cli.summary import speed_and_interval
from secateur_cli.wording import NONE, PROVIDERS, amount, milliseconds, percent


def quantized_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return what a run ends with in the terminal where weights were given fewer bits; empty where none were.

    Args:
        report: the run as plain data, all its stages done.
    """
    forms = executions(report)
    if not forms:
        return []
    return [_beside_floats(report), _executed(forms)]


def executions(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return form of the file -> how each provider executes it.

    Example:
        >>> executions({"int8": {"execution": {"static INT8": []}}})
        {'static INT8': []}
    """
    return {**part(report, "quantization", "execution"), **part(report, "int8", "execution")}


def activation_bits(fact: Mapping[str, Any]) -> str:
    """Return the bits of activations in words.

    Example:
        >>> activation_bits({"activations": {"conv1": [8, 1.5, False]}}), activation_bits({})
        ('8', 'float32')
    """
    ranges = fact.get("activations") or {}
    return ", ".join(sorted({str(bits) for bits, *_ in ranges.values()})) or "float32"


def _beside_floats(report: Mapping[str, Any]) -> Table:
    few, int8, onnx = part(report, "quantization"), part(report, "int8"), part(report, "onnx")
    columns = [name for name, fact in (("few bits", few), ("static INT8", int8)) if fact]
    table = _table("the pruned network in fewer bits", "pruned", *columns)

    def row(name: str, floats: str, of_few: str, of_int8: str) -> None:
        table.add_row(name, floats, *([of_few] if few else []), *([of_int8] if int8 else []))

    accuracy = part(few, "accuracy")
    last = accuracy.get("trained", accuracy.get("rounded"))
    row("top-1, held out", percent(report["accuracy"][-1]["accuracy"]), percent(last), percent(int8.get("accuracy")))
    if "trained" in accuracy:
        row("  before fine-tuning", "", percent(accuracy["rounded"]), "")
    if few:
        row("packed file", amount(few["float_bytes"], "B"), amount(few["file_bytes"], "B"), NONE)
    sizes = (part(onnx, "pruned"), part(few, "onnx"), part(int8, "file"))
    row("ONNX file", *(amount(size.get("file_bytes"), "B") for size in sizes))
    row("bits a weight", "32", f"{few.get('bits_a_weight', 0):.2f}", "8")
    if few:
        row("thresholds", NONE, few.get("thresholds", "published"), NONE)
    row("activations", "float32", activation_bits(few), "8")
    for timed in part(int8, "benchmark").get("comparisons") or []:
        times = [milliseconds(timed[side]["median_ms"]) for side in ("dense", "pruned")]
        row(f"batch {timed['batch_size']}", times[0], NONE, times[1])
        row("", "", "", ", ".join(speed_and_interval(timed)))
    return table


def _executed(forms: Mapping[str, list[Mapping[str, Any]]]) -> Table:
    table = _table("how it is executed", *PROVIDERS.values())
    for form, rows in forms.items():
        seen = {row["provider"]: row["how"] + ("" if row["observed"] else "*") for row in rows}
        table.add_row(form, *(seen.get(provider, NONE) for provider in PROVIDERS))
    table.caption = Text("* not seen here; ONNX Runtime's CUDA provider has no integer convolution")
    table.caption_justify = "left"
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
