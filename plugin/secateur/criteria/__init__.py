"""The criteria: what a channel is worth, by its feature maps. Tensors in, tensors out.

A criterion is plain data (its options) and three functions: `init` makes an empty state, `update` adds a batch of
feature maps, `compute` gives one score per channel, larger = keep (see `secateur.protocols.Criterion`). A new one
joins by one row in `CRITERIA`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from secateur.criteria.discriminant_information import DI, discriminant_information
from secateur.criteria.feature_map_rank import HRank, feature_map_ranks
from secateur.errors import ConfigError
from secateur.protocols import Criterion

CRITERIA: Mapping[str, type[Criterion[Any]]] = MappingProxyType({"hrank": HRank, "di": DI})
"""Each criterion's name and its class."""

__all__ = ["CRITERIA", "DI", "HRank", "criterion", "discriminant_information", "feature_map_ranks"]


def criterion(name: str, **options: Any) -> Criterion[Any]:
    """Return the criterion called `name`, with `options` as its class takes them.

    Raises: ConfigError: an unknown name or option (the nearest known one is named), or an option's value that is not
        allowed.

    Example:
        >>> criterion("hrank", samples=100)
        HRank(name='hrank', needs_labels=False, batch_size=None, accepts_vectors=False, samples=100)
        >>> criterion("hrnak")
        Traceback (most recent call last):
        ...
        secateur.errors.ConfigError: unknown criterion 'hrnak'; did you mean 'hrank'? Allowed: di, hrank
    """
    if name not in CRITERIA:
        raise ConfigError(_unknown("criterion", name, sorted(CRITERIA)))
    allowed = sorted(inspect.signature(CRITERIA[name]).parameters)
    for option in options:
        if option not in allowed:
            raise ConfigError(_unknown(f"option of the criterion {name!r}:", option, allowed))
    return CRITERIA[name](**options)


def _unknown(what: str, given: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(given, allowed, n=1)
    guess = f"; did you mean {near[0]!r}? " if near else "; "
    return f"unknown {what} {given!r}{guess}{'A' if near else 'a'}llowed: {', '.join(allowed)}"
