"""The section of a report on a budget of latency: what was predicted, what was measured, how far they were apart."""

from __future__ import annotations

from secateur_cli.report.page import Report, Section, Table, as_text, part
from secateur_cli.wording import percent
from secateur_onnx.latency.latency_search import said


def latency_section(report: Report) -> Section | None:
    """Return every plan that was timed on the way to the latency; None where there was no such budget."""
    found = part(report, "plan", "settings", "latency")
    rounds = found.get("rounds") or []
    if not rounds:
        return None
    text = [
        f"The plan: {said(found)}.",
        "Layers were timed alone at a grid of widths; their sum says what a plan may take. Each plan was then exported "
        "and timed as a whole against the dense network, in turn, and what was measured corrected the next prediction. "
        "What is told of the plan is a measurement; the intervals are of 95%, over pairs of sessions.",
    ]
    if found.get("where"):
        text.append(f"Measured on {as_text(found['where'])}.")
    rows = [
        [f"{number}{', chosen' if number - 1 == found.get('chosen') else ''}", percent(each["layers"]),
         percent(each["predicted"]), percent(each["measured"]["share"]),
         f"{percent(each['measured']['lower'])} to {percent(each['measured']['upper'])}", f"{each['error']:+.1%}"]
        for number, each in enumerate(rounds, 1)
    ]  # fmt: skip
    heads = ["plan", "layers alone", "predicted", "measured", "95% interval", "prediction off by"]
    return Section("latency", "Latency, predicted and measured", text, tables=[Table(heads, rows)])
