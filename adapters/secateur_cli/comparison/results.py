"""What a comparison has found, as plain data: one record a cell, and one row for each criterion, search and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.cost import cost_model
from secateur_cli.comparison.cells import DENSE, UNDRAWN, Cell, latency_name
from secateur_cli.comparison.contenders import varies
from secateur_cli.comparison.learning import learnt_epochs
from secateur_cli.comparison.scoring import decided
from secateur_cli.comparison.setting import Setting
from secateur_cli.comparison.verdicts import called, verdicts
from secateur_cli.intervals import Mean, geometric_mean, mean

Facts = Mapping[str, Any]
Record = dict[str, Any]


def results(setting: Setting, facts: Facts, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return all that the journal says of the cells.

    Args:
        setting: the comparison.
        facts: those of its journal.
        cells: which of them.
    """
    counts = {
        name: cost_model(name, setting.model, setting.data.example, setting.groups) for name in ("macs", "parameters")
    }
    dense = {name: cost({}) for name, cost in counts.items()}
    records = [_record(setting, facts, cell, counts) for cell in cells]
    judged, stages = facts.get(DENSE) or {}, list(setting.config.compare.stages)
    rows = rows_of(records, stages)
    told = {DENSE, *(name for record in records for name in record["measured_as"].values())}
    return {
        "dense": {"accuracy": judged.get("accuracy"), "images": judged.get("images"), **dense},
        "stages": stages,
        "seeds": list(setting.config.compare.seeds),
        "accuracies_beside": sum(name.startswith("accuracy ") and name not in told for name in facts),
        "verdicts": verdicts(rows, stages, images=judged.get("images")),
        "cells": [{key: value for key, value in record.items() if key != "right"} for record in records],
        "rows": rows,
    }


def _record(setting: Setting, facts: Facts, cell: Cell, counts: Mapping[str, Any]) -> Record:
    """Return what is known of one cell; what is not is None."""
    contender, compare = cell.contender, setting.config.compare
    scoring = facts.get(cell.scores) or {}
    record: Record = {
        "criterion": contender.label,
        "house": contender.house,
        "name": contender.name,
        "options": dict(contender.options),
        "search": cell.search,
        "budget": cell.budget_name,
        "seed": cell.seed,
        "score_seconds": scoring.get("seconds"),
        "score_processor_seconds": scoring.get("processor_seconds"),
        "score_peak_bytes": scoring.get("peak_bytes"),
        "score_images": ((scoring.get("table") or {}).get("settings") or {}).get("samples"),
        "scores_shared": not varies(contender.name),
        "unscored": _unscored(setting, facts, cell),
        "plan": None,
        "curve_seconds": (facts.get(cell.curves) or {}).get("seconds") if cell.search == "curves" else None,
        "plan_seconds": None,
        "learnt_epochs": None,
        "ties": None,
        "macs": None,
        "parameters": None,
        "accuracy": dict.fromkeys(compare.stages),
        "right": dict.fromkeys(compare.stages),
        "measured_as": dict.fromkeys(compare.stages),
        "seconds": dict.fromkeys(compare.stages),
        "latency": None,
        "not_measured": None,
    }
    if plan := facts.get(cell.plan):
        kept, widths = decided(setting.groups, plan)
        names = {stage: cell.accuracy(stage, kept) for stage in compare.stages}
        found = {stage: facts.get(name) or {} for stage, name in names.items()}
        record |= {name: cost(widths) for name, cost in counts.items()} | {
            "plan": cell.network(kept),
            "plan_seconds": plan["seconds"],
            "learnt_epochs": learnt_epochs(plan) if contender.learns else None,
            "ties": None if contender.learns else sum(plan["ties"].values()),
            "accuracy": {stage: fact.get("accuracy") for stage, fact in found.items()},
            "right": {stage: fact.get("right") for stage, fact in found.items()},
            "measured_as": names,
            "seconds": {stage: fact.get("seconds") for stage, fact in found.items()},
            "latency": facts.get(latency_name(widths)) if compare.latency else None,
        }
    untimed = compare.latency and record["latency"] is None
    if untimed or any(share is None for share in record["accuracy"].values()):
        reasons = [fact["reason"] for name, fact in facts.items() if name.startswith(f"{cell.refusal}: ")]
        record["not_measured"] = reasons[-1] if reasons else "not measured yet"
    return record


