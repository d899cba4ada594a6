"""The sections of a report on the ONNX files: how fast they are, and that they compute what torch computes."""

from __future__ import annotations

from secateur_cli.report import plots
from secateur_cli.report.page import Figure, Report, Section, Table, as_text, part
from secateur_cli.report.verdict import agreement
from secateur_cli.wording import (
    NONE,
    PROVIDERS,
    amount,
    batch,
    cautions,
    change,
    milliseconds,
    peaks,
    percent,
    speed,
    spread,
    tiny,
)


def speed_section(report: Report) -> Section | None:
    """Return how long both files take, with intervals; None where nothing was timed."""
    timed = part(report, "onnx", "benchmark")
    comparisons = timed.get("comparisons") or []
    if not comparisons:
        return None
    provider = PROVIDERS.get(str(timed.get("provider")), str(timed.get("provider")))
    threads = timed.get("threads", NONE)
    text = (
        f"Both ONNX files ran in turn in one process on {provider} with {threads} thread{'' if threads == 1 else 's'}. "
        "A network counts as faster only where the whole interval of the ratio of the medians lies above 1."
    )
    figures = [
        Figure(plots.speed_plot(comparisons), "Median time of dense over pruned, with its 95% interval."),
        Figure(plots.time_plot(comparisons), "Median time of an image; whiskers: 10% to 90% of the batches."),
    ]
    rows = [
        [batch(c, comparisons), *medians(c), *(amount(c[s]["images_per_second"]) for s in ("dense", "pruned")),
         speed(c), spread(c), str(len(c["dense"].get("times_ms") or ()))] for c in comparisons
    ]  # fmt: skip
    header = ["", "dense", "pruned", "dense, images/s", "pruned, images/s", "pruned is", "interval", "rounds"]
    machine = timed.get("machine") or {}
    where = as_text({key: value for key, value in machine.items() if value is not None})
    notes = [text, f"Measured on {where}."] if machine else [text]
    notes += [f"{doubt}." for doubt in cautions(comparisons)]
    tables = [Table(header, rows)]
    needed = [
        [f"batch {size}", amount(dense, "B"), amount(pruned, "B"), change(dense, pruned)]
        for size, dense, pruned in peaks(timed)
    ]
    if needed:
        caption = (
            "Peak memory of a fresh process that loads the file and runs batches, beyond what onnxruntime holds "
            "before any file is open"
        )
        tables.append(Table(["", "dense", "pruned", "change"], needed, caption))
    return Section("speed", "Speed in ONNX Runtime", notes, figures, tables=tables)


def onnx_section(report: Report) -> Section | None:
    """Return how the files compare with torch, how they were made and what ran where; None without files."""
    onnx, text, tables = part(report, "onnx"), [], []
    if not onnx:
        return None
    parity = part(onnx, "parity")
    if parity:
        text.append(agreement(parity))
        provider = PROVIDERS.get(str(parity.get("provider")), str(parity.get("provider")))
        rows = [
            ["images compared", f"{parity.get('samples')} on {provider}"],
            ["same top-1 class", percent(parity.get("top1_agreement"))],
            ["largest difference of an output", tiny(parity.get("max_abs"))],
            ["mean difference of an output", tiny(parity.get("mean_abs"))],
            ["largest, relative to the largest output", tiny(parity.get("max_relative"))],
            ["allowed", tiny(parity.get("tolerance"))],
        ]
        tables.append(Table(["", ""], rows, "The pruned ONNX file against torch, on held-out images"))
    sides = [side for side in ("dense", "pruned") if onnx.get(side)]
    if sides:
        keys = {"path": "file", "opset": "opset", "exporter": "exporter", "fallback_reason": "why not the newer one"}
        shown = [key for key in keys if any(onnx[s].get(key) is not None for s in sides)]
        rows = [[keys[key], *(as_text(onnx[s].get(key)) for s in sides)] for key in shown]
        rows.append(["size", *(amount(onnx[s].get("file_bytes"), "B") for s in sides)])
        tables.append(Table(["", *sides], rows, "The files"))
    ran = [
        [side, provider, str(sum(nodes.values())), ", ".join(f"{n} {operator}" for operator, n in nodes.items())]
        for side in ("dense", "pruned")
        for provider, nodes in (part(onnx, "benchmark", side).get("assignment") or {}).items()
    ]
    if ran:
        header = ["network", "provider", "nodes", "operators"]
        tables.append(Table(header, ran, "What ran where, as ONNX Runtime recorded it"))
    return Section("onnx", "The ONNX file", text, tables=tables)


def medians(comparison: Report) -> list[str]:
    """Return the median times of a batch, dense and pruned."""
    return [milliseconds(comparison[side].get("median_ms")) for side in ("dense", "pruned")]
