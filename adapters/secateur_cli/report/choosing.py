"""What chose the channels that were removed, in words: a criterion, one of its ablations, or a search that trains."""

from __future__ import annotations

from secateur_cli.report.page import Report, part

LEARNT = {"autopruner": "autopruner", "soft_clusters": "soft clusters"}
"""The searches that learn which channels stay, whatever their scores, as a page names them."""
ABLATIONS = {
    "reverse": ("reversed", "of the highest scores"),
    "edge": ("from both ends", "at both ends of the scores"),
    "middle": ("from the middle", "in the middle of the scores"),
    "random": ("at random", "drawn at random"),
}
"""The variants that are not the method itself: how they remove, and which channels."""


def chosen(report: Report) -> str:
    """Return what chose the channels, to stand behind "pruned"; "" where it is not known.

    Example:
        >>> scores = {"scores": {"criterion": "hrank"}}
        >>> chosen(scores), chosen(scores | {"plan": {"search": "soft_clusters"}})
        ('by hrank', 'by soft clusters')
        >>> chosen(scores | {"plan": {"settings": {"variant": "reverse"}}})
        'by hrank, reversed (an ablation)'
        >>> chosen(scores | {"plan": {"settings": {"variant": "random"}}})
        'at random (an ablation of hrank)'
        >>> chosen(scores | {"recovery": {"method": "sketch"}})
        'by FilterSketch, to widths by hrank'
    """
    criterion, variant = _criterion(report), ablation(report)
    if sketched(report):
        return f"by FilterSketch, to widths by {criterion}" if criterion else "by FilterSketch"
    if learnt := LEARNT.get(_search(report)):
        return f"by {learnt}"
    if not criterion:
        return ""
    if variant == "random":
        return f"at random (an ablation of {criterion})"
    return f"by {criterion}, {_words(variant)[0]} (an ablation)" if variant else f"by {criterion}"


def removed(report: Report) -> str:
    """Return which channels of a group were removed; "" where no scores have said so, or it is not known whose.

    A sketch makes the filters of most layers from all of them; which layers keep a selection its own section says.

    Example:
        >>> removed({"scores": {"criterion": "di"}})
        'those of the lowest scores by di'
        >>> removed({"scores": {"criterion": "di"}, "plan": {"settings": {"variant": "middle"}}})
        'those in the middle of the scores by di'
    """
    criterion, variant = _criterion(report), ablation(report)
    if not criterion or _search(report) in LEARNT or sketched(report):
        return ""
    which = _words(variant)[1] if variant else "of the lowest scores"
    return f"those {which}" if variant == "random" else f"those {which} by {criterion}"


def ablation(report: Report) -> str:
    """Return the variant that a run was an ablation by; "" where it was the method itself."""
    variant = str(part(report, "plan", "settings").get("variant") or "low")
    return "" if variant == "low" else variant


def is_cut(report: Report) -> bool:
    """Return whether each group keeps the channels above one of its scores, by the method: the cut.

    A search that scores the network anew on its way, and an ablation, remove others too; a sketch keeps none.
    """
    if ablation(report) or sketched(report):
        return False
    for group in part(report, "plan").get("groups") or []:
        kept, scores = set(group.get("kept_channels") or ()), group.get("scores") or []
        if None in scores:
            continue
        stay = [score for channel, score in enumerate(scores) if channel in kept]
        gone = [score for channel, score in enumerate(scores) if channel not in kept]
        if stay and gone and min(stay) < max(gone):
            return False
    return True


def sketched(report: Report) -> bool:
    """Return whether filters were made of all others, so that most layers keep no channel as it was."""
    return part(report, "recovery").get("method") == "sketch"


def _criterion(report: Report) -> str:
    return str(part(report, "scores").get("criterion") or "")


def _search(report: Report) -> str:
    return str(part(report, "plan").get("search") or "")


def _words(variant: str) -> tuple[str, str]:
    return ABLATIONS.get(variant, (variant, f"that go by the variant {variant}"))