def _unscored(setting: Setting, facts: Facts, cell: Cell) -> dict[str, str]:
    """Return the groups that stay as they are since they have no scores, or no error curve, each with the reason."""
    found: dict[str, str] = {}
    for name in (cell.scores, cell.curves)[: 2 if cell.search == "curves" else 1]:
        table = (facts.get(name) or {}).get("table")
        if table is None:
            continue
        why = table["settings"].get("skipped") or {}
        for group in setting.groups.values():
            layers = [member.layer for member in group.producers]
            if not any(layer in table["scores"] for layer in (group.name, *layers)):
                found.setdefault(group.name, next((why[layer] for layer in layers if layer in why), "no scores of it"))
    return found


def rows_of(records: Sequence[Record], stages: Sequence[str]) -> list[Record]:
    """Return one row for each criterion, search and budget, over the seeds; the best at the last stage first.

    Rows that are alike there, or have not come there, stand by the stages before.
    """
    blocks: dict[tuple[str, str], dict[tuple[str, str], list[Record]]] = {}
    for record in records:
        rows = blocks.setdefault((record["budget"], record["search"]), {})
        rows.setdefault((record["house"], record["criterion"]), []).append(record)
    found = []
    for rows in blocks.values():
        block = [_row(over_seeds, stages) for over_seeds in rows.values()]
        alike: dict[tuple[Any, ...], list[Record]] = {}
        for row in block:
            alike.setdefault(tuple(row["plans"]), []).append(row)
        for plans, same in alike.items():
            if len(same) > 1 and None not in plans:
                for row in same:
                    row["same_channels_as"] = [called(r) for r in same if r is not row]
        found += sorted(block, key=lambda row: _shares(row, stages), reverse=True)
    return found


def _row(records: Sequence[Record], stages: Sequence[str]) -> Record:
    first = records[0]
    row: Record = {key: first[key] for key in ("criterion", "house", "search", "budget", "scores_shared")}
    row["accuracy"] = {stage: _plain(_over(records, stage)) for stage in stages}
    for key, of in (("by_seed", "accuracy"), ("right", "right")):
        row[key] = {stage: {str(r["seed"]): r[of][stage] for r in records} for stage in stages}
    scored = records[:1] if first["scores_shared"] else records
    planned = scored if first["search"] in UNDRAWN else records  # each seed has curves and candidates of its own
    for keys, distinct in (
        (("score_seconds", "score_processor_seconds"), scored),
        (("macs", "parameters", "plan_seconds", "curve_seconds"), planned),
    ):
        for key in keys:
            row[key] = _plain(mean([r[key] for r in distinct if r[key] is not None]))
    for key in ("score_peak_bytes", "score_images", "learnt_epochs", "ties"):
        row[key] = max((r[key] for r in records if r[key] is not None), default=None)
    row["unscored"] = {group: reason for r in records for group, reason in r["unscored"].items()}
    row["speed"] = _speed(records)
    row["plans"] = [r["plan"] for r in records]
    row["same_channels_as"] = []
    row["not_measured"] = {str(r["seed"]): r["not_measured"] for r in records if r["not_measured"]}
    return row


def _over(records: Sequence[Record], stage: str) -> Mean | None:
    """Return the mean over seeds; what all seeds share is one measurement, which tells nothing of a spread."""
    known = [r for r in records if r["accuracy"][stage] is not None]
    networks = {r["measured_as"][stage] for r in known}
    return mean([r["accuracy"][stage] for r in (known[:1] if len(networks) == 1 else known)])


def _speed(records: Sequence[Record]) -> Record | None:
    """Return how many times as fast the networks are, by batch size, with one network's interval or that over seeds."""
    timed = {str(r["latency"]): r["latency"] for r in records if r["latency"]}
    if not timed:
        return None
    found: Record = {}
    for idx, comparison in enumerate(next(iter(timed.values()))["comparisons"]):
        if comparison["measured"] != "end to end":
            continue
        ratios = [latency["comparisons"][idx]["ratio"] for latency in timed.values()]
        one = comparison["ratio"], comparison["lower"], comparison["upper"]
        ratio, low, high = geometric_mean(ratios) if len(timed) > 1 else one
        found[str(comparison["batch_size"])] = {
            "ratio": ratio,
            "lower": low,
            "upper": high,
            "networks": len(timed),
        }
    return found


def _shares(row: Record, stages: Sequence[str]) -> list[float]:
    """Return the accuracies of a row, that of the last stage first."""
    known = [row["accuracy"][stage] for stage in reversed(stages)]
    return [-1.0 if share is None else float(share["value"]) for share in known]


def _plain(value: Mean | None) -> dict[str, Any] | None:
    return None if value is None else value.to_json()
