"""Who takes part in a comparison: criteria of ours by name, importances of Torch-Pruning, pruners of NNI.

A house is whose code decides which channels go. All but AutoPruner give scores, by which a search finds widths; NNI's
pruners then choose the channels themselves, by their masks at these widths. AutoPruner has no scores: it learns while
it trains the network which channels stay, at the widths of the uniform search. A further house joins by a name in
`HOUSES`, a line in `check_name` and one in `scores_of`, and, where it chooses channels by itself, one in `chosen`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from torch import nn

from secateur.batches import Batches
from secateur.channel_graph import host_importance, host_importance_scores
from secateur.channel_graph.host_importances import DRAWS, READS_GRADIENTS
from secateur.criteria import GROUP_CRITERIA, WEIGHT_CRITERIA, known_criterion, options_of
from secateur.errors import ConfigError
from secateur.feature_maps import Tap
from secateur.records import ChannelGroups, PruningPlan, ScoreTable
from secateur.scoring import scores_by_name
from secateur.search import ties_at_cut
from secateur_cli.settings.config import complaints
from secateur_cli.settings.learning_schema import AutoPrunerConfig

OURS = "secateur"
HOUSES = {OURS: "", "Torch-Pruning": "torch-pruning:", "NNI": "nni:"}
"""House -> how the names of its criteria begin."""
AUTOPRUNER = "autopruner"
RIVAL_IMAGES = 1280  # as many as our own gradients read by default


@dataclass(frozen=True)
class Subject:
    """What is scored: the network, its groups, and the images of a seed."""

    model: nn.Module
    groups: ChannelGroups
    batches: Batches
    tap: Tap


def house_and_name(name: str) -> tuple[str, str]:
    """Return whose a criterion is, and its name there.

    Raises:
        ConfigError: an unknown house.

    Example:
        >>> house_and_name("hrank"), house_and_name("nni:taylor")
        (('secateur', 'hrank'), ('NNI', 'taylor'))
    """
    begin, colon, rest = name.partition(":")
    if not colon:
        return OURS, name
    for house, prefix in HOUSES.items():
        if prefix == f"{begin}:":
            return house, rest
    known = ", ".join(prefix for prefix in HOUSES.values() if prefix)
    raise ConfigError(f"{name!r}: there is nothing called {begin!r}; a name begins with {known} or has no colon")


def check_name(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown criterion, or options that it does not take; nothing need be installed for that.

    Raises:
        ConfigError: says what is allowed.
        TypeError: options that do not fit one of ours.
    """
    house, own = house_and_name(name)
    if learns(name):
        gates_of(options)
    elif house == OURS:
        known_criterion(own, **options)
    elif house == "Torch-Pruning":
        host_importance(own, **options)
    else:
        from secateur_nni.known_pruners import check_own_pruner

        check_own_pruner(own, options)


def learns(name: str) -> bool:
    """Return whether channels are learnt while the network is trained, so that there are no scores.

    Example:
        >>> learns("autopruner"), learns("hrank")
        (True, False)
    """
    return house_and_name(name) == (OURS, AUTOPRUNER)


def gates_of(options: Mapping[str, Any]) -> AutoPrunerConfig:
    """Return how AutoPruner's gates are trained.

    Args:
        options: keys of `plan.autopruner`.

    Raises:
        ConfigError: an unknown key, or a value that is not allowed, with what is.

    Example:
        >>> gates_of({"epochs": 3}).recipe(seed=0).epochs
        3
    """
    try:
        return AutoPrunerConfig.model_validate(options)
    except ValidationError as error:
        raise ConfigError(f"options of {AUTOPRUNER}: {'; '.join(complaints(error, AutoPrunerConfig))}") from None


def varies(name: str) -> bool:
    """Return whether the scores depend on the seed: on the images that are read, or on chance.

    Example:
        >>> varies("l1"), varies("hrank"), varies("random"), varies("torch-pruning:magnitude"), varies("nni:taylor")
        (False, True, True, False, True)
    """
    house, own = house_and_name(name)
    if house == OURS:
        return own not in WEIGHT_CRITERIA or own == "random"
    if house == "Torch-Pruning":
        return own in DRAWS | READS_GRADIENTS
    from secateur_nni.known_pruners import READS_IMAGES

    return own in READS_IMAGES


def scores_of(subject: Subject, name: str, options: Mapping[str, Any], *, samples: int | None, seed: int) -> ScoreTable:
    """Return the scores of a network by a criterion of any house.

    Args:
        subject: what is scored.
        name: of the criterion, see `house_and_name`.
        options: its own.
        samples: images to read; None for as many as it asks for.
        seed: of what it draws, unless its options say so.

    Raises:
        SecateurError: what the criterion refuses; a failure of foreign code is told in a line.
    """
    house, own = house_and_name(name)
    model, groups, batches = subject.model, subject.groups, subject.batches
    if house == OURS:
        if own == "random":
            options = {"seed": seed, **options}
        return scores_by_name(model, batches, own, options=options, tap=subject.tap, samples=samples, groups=groups)
    count = RIVAL_IMAGES if samples is None else samples
    if house == "Torch-Pruning":
        return host_importance_scores(model, groups, batches, own, options=options, samples=count, seed=seed)
    from secateur_nni import own_choice

    halves = {group: max(1, record.width // 2) for group, record in groups.items() if record.width > 1}
    return own_choice(model, groups, halves, batches, own, options=options, samples=count).metrics


def curves_are_its_own(name: str, options: Mapping[str, Any]) -> bool:
    """Return whether the scores are error curves by themselves."""
    house, own = house_and_name(name)
    return house == OURS and own in GROUP_CRITERIA and bool(options_of(known_criterion(own, **options))["relative"])


def chosen(
    subject: Subject,
    plan: PruningPlan,
    name: str,
    options: Mapping[str, Any],
    *,
    samples: int | None,
    scores: ScoreTable,
) -> PruningPlan:
    """Return the plan with the channels that the criterion's own house chooses at the plan's widths.

    For NNI these are its masks; all others are chosen by their scores already.

    Raises:
        SecateurError: as `scores_of`.
    """
    house, own = house_and_name(name)
    if house != "NNI":
        return plan
    from secateur_nni import own_choice

    count = RIVAL_IMAGES if samples is None else samples
    narrowed = {group: width for group, width in plan.widths.items() if width < subject.groups[group].width}
    choice = own_choice(subject.model, subject.groups, narrowed, subject.batches, own, options=options, samples=count)
    ties = {
        group: count
        for group, width in narrowed.items()
        if (count := ties_at_cut(subject.groups[group].combine(scores), width))
    }
    return replace(plan, kept=choice.kept, ties=ties, settings={**plan.settings, "masks": "NNI's own"})
