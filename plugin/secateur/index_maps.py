"""Which positions of a layer each channel owns, written briefly: most maps are four numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from secateur.errors import PlanError

Indices = tuple[tuple[int, ...], ...]
MOST = 2**22  # positions of all layers of a plan: far beyond any, and few enough to write out


def _affine(start: int, stride: int, count: int, step: int, width: int) -> Indices:
    return tuple(tuple(start + stride * c + step * k for k in range(count)) for c in range(width))


def pack_indices(indices: Indices) -> Any:
    """Write index maps of the form start + stride * channel + step * k as four numbers, others as lists."""
    if not indices[0]:
        return [list(owned) for owned in indices]
    start, count = indices[0][0], len(indices[0])
    step = indices[0][1] - start if count > 1 else 1
    stride = indices[1][0] - start if len(indices) > 1 and indices[1] else 1
    if _affine(start, stride, count, step, len(indices)) != indices:
        return [list(owned) for owned in indices]
    return {"start": start, "stride": stride, "count": count, "step": step}


def whole(value: Any) -> int:
    """Return a whole number as it was read from JSON. Raises PlanError for anything else, such as 1.5 or "1"."""
    if type(value) is not int:
        raise PlanError(f"{reprlib.repr(value)} stands where a whole number should")
    return value


def group_width(value: Any) -> int:
    """Return the width of a group as it was read from JSON. Raises PlanError where no group has it."""
    width = whole(value)
    if not 1 <= width <= MOST:
        raise PlanError(f"{reprlib.repr(width)} stands where a width should: a whole number in 1..{MOST}")
    return width


def count_positions(packed: Any, width: int) -> int:
    """Return how many positions an index map gives that was read from JSON, before they are written out.

    Raises:
        PlanError: more than a layer has, or numbers that are none of an index map.

    Example:
        >>> count_positions({"start": 0, "stride": 2, "count": 2, "step": 1}, 8), count_positions([[0], [1, 2]], 2)
        (16, 3)
    """
    if not isinstance(packed, Mapping):
        return sum(len(owned) for owned in packed)
    count = whole(packed["count"])
    if count < 1:
        raise PlanError(f"an index map gives channels {reprlib.repr(count)} positions each; it must give at least 1")
    if width * count > MOST:
        raise PlanError(
            f"an index map gives {width} channels {reprlib.repr(count)} positions each; no layer has so many"
        )
    return width * count


def unpack_indices(packed: Any, width: int) -> Indices:
    """Return the index map that `pack_indices` wrote. Raises PlanError where it is none of `width` channels."""
    count_positions(packed, width)
    if isinstance(packed, Mapping):
        start, stride, count, step = (whole(packed[k]) for k in ("start", "stride", "count", "step"))
        indices = _affine(start, stride, count, step, width)
    else:
        indices = tuple(tuple(whole(p) for p in owned) for owned in packed)
    flat = [p for owned in indices for p in owned]
    if len(indices) != width or not flat or min(flat) < 0 or len(set(flat)) != len(flat):
        raise PlanError(f"an index map must give {width} channels their own positions, none shared or negative")
    return indices
