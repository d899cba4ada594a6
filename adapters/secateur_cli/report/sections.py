"""What a report holds, section by section: each function reads its part of the run and leaves out what did not run."""

from __future__ import annotations

import yaml

from secateur_cli.costs import label, spent, unit
from secateur_cli.report import plots
from secateur_cli.report.choosing import LEARNT, ablation, is_cut, removed, sketched
from secateur_cli.report.curves_section import curves_section
from secateur_cli.report.deployment import medians, onnx_section, speed_section
from secateur_cli.report.latency_section import latency_section
from secateur_cli.report.learning_section import learning_section
from secateur_cli.report.page import Figure, Report, Section, Table, as_text, part
from secateur_cli.report.quantized_section import execution_section, few_bits_section, int8_section
from secateur_cli.report.recovery_section import recovery_section
from secateur_cli.report.training_section import training_section
from secateur_cli.wording import (
    NONE,
    amount,
    batch,
    change,
    duration,
    percent,
    points,
    ranges,
    speed,
    tiny,
    wilson_interval,
)

RECOVERIES = {
    "none": "with the channels masked, before any recovery",
    "recalibrate": "with the channels masked and batch norm measured afresh",
    "compensate": "with the channels masked and new weights behind them",
}
SEARCHES = {
    "curves": "the widths at which the layers that read the channels lose least, by their error curves",
    "uniform": "the same share of every group, the smallest that meets the budget",
    "greedy": "cuts taken one by one where the network felt them least",
    "refine": "the widths of the error curves, and then exchanges that the network is better for",
    "rates": "the stated share of each layer",
    "distilled": "the shares that a search found for a shallow network, stage by stage, scaled to the budget",
    "autopruner": "the same share of every group, and of its channels those that a gate has learnt to keep",
    "soft_clusters": "the same share of every group, whose channels became equal in clusters while they trained",
    "global_ranking": "one ranking of all channels, its scales and offsets by group found by evolution",
    "cross_layer": "one ranking of the weights of all layers, each divided by what its layer costs",
}
QUANTITIES = {
    "macs": ("MACs of one image", ""),
    "parameters": ("parameters", ""),
    "torch_pruning_macs": ("MACs as Torch-Pruning counts them", ""),
    "file_bytes": ("file", "B"),
}


def summary(report: Report) -> Table:
    """Return dense against pruned in a few rows."""
    rows, stages = [], report.get("accuracy") or []
    if len(stages) > 1:
        first, last = stages[0].get("accuracy"), stages[-1].get("accuracy")
        rows.append(["top-1 accuracy", percent(first), percent(last), points(_minus(last, first))])
        if stages[-1].get("stage") == "fine-tuned":
            share = stages[-2].get("accuracy")
            rows.append(["before fine-tuning", percent(first), percent(share), points(_minus(share, first))])
    cost = part(report, "cost")
    rows += [_cost_row(name, cost[name]) for name in ("macs", "parameters") if cost.get(name)]
    files = {side: part(report, "onnx", side).get("file_bytes") for side in ("dense", "pruned")}
    if files["dense"]:
        rows.append(_row("ONNX file", files["dense"], files["pruned"], "B"))
    elif cost.get("file_bytes"):
        rows.append(_cost_row("file_bytes", cost["file_bytes"]))
    comparisons = part(report, "onnx", "benchmark").get("comparisons") or []
    rows += [[f"time, {batch(c, comparisons)}", *medians(c), speed(c)] for c in comparisons]
    return Table(["", "dense", "pruned", "change"], rows)


def sections(report: Report) -> list[Section]:
    """Return the evidence in reading order."""
    makers = (
        _accuracy,
        speed_section,
        latency_section,
        few_bits_section,
        int8_section,
        execution_section,
        recovery_section,
        _widths,
        curves_section,
        learning_section,
        _scores,
        _search,
        _cost,
        onnx_section,
        _removal,
        _skipped,
    )
    trained = (
        training_section(report, "training", "train", "Training of the dense network"),
        training_section(report, "fine_tuning", "fine_tune", "Fine-tuning"),
        training_section(report, "quantization.fine_tuning", "quantize", "Fine-tuning with fewer bits"),
    )
    return [s for s in (*(make(report) for make in makers), *trained, _settings(report), _repeat(report)) if s]


