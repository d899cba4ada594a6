"""Plain data: what JSON holds, whichever library its numbers are of."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any


def own_number(value: object) -> int | float:
    """Return a number of another library, such as numpy, as Python's own; for `default` of `json.dumps`.

    Raises:
        TypeError: it is no real number.

    Example:
        >>> import json, numpy
        >>> json.dumps({"round_to": numpy.int64(2)}, default=own_number)
        '{"round_to": 2}'
    """
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def plain(data: Any) -> Any:
    """Return data with Python's own numbers, in dictionaries where it has mappings; what is neither stays as it is.

    Example:
        >>> import numpy
        >>> plain({"widths": (numpy.int64(2), True), "rates": [numpy.float32(0.5), None]})
        {'widths': (2, True), 'rates': [0.5, None]}
    """
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [plain(value) for value in data]
    if isinstance(data, tuple):
        return tuple(plain(value) for value in data)
    return own_number(data) if isinstance(data, Real) and not isinstance(data, bool) else data
