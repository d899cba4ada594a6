"""comparison.html: who leads, then the tables and figures of every budget and search, then how it was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from secateur_cli.comparison import plots
from secateur_cli.comparison.contenders import HOUSES
from secateur_cli.comparison.tables import LEADS, alike, missing, share, trained_before, untouched
from secateur_cli.comparison.verdicts import blocks_of, called, is_measured, standing, verdicts
from secateur_cli.report.page import Figure, Section, Table, as_text, part
from secateur_cli.report.report import moment, readable, render_page
from secateur_cli.report.sections import SEARCHES
from secateur_cli.wording import NONE, amount, percent

TEMPLATE = "comparison.html.jinja"
SCORING = "Processor time of scoring all layers, with its 95% t-interval where seeds have scores of their own."
MARKS = {
    "uniform": "hollow circles, dashed: uniform widths",
    "curves": "squares: widths by error curves",
    "greedy": "triangles, dotted: the greedy search",
    "cross_layer": "diamonds, dots and dashes: one ranking of the weights of all layers",
}
READING = (
    "Accuracy is top-1 on the held-out images in percent: the mean over seeds ± half of its 95% t-interval. Without ± "
    "it is one measurement: a single seed, or channels that no seed changes. The interval is over seeds, not over "
    "images: of {images:,} images, one is {point:.3g} points. The interval of a speed is that of one network's timing, "
    "or over the networks where seeds come to several widths. And {leads}"
)

THEIRS = (
    "The criteria of Torch-Pruning and NNI are their own code. Torch-Pruning's importances score the same channel "
    "groups as ours; its Taylor reads the gradients of the mean loss, in eval mode, and its FPGM takes distances of "
    "squared weights, whatever their signs. NNI's pruners mask by themselves, at the widths that the search has found "
    "by their metrics; Taylor and Slim collect with the network's weights held still. What follows the choice of "
    "channels by scores is the same for all."
)


def render_comparison(report: Mapping[str, Any]) -> str:
    """Return a comparison as one HTML page that opens offline, without any script.

    Args:
        report: see `secateur_cli.comparison.files.described`.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is missing.

    Cost: about a tenth of a second for each figure.
    """
    found = readable(report)
    blocks = {names: rows for names, rows in blocks_of(found["rows"]).items() if any(map(is_measured, rows))}
    sections: list[Section | None] = [
        _block(number, *names, rows, found) for number, (names, rows) in enumerate(blocks.items())
    ]
    sections += [_against_cost(found), _scoring(found), _how(found)]
    criteria = {(row["criterion"], row["house"]) for row in found["rows"]}
    return render_page(
        TEMPLATE,
        network=str(found["network"]["build"]).rpartition(":")[2],
        criterion=None,
        criteria=len(criteria),
        created=moment(str(found["created"])),
        data=found["data"]["source"],
        smoke=bool(found["smoke"]),
        verdict=_verdict(found, blocks),
        summary=_summary(blocks, found),
        sections=[section for section in sections if section is not None],
        version=found["versions"].get("secateur"),
    )


def _verdict(found: Mapping[str, Any], blocks: Mapping[tuple[str, str], Sequence[Any]]) -> list[str]:
    """Return how often each house is first, and how often that is more than chance."""
    stage, images = found["stages"][-1], found["dense"]["images"]
    tables = [table for rows in blocks.values() if (table := standing(rows, stage, images=images)).first]
    firsts = {house: sum(house in table.houses for table in tables) for house in HOUSES}
    said = ", ".join(f"{house} in {count}" for house, count in firsts.items() if count)
    beyond = sum(table.leads for table in tables)
    total = f"{len(tables)} {'table' if len(tables) == 1 else 'tables'}"
    shared = " The same channels count for each house that chooses them." if sum(firsts.values()) > len(tables) else ""
    lines = [f"First, {stage}: {said} of {total}; beyond chance in {beyond or 'none'}.{shared}"] if tables else []
    waiting = [line for line in missing(found) if line.endswith("not measured yet.")]
    return [*lines, *waiting]


def _summary(blocks: Mapping[tuple[str, str], Sequence[Any]], found: Mapping[str, Any]) -> Table:
    """Return the best criterion of each house for every budget and search."""
    stage = found["stages"][-1]
    houses = [house for house in HOUSES if any(row["house"] == house for row in found["rows"])]
    rows = []
    for (budget, search), block in blocks.items():
        best = [next((r for r in block if r["house"] == house and r["accuracy"][stage]), None) for house in houses]
        cells = [NONE if row is None else f"{share(row['accuracy'][stage])} {row['criterion']}" for row in best]
        rows.append([f"{budget}, {search}", *cells])
    caption = f"The best of each house, {stage}; dense: {percent(found['dense']['accuracy'])}"
    return Table(["", *houses], rows, caption)


def _block(number: int, budget: str, search: str, rows: Sequence[Any], found: Mapping[str, Any]) -> Section:
    stages, dense = found["stages"], found["dense"]
    text = [
        f"Widths: {SEARCHES[search]}.",
        *(said.partition(": ")[2] for said in verdicts(rows, stages, images=dense["images"])),
    ]
    figure = plots.stages_plot(
        [row for row in rows if is_measured(row)], stages, dense=dense["accuracy"], name=f"stages-{number}"
    )
    batches = sorted({batch for row in rows for batch in row["speed"] or ()}, key=int)
    header = ["criterion", "by", *stages, "MACs", "parameters", *(f"speed, batch {batch}" for batch in batches)]
    return Section(
        f"block-{number}",
        f"{budget}, {search}",
        text=[*text, *alike(rows), *trained_before(rows)],
        figures=[Figure(figure, "Bars are 95% t-intervals over seeds; without one it is a single measurement.")],
        tables=[Table([*header, "ties"], [_table_row(row, found, batches) for row in rows])],
    )


def _table_row(row: Mapping[str, Any], found: Mapping[str, Any], batches: Sequence[str]) -> list[str]:
    dense = found["dense"]
    costs = [NONE if row[k] is None else percent(row[k]["value"] / dense[k]) for k in ("macs", "parameters")]
    speeds = [
        NONE if not row["speed"] else "{ratio:.2f} ({lower:.2f}\u2013{upper:.2f})".format(**row["speed"][b])
        for b in batches
    ]
    ties = NONE if row["ties"] is None else str(row["ties"])
    return [
        row["criterion"],
        row["house"],
        *(share(row["accuracy"][s]) for s in found["stages"]),
        *costs,
        *speeds,
        ties,
    ]


def _against_cost(found: Mapping[str, Any]) -> Section | None:
    stage = found["stages"][-1]
    if len({row["budget"] for row in found["rows"] if row["accuracy"][stage]}) < 2:
        return None
    panels = plots.cost_panels(found["rows"], stage, dense=found["dense"])
    drawn = dict.fromkeys(row["search"] for row in found["rows"])
    marks = "; ".join(marked for search, marked in MARKS.items() if search in drawn)
    text = f"Accuracy ({stage}) against what the network costs, all on one scale. {marks[0].upper()}{marks[1:]}."
    return (
        Section("cost", "Accuracy against MACs", [text], panels=[Figure(svg, name) for name, svg in panels])
        if panels
        else None
    )


def _scoring(found: Mapping[str, Any]) -> Section | None:
    rows = [*{called(row): row for row in found["rows"] if row["score_processor_seconds"]}.values()]
    if not rows:
        return None
    table = [
        [
            called(row),
            f"{row['score_processor_seconds']['value']:.2f}",
            f"{row['score_seconds']['value']:.2f}",
            NONE if row["score_peak_bytes"] is None else f"{row['score_peak_bytes'] / 2**20:,.0f}",
            NONE if not row["score_images"] else f"{row['score_images']:,}",
            "one for all seeds" if row["scores_shared"] else "anew for each seed",
        ]
        for row in rows
    ]
    text = (
        "What the scores of all layers take, on top of what the process holds; a first call includes what is loaded or "
        "compiled for it. Processor time is that of all threads, and hardly changes with what else the machine does."
    )
    device = str(part(found, "config").get("device") or "cpu")
    here = f"Memory and processor time are the machine's own; what {device} takes is not in them."
    header = ["criterion", "processor s", "s", "memory, MiB", "images", "scores"]
    figure = Figure(plots.scoring_plot(rows), SCORING)
    return Section(
        "scoring", "Scoring", [text] if device == "cpu" else [text, here], [figure], tables=[Table(header, table)]
    )


def _cautions(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how many speeds come from a busy machine, and what was said of the first of them; nothing without any."""
    timed = {str(cell["latency"]): cell["latency"] for cell in cells if cell["latency"]}
    comparisons = [comparison for latency in timed.values() for comparison in latency["comparisons"]]
    said = [comparison["caution"] for comparison in comparisons if comparison.get("caution")]
    if not said:
        return []
    return [f"Speeds to be doubted: {len(said)} of {len(comparisons)}, of the first of which {said[0]}."]


def _how(found: Mapping[str, Any]) -> Section:
    dense = found["dense"]
    images = dense["images"] or 0
    text = [
        READING.format(images=images, point=100 / max(images, 1), leads=LEADS),
        THEIRS,
        *untouched(found["rows"]),
        *_cautions(found["cells"]),
        *missing(found),
    ]
    facts = [
        ["command", found["command"]],
        [
            "dense",
            f"{percent(dense['accuracy'])}, {amount(dense['macs'])} MACs, {amount(dense['parameters'])} parameters",
        ],
        ["seeds", as_text(found["seeds"])],
        ["left as they are", "; ".join(f"{name}: {why}" for name, why in found["network"]["skipped"].items()) or NONE],
        ["versions", as_text(found["versions"])],
        ["machine", as_text(found["machine"])],
    ]
    config = yaml.safe_dump(found["given"], sort_keys=False, allow_unicode=True)
    return Section("how", "How it was done", text, tables=[Table(["", ""], facts)], code=config)