def _accuracy(report: Report) -> Section | None:
    stages = [s for s in report.get("accuracy") or [] if s.get("accuracy") is not None]
    if not stages:
        return None
    first, rows = stages[0]["accuracy"], []
    for stage in stages:
        share, images = stage["accuracy"], stage.get("images") or 0
        low, high = wilson_interval(share, images)
        right, interval = f"{round(share * images)} of {images}", f"{percent(low)} to {percent(high)}"
        rows.append([stage["stage"], right, percent(share), interval, points(share - first)])
    text = (
        "Every step is judged on the same held-out images, which took no part in scoring, planning or training. "
        "The intervals say how far each figure may be off for new images of the same kind; as all steps share their "
        "images, a difference between two of them is surer than the overlap of their intervals suggests."
    )
    figure = Figure(plots.accuracy_plot(stages), "Top-1 accuracy after each step, with 95% Wilson intervals.")
    table = Table(["after", "right", "top-1", "95% interval", "against dense"], rows)
    return Section("accuracy", "Accuracy after each step", [text], [figure], tables=[table])


def _widths(report: Report) -> Section | None:
    plan = part(report, "plan")
    groups = plan.get("groups") or []
    if not groups:
        return None
    budgets = " ".join(
        f"Of {label(name)}, {amount(cost['budget'], unit(name))} were allowed: {amount(cost['before'], unit(name))} "
        f"before, {amount(cost['after'], unit(name))} after."
        for name, cost in spent(plan).items()
    )
    search = str(plan.get("search", ""))
    found = f"{search}: {SEARCHES[search]}" if search in SEARCHES else search
    gone, variant = removed(report), ablation(report)
    method = ", an ablation: the method removes those of the lowest scores" if variant else ""
    which = f"Of the channels of a group, {gone} were removed{method}. " if gone else ""
    ties = "Ties are channels that share the score at the cut, where their order decided."
    text = (
        f"The search was {found}. {budgets} {which}"
        "Layers in one group share their channels, so they lose the same ones."
        f"{'' if search in LEARNT or variant == 'random' else f' {ties}'}"
    )
    missing = len(groups) - plots.MAX_ROWS
    caption = "Channels that each group keeps." + (f" {missing} more groups are in the table." if missing > 0 else "")
    rows = [
        [g["name"], str(g["width"]), str(g["kept"]), percent(g["kept"] / g["width"]), str(g.get("ties", 0)),
         ", ".join(g.get("layers") or [])] for g in groups
    ]  # fmt: skip
    chosen = [] if sketched(report) else [g for g in groups if g.get("kept_channels")]
    kept = [[g["name"], ranges(g["kept_channels"])] for g in chosen]
    folded = [Table(["group", "channels"], kept, "Which channels are kept")] if kept else []
    table = Table(["group", "dense", "kept", "share", "ties", "layers"], rows)
    whole = [[g["name"], str(g["whole"])] for g in groups if g.get("whole")]
    tables = [table, Table(["group", "why"], whole, "Groups that keep all of their channels")] if whole else [table]
    figure = Figure(plots.widths_plot(groups), caption)
    return Section("widths", "What was kept in each layer", [text], [figure], tables=tables, folded=folded)


def _scores(report: Report) -> Section | None:
    groups = part(report, "plan").get("groups") or []
    cut, whole = is_cut(report), sketched(report)
    drawn = plots.score_plots(groups, cut=cut, kept=not whole)
    if not drawn:
        return None
    some = f" Shown are {len(drawn)} of {len(groups)} groups, spread evenly." if len(drawn) < len(groups) else ""
    crosses = f"removed, in this ablation {removed(report) or 'others'}" if ablation(report) else "removed"
    marks = f"Circles are kept, crosses {crosses}{', the dashed line is the cut' if cut else ''}. "
    text = (
        f"What {part(report, 'scores').get('criterion', 'the criterion')} says each channel is worth, larger is "
        f"better; where layers share channels, a group's score combines theirs. {'' if whole else marks}"
        f"Scores of different groups are not on one scale.{some}"
    )
    panels = [Figure(svg, f"{g['name']}{'' if whole else ': {kept} of {width} kept'.format(**g)}") for g, svg in drawn]
    rows = [[str(key).replace("_", " "), as_text(value)] for key, value in part(report, "scores", "settings").items()]
    tables = [Table(["setting", "value"], rows, "How the scores were made")] if rows else []
    return Section("scores", "Scores", [text], panels=panels, tables=tables)


