"""Which of NNI's own pruners choose channels, and what they take; nothing here needs NNI."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from secateur.errors import ConfigError

OWN_PRUNERS: Mapping[str, str] = MappingProxyType(
    {
        "l1": "L1NormPruner",
        "l2": "L2NormPruner",
        "fpgm": "FPGMPruner",
        "taylor": "TaylorPruner",
        "slim": "SlimPruner",
    }
)
"""Name -> NNI's class."""

READS_IMAGES = frozenset({"taylor", "slim"})
UNSUITED: Mapping[str, str] = MappingProxyType(
    {"level": "it masks single weights, no channels", "movement": "it learns masks while it trains for many epochs"}
)


def check_own_pruner(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a name or options that `own_choice` does not take.

    Raises:
        ConfigError: an unknown name, one that masks no channels (with the reason), or an option that it does not have.

    Example:
        >>> check_own_pruner("slim", {"training_steps": 20})
    """
    if name in UNSUITED:
        raise ConfigError(f"NNI's pruner {name!r} cannot be compared here: {UNSUITED[name]}")
    if name not in OWN_PRUNERS:
        raise ConfigError(f"NNI has no pruner {name!r} here; allowed: {', '.join(OWN_PRUNERS)}")
    known = {"taylor": {"training_steps"}, "slim": {"training_steps", "regular_scale"}}.get(name, set())
    if strange := sorted(set(options) - known):
        takes = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{OWN_PRUNERS[name]} of NNI has no option {strange[0]!r}; it takes {takes}")
