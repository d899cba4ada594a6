"""The section about error curves: what each width of each group would have cost, and which was chosen."""

from __future__ import annotations

from secateur_cli.report.curve_plots import curves_plots
from secateur_cli.report.page import Figure, Report, Section, Table, part
from secateur_cli.report.plots import MAX_ROWS
from secateur_cli.wording import percent


def curves_section(report: Report) -> Section | None:
    """Return the section; None where the search began without error curves."""
    groups = [group for group in part(report, "plan").get("groups") or [] if group.get("errors")]
    if not groups:
        return None
    settings = part(report, "plan", "settings")
    images = (part(settings, "start", "scores") or part(settings, "scores")).get("samples")
    read = f", measured on {images:,} images" if images else ""
    text = (
        "What the layers that read a group lose when it keeps so many channels, those worth least gone first and the "
        f"readers' weights solved for anew: their squared error as a share of the variance of what they add to{read}. "
        "The dot is the width that was chosen. All panels have one scale, so that a search can tell which group spares "
        "most for what it frees."
    )
    begins = {
        "refine": " From the widths with the least sum of errors on, groups then exchanged channels.",
        "greedy": " The search began at the widths with the least sum of errors for a larger budget.",
    }
    left = len(groups) - MAX_ROWS
    more = f" {left} more groups are in the table." if left > 0 else ""
    drawn = curves_plots(groups)
    figures = [
        Figure(svg, f"Error of the layers that read each group, {shown[0]['name']} to {shown[-1]['name']}.")
        for shown, svg in drawn
    ]
    rows = [
        [group["name"], f"{group['kept']} of {group['width']}", percent(group["errors"][group["kept"]])]
        for group in groups
    ]
    table = Table(["group", "kept", "error of its readers"], rows, "The error of each group at its width")
    return Section(
        "curves",
        "Error curves",
        [text + begins.get(str(part(report, "plan").get("search")), "") + more],
        figures,
        folded=[table],
    )
