"""What a report remembers of a plan: its costs, and of each group what was kept, by which scores, and why all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from secateur.records import ChannelGroup, PruningPlan, ScoreTable
from secateur.search import allowed_widths
from secateur.search.swaps import losses_of
from secateur_cli.workspace import LEARNT


def plan_record(search: str, plan: PruningPlan, scores: ScoreTable, curves: ScoreTable | None) -> dict[str, Any]:
    """Return a plan as plain data.

    Args:
        search: which search found it.
        plan: the plan.
        scores: by the criterion.
        curves: the error curves, if the search began with them.

    `errors` of a group is its error curve: what its readers lose when 0 .. width channels are kept. `whole` says why
    it keeps all of its channels, where it does.
    """
    return {
        "search": search,
        "cost": plan.cost,
        **asdict(plan.spent[plan.cost]),
        "further": {name: asdict(spent) for name, spent in plan.further.items()},
        "fingerprint": plan.fingerprint,
        "settings": dict(plan.settings),
        "groups": [_group(search, group, plan, scores, curves) for group in plan.groups],
    }


def _group(
    search: str, group: ChannelGroup, plan: PruningPlan, scores: ScoreTable, curves: ScoreTable | None
) -> dict[str, Any]:
    kept = plan[group.name]
    decides = search not in LEARNT  # else no score has chosen the channels
    record = {
        "name": group.name,
        "layers": [member.layer for member in group.producers],
        "width": group.width,
        "kept": len(kept),
        "kept_channels": list(kept),
        "ties": plan.ties.get(group.name, 0),
        "scores": group.combine(scores).tolist() if decides and _scored(group, scores) else None,
    }
    if curves is not None and _scored(group, curves):
        record["errors"] = losses_of(group.combine(curves).tolist(), "curves")
    if len(kept) == group.width:
        by = scores if curves is None or search == "greedy" else curves
        record["whole"] = _reason(search, group, plan.settings, by)
    return record


def _scored(group: ChannelGroup, scores: ScoreTable) -> bool:
    return any(member.layer in scores for member in group.producers)


def _reason(search: str, group: ChannelGroup, settings: Mapping[str, Any], scores: ScoreTable) -> str:
    """Return why a group keeps all of its channels; `scores` are those that its width was decided by."""
    if not _scored(group, scores):
        skipped = scores.settings.get("skipped") or {}
        reasons = [skipped[member.layer] for member in group.producers if member.layer in skipped]
        return "; ".join(reasons) or "none of its layers has scores"
    round_to, min_keep = settings.get("round_to", 1), max(settings.get("min_keep", 1), len(group.parts))
    if len(allowed_widths(group.width, round_to=group.step(round_to), min_keep=min_keep)) == 1:
        return f"no smaller width is allowed: a multiple of {round_to}, and at least {min_keep}"
    return "its stated share removes none" if search == "rates" else "the search met the budget without it"
