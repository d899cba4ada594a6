"""The criteria: what a channel is worth. Tensors in, tensors out.

Those in `CRITERIA` read feature maps. Such a criterion is plain data (its options) and three functions: `init` makes an
empty state, `update` adds a batch of feature maps, `compute` gives one score per channel, larger = keep (see
`secateur.protocols.Criterion`). Those in `WEIGHT_CRITERIA` are functions of a layer's weights
(`secateur.protocols.WeightCriterion`), those in `GRADIENT_CRITERIA` of its weights and their gradients, those in
`GROUP_CRITERIA` of what the layers read that share a group of channels. A new one joins by one row, and inherits the
tests of its kind.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from secateur.criteria.compact_fusion import CompactFusion
from secateur.criteria.discriminant_information import DI, discriminant_information
from secateur.criteria.feature_map_rank import HRank, feature_map_ranks
from secateur.criteria.filters import FPGM, BatchNormScale, L1Norm, L2Norm, RandomScores
from secateur.criteria.map_statistics import FeatureVariance, MeanActivation
from secateur.criteria.reciprocal_neighbors import ReciprocalNearestFilters
from secateur.criteria.reconstruction import Reconstruction
from secateur.criteria.taylor import Taylor
from secateur.criteria.two_class_statistics import SNR, Fisher, OneVsRest, SymmetricDivergence, WelchT, one_vs_rest
from secateur.errors import ConfigError
from secateur.protocols import Criterion, GradientCriterion, WeightCriterion

T = TypeVar("T")

CRITERIA: Mapping[str, type[Criterion[Any]]] = MappingProxyType(
    {
        "hrank": HRank,
        "di": DI,
        "snr": SNR,
        "fisher": Fisher,
        "symmetric_divergence": SymmetricDivergence,
        "t": WelchT,
        "mean_activation": MeanActivation,
        "variance": FeatureVariance,
    }
)
"""Each criterion that reads feature maps: its name and its class."""

WEIGHT_CRITERIA: Mapping[str, type[WeightCriterion]] = MappingProxyType(
    {
        "l1": L1Norm,
        "l2": L2Norm,
        "fpgm": FPGM,
        "rnf": ReciprocalNearestFilters,
        "dcff": CompactFusion,
        "bn_scale": BatchNormScale,
        "random": RandomScores,
    }
)
"""Each criterion that reads weights alone: its name and its class."""

GRADIENT_CRITERIA: Mapping[str, type[GradientCriterion]] = MappingProxyType({"taylor": Taylor})
"""Each criterion that reads weights and gradients: its name and its class."""

GROUP_CRITERIA: Mapping[str, type[Reconstruction]] = MappingProxyType({"reconstruction": Reconstruction})
"""Each criterion that reads what the layers behind a group of channels do with them: its name and its class."""

_KINDS: tuple[tuple[Mapping[str, type[object]], str, str], ...] = (
    (CRITERIA, "feature maps", "collect_scores"),
    (WEIGHT_CRITERIA, "weights", "weight_scores"),
    (GRADIENT_CRITERIA, "weights and gradients", "gradient_scores"),
    (GROUP_CRITERIA, "the layers behind", "reconstruction_scores"),
)
"""Each table, what its criteria read, and which function takes their names."""

__all__ = [
    "CRITERIA",
    "DI",
    "FPGM",
    "GRADIENT_CRITERIA",
    "GROUP_CRITERIA",
    "SNR",
    "WEIGHT_CRITERIA",
    "BatchNormScale",
    "CompactFusion",
    "FeatureVariance",
    "Fisher",
    "HRank",
    "L1Norm",
    "L2Norm",
    "MeanActivation",
    "OneVsRest",
    "RandomScores",
    "ReciprocalNearestFilters",
    "Reconstruction",
    "SymmetricDivergence",
    "Taylor",
    "WelchT",
    "as_criterion",
    "criterion",
    "discriminant_information",
    "feature_map_ranks",
    "gradient_criterion",
    "group_criterion",
    "known_criterion",
    "one_vs_rest",
    "options_of",
    "weight_criterion",
]


def criterion(name: str, **options: Any) -> Criterion[Any]:
    """Return the criterion over feature maps called `name`, with `options` as its class takes them.

    Raises:
        ConfigError: an unknown name or option (the nearest known one is named), or an option's value that is not
            allowed.

    Example:
        >>> criterion("hrank", samples=100)
        HRank(name='hrank', needs_labels=False, batch_size=None, accepts_vectors=False, samples=100)
        >>> criterion("fischer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: unknown criterion 'fischer'; did you mean 'fisher'? Allowed: di, fisher, hrank, ...
    """
    return _build(CRITERIA, name, options)


def as_criterion(given: str | Criterion[Any]) -> Criterion[Any]:
    """Return the criterion over feature maps that a name or an object stands for.

    Args:
        given: a name in `CRITERIA`, or an object with all of `secateur.protocols.Criterion`, which is returned.

    Raises:
        ConfigError: as `criterion`; an object that lacks a part of `secateur.protocols.Criterion`, or a class.

    Example:
        >>> as_criterion("hrank").samples
        500
        >>> from torch import nn
        >>> as_criterion(nn.ReLU())
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: ReLU is no criterion over feature maps: it has no accepts_vectors, batch_size, \
compute, init, name, needs_labels, samples, update; see secateur.protocols.Criterion
    """
    if isinstance(given, str):
        return criterion(given)
    if isinstance(given, type):
        raise ConfigError(f"{given.__name__} is a class; a criterion is an object of it: {given.__name__}()")
    lacking = [part for part in dir(Criterion) if not part.startswith("_") and not hasattr(given, part)]
    if lacking:
        raise ConfigError(
            f"{type(given).__name__} is no criterion over feature maps: it has no {', '.join(lacking)}; "
            "see secateur.protocols.Criterion"
        )
    return given


def weight_criterion(name: str, **options: Any) -> WeightCriterion:
    """Return the criterion over weights called `name`, with `options` as its class takes them.

    Raises:
        ConfigError: as `criterion`.

    Example:
        >>> weight_criterion("rnf", distance="cosine")
        ReciprocalNearestFilters(name='rnf', reads='filters', distance='cosine')
    """
    return _build(WEIGHT_CRITERIA, name, options)


def gradient_criterion(name: str, **options: Any) -> GradientCriterion:
    """Return the criterion over weights and gradients called `name`, with `options` as its class takes them.

    Raises:
        ConfigError: as `criterion`.

    Example:
        >>> gradient_criterion("taylor", mode="joint")
        Taylor(name='taylor', mode='joint', batch_size=128, samples=1280)
    """
    return _build(GRADIENT_CRITERIA, name, options)


def group_criterion(name: str, **options: Any) -> Reconstruction:
    """Return the criterion over the readers of a group called `name`, with `options` as its class takes them.

    Raises:
        ConfigError: as `criterion`.

    Example:
        >>> group_criterion("reconstruction", ridge=0.1).ridge
        0.1
    """
    return _build(GROUP_CRITERIA, name, options)


def known_criterion(name: str, **options: Any) -> object:
    """Return the criterion called `name`, whatever it reads, with `options` as its class takes them.

    Raises:
        ConfigError: as `criterion`.

    Example:
        >>> known_criterion("fpgm").name, known_criterion("hrank").name
        ('fpgm', 'hrank')
    """
    everything = {known: kind for table, _, _ in _KINDS for known, kind in table.items()}
    return _build(everything, name, options)


def options_of(rule: object) -> dict[str, Any]:
    """Return what a criterion `rule` was built with, as plain data; empty where it is no dataclass.

    Example:
        >>> options_of(criterion("fisher", aggregate="max"))
        {'samples': 1280, 'reduce': 'pixels', 'aggregate': 'max', 'epsilon': 0.0001}
    """
    if not dataclasses.is_dataclass(rule):
        return {}
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule) if field.init}


def _build(known: Mapping[str, type[T]], name: str, options: Mapping[str, Any]) -> T:
    if name not in known:
        for others, reads, function in _KINDS:
            if name in others:
                raise ConfigError(
                    f"the criterion {name!r} reads {reads}, `{function}` takes it; allowed here: "
                    f"{', '.join(sorted(known))}"
                )
        raise ConfigError(_unknown("criterion", name, sorted(known)))
    allowed = sorted(inspect.signature(known[name]).parameters)
    for option in options:
        if option not in allowed:
            raise ConfigError(_unknown(f"option of the criterion {name!r}:", option, allowed))
    return known[name](**options)


def _unknown(what: str, given: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(given, allowed, n=1)
    guess = f"; did you mean {near[0]!r}? " if near else "; "
    return f"unknown {what} {given!r}{guess}{'A' if near else 'a'}llowed: {', '.join(allowed) or 'none'}"