def _search(report: Report) -> Section | None:
    steps, plan = part(report, "search").get("steps") or [], part(report, "plan")
    steps = [s for s in steps if s.get("cost") is not None and s.get("worth") is not None]
    if not steps:
        return None
    name = str(plan.get("cost") or "cost")
    cost, of = label(name), unit(name)
    rows = [
        [str(s.get("step")), str(s.get("group")), str(s.get("width")), amount(s["cost"], of), f"{s['worth']:.4f}",
         str(s.get("candidates"))] for s in steps
    ]  # fmt: skip
    heads = ["step", "group", "width", cost, "worth", "candidates"]
    judged = part(plan, "settings", "evaluation")
    measure = str(judged.get("measure", "accuracy"))
    how = (
        f"by {measure} on {judged.get('images', 'the')} validation images, {RECOVERIES[judged.get('recovery', 'none')]}"
    )
    text = {
        "greedy": f"In each step the search narrowed the group whose loss the network felt least, judged {how}.",
        "refine": f"From the widths of the error curves on, groups exchanged channels step by step, judged {how}.",
    }.get(str(plan.get("search")), f"Candidates were judged {how}.")
    if plan.get("search") == "refine":  # it goes along the budget, not towards it
        return Section("search", "Swaps of the search", [text], tables=[Table(heads, rows)])
    drawn = plots.path_plot(steps, cost=cost, unit=of, budget=plan.get("budget"), measure=measure)
    figure = Figure(drawn, "The path of the search.")
    steps_table = Table(heads, rows, f"All {len(rows)} steps")
    return Section("search", "Path of the search", [text], [figure], folded=[steps_table])


def _cost(report: Report) -> Section | None:
    cost = part(report, "cost")
    rows = [_cost_row(name, pair) for name, pair in cost.items() if pair]
    further = {name: pair for name, pair in spent(part(report, "plan")).items() if name not in cost}
    rows += [_row(label(name), pair["before"], pair["after"], unit(name)) for name, pair in further.items()]
    return Section("cost", "Cost", tables=[Table(["", "dense", "pruned", "change"], rows)]) if rows else None


def _removal(report: Report) -> Section | None:
    found = part(report, "verification")
    if not found:
        return None
    text = (
        "Before recovery and fine-tuning, the outputs of the network with its channels removed were compared with "
        "those of the network with them masked, on two images of the data: largest difference "
        f"{tiny(found.get('largest_difference'))} of an output's largest number, "
        f"{tiny(found.get('tolerance'))} allowed."
    )
    rows = [[name, str(reason)] for name, reason in (found.get("unchecked") or {}).items()]
    tables = [Table(["group", "reason"], rows, "Groups that could not be checked")] if rows else []
    return Section("removal", "Removal checked against masking", [text], tables=tables)


def _skipped(report: Report) -> Section | None:
    rows = [[name, str(reason)] for name, reason in (part(report, "network").get("skipped") or {}).items()]
    return (
        Section("skipped", "Layers that were left whole", tables=[Table(["layer", "reason"], rows)]) if rows else None
    )


def _settings(report: Report) -> Section | None:
    config = report.get("config")
    if not config:
        return None
    text = "The configuration with every default written out."
    code = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return Section("settings", "Settings", [text], code=code)


def _repeat(report: Report) -> Section:
    rows = [[f"version of {name}", str(version)] for name, version in part(report, "versions").items()]
    rows += [[name, str(value)] for name, value in part(report, "machine").items() if value is not None]
    data = part(report, "data")
    if data:
        known = {**part(data, "images"), "classes": data.get("classes")}
        sizes = [f"{known[k]} {k}" for k in ("train", "validation", "test", "classes") if known.get(k)]
        rows.append(["data", ": ".join(filter(None, (str(data.get("source")), ", ".join(sizes))))])
    rows.append(["weights", as_text(part(report, "network").get("weights")) if report.get("network") else NONE])
    text = [f"The whole run took {duration(report['seconds'])}."] if report.get("seconds") is not None else []
    if part(report, "plan").get("fingerprint"):
        text.append(
            f"The plan's fingerprint is {report['plan']['fingerprint']}: a repeat that keeps the same channels prints "
            "the same one. Times depend on the machine and on what else it does."
        )
    return Section("repeat", "How to repeat this", text, tables=[Table(["", ""], rows)], code=report.get("command", ""))


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _row(label: str, before: float | None, after: float | None, unit: str) -> list[str]:
    return [label, amount(before, unit), amount(after, unit), change(before, after)]


def _cost_row(name: str, pair: Report) -> list[str]:
    label, unit = QUANTITIES.get(name, (name.replace("_", " "), ""))
    return _row(label, pair.get("before"), pair.get("after"), unit)
