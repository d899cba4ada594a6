"""The cases of a parametrized test by their names, of which those that take long are left to thorough runs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import pytest


def cases(values: Mapping[str, Any] | Iterable[str], *more: Any, thorough: Container[str] = ()) -> list[Any]:
    """Return the parameters of a test: the values, or the names themselves, and what stands behind each.

    Args:
        values: what the test gets, by the name of the case.
        more: further values of each case.
        thorough: the cases that run only when asked for, by -m thorough.
    """
    named = values if isinstance(values, Mapping) else {name: name for name in values}
    return [
        pytest.param(
            value,
            *more,
            id="-".join([name, *map(str, more)]),
            marks=[pytest.mark.thorough] if name in thorough else [],
        )
        for name, value in named.items()
    ]
