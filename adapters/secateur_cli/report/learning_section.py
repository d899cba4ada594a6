"""The part of a report on channels that were learnt: gates or clusters, and epoch by epoch."""

from __future__ import annotations

from secateur_cli.report.page import Report, Section, Table, part
from secateur_cli.wording import NONE, percent


def learning_section(report: Report) -> Section | None:
    """Return what a search has learnt, None where none has trained."""
    found = part(report, "learning")
    gates, epochs = found.get("gates") or [], found.get("epochs") or []
    if found.get("clusters"):
        return _clusters(found["clusters"], epochs)
    if not gates:
        return None
    width = sum(gate["width"] for gate in gates)
    code, kept = (sum(share) / width for share in (_kept_by_code(gates), [gate["kept"] for gate in gates]))
    settled = sum(bool(gate["binary"]) for gate in gates)
    recipe = part(report, "plan", "settings", "recipe")
    ablated = [
        words
        for key, words in (("batch_average", "without mini-batch pooling"), ("binarise", "without binarisation"))
        if recipe.get(key) is False
    ]
    text = (
        f"A gate for each group was trained together with the network{', ' if ablated else ''}{' and '.join(ablated)}. "
        f"{settled} of {len(gates)} codes are binary at the end; they keep {percent(code)} of the channels "
        f"by themselves, {percent(kept)} after the projection onto the widths of the budget: channels kept in most of "
        "the last 20 steps first, then those of the largest v."
    )
    rows = [
        [g["group"], str(g["width"]), percent(g["target"]), percent(g["code"]), str(g["kept"]), f"{g['alpha']:.1f}",
         "yes" if g["binary"] else "no"] for g in gates
    ]  # fmt: skip
    table = Table(["group", "dense", "asked for", "kept by the code", "kept", "alpha", "binary"], rows)
    passes = [
        [str(e["stage"]), str(e["number"]), NONE if e.get("loss") is None else f"{e['loss']:.4f}", percent(e["kept"]),
         percent(e["binary"])] for e in epochs
    ]  # fmt: skip
    folded = Table(["stage", "epoch", "cross entropy", "kept by the codes", "binary"], passes, "Epoch by epoch")
    return Section("gates", "What the gates have learnt", [text], tables=[table], folded=[folded])


def _clusters(clusters: list[Report], epochs: list[Report]) -> Section:
    text = (
        "While the network was trained, the filters of each group were put into fewer and fewer clusters after each "
        "epoch, and all of a cluster became its mean. At the end the equal ones were merged: what reads them reads "
        "one with the sum of their weights, which is exactly the same network."
    )
    rows = [[c["group"], str(c["width"]), str(c["kept"]), str(c["largest"])] for c in clusters]
    passes = [[str(e["number"]), f"{e['loss']:.4f}"] for e in epochs]
    table = Table(["group", "dense", "clusters", "channels of the largest"], rows)
    folded = Table(["epoch", "training loss"], passes, "Epoch by epoch")
    return Section("clusters", "Filters that became equal", [text], tables=[table], folded=[folded])


def _kept_by_code(gates: list[Report]) -> list[float]:
    return [gate["code"] * gate["width"] for gate in gates]
