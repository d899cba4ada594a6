"""Numbers of things: whole, and not below the least."""

from __future__ import annotations

from numbers import Integral

from secateur.errors import ConfigError


def check_counts(*, of: str = "", least: int = 1, **counts: object) -> None:
    """Refuse the first of the settings that is no whole number from `least` up.

    Args:
        of: what the settings belong to, such as the name of a criterion.
        least: the smallest number that is allowed.
        counts: the settings by name.

    Raises:
        ConfigError: it names the setting, what was given and what is allowed.

    Example:
        >>> check_counts(min_keep=1, round_to=8)
        >>> check_counts(min_keep=1, round_to=2.5)
        Traceback (most recent call last):
        secateur.errors.ConfigError: round_to is 2.5; it must be a whole number, at least 1
    """
    belonging = f"{of}: " if of else ""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            raise ConfigError(f"{belonging}{name} is {count!r}; it must be a whole number, at least {least}")
