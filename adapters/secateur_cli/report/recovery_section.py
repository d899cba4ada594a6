"""The part of a report on what came back before any training: batch norm measured afresh, or layers solved for."""

from __future__ import annotations

from secateur_cli.report import plots
from secateur_cli.report.page import Figure, Report, Section, Table, part
from secateur_cli.wording import few_positions, percent

COMPENSATED, RECALIBRATED = "Compensation, without training", "Batch norm, measured afresh"


def recovery_section(report: Report) -> Section | None:
    """Return what was done to the pruned network before any training; None where nothing was."""
    found = part(report, "recovery")
    if not found:
        return None
    images, seconds = found.get("images") or 0, found.get("seconds") or 0.0
    if found.get("method") == "sketch":
        return _sketched(report)
    if "layers" in found:
        return _compensated(report, images, seconds)
    if not images:
        return Section("recovery", RECALIBRATED, ["The network has no batch norm that could be measured afresh."])
    text = (
        f"Every batch norm got the mean and variance of what it reads in the pruned network, from {images:,} training "
        f"images without their labels, in {seconds:.1f} s."
    )
    return Section("recovery", RECALIBRATED, [text])


def _sketched(report: Report) -> Section:
    found = part(report, "recovery")
    text = (
        f"The weights of {len(found['taken'])} layers are FilterSketch's: frequent directions of all channels', not a "
        f"selection. {len(found['norms'])} batch norms began anew. Before training such a network means nothing."
    )
    rows = [[layer, ", ".join(map(percent, shares))] for layer, shares in found["taken"].items()]
    tables = [Table(["layer", "rows that the sketch read"], rows)]
    if found["left"]:
        tables.append(Table(["layer", "why it keeps a selection"], [[k, str(v)] for k, v in found["left"].items()]))
    return Section("recovery", "Filters sketched", [text], tables=tables)


def _compensated(report: Report, images: int, seconds: float) -> Section:
    layers, left = part(report, "recovery").get("layers") or [], part(report, "recovery", "left")
    rows = [[name, str(reason)] for name, reason in left.items()]
    tables = [Table(["layer", "reason"], rows, "Not compensated, though their inputs changed")] if rows else []
    if not layers:
        return Section("recovery", COMPENSATED, ["No layer could be compensated."], tables=tables)
    text = [
        f"Removed channels are missed by the layers behind them. {len(layers)} layers got new weights, one after "
        "another in the order in which they run: those that come closest, in least squares, to the values that the "
        f"dense network has there. That took {images:,} training images without their labels, and {seconds:.1f} s.",
        "The error is the squared difference from those values, behind the layer's batch norm and shortcut, as a share "
        "of their variance: 0% says that nothing was lost, 100% is no better than a constant. Before means with the "
        "weights that the layer had, in a network whose earlier layers have been compensated already.",
    ]
    few = few_positions(layers)
    if few:
        text.append(few[0].upper() + few[1:])
    more = len(layers) - plots.MAX_ROWS
    caption = "Error of each layer." + (f" {more} more layers are in the table." if more > 0 else "")
    rows = [
        [f["layer"], percent(f["before"]), percent(f["after"]), f"{f['rows']:,}", f"{f['unknowns']:,}"] for f in layers
    ]
    header = ["layer", "error before", "error after", "positions read", "weights of an output"]
    folded = [Table(header, rows, f"All {len(rows)} layers")]
    figures = [Figure(plots.errors_plot(layers), caption)]
    return Section("recovery", COMPENSATED, text, figures, tables=tables, folded=folded)
