"""What a page is made of: sections with text, figures and tables, whatever they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur_cli.wording import NONE

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table: the first column names its row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure: SVG text that may stand in HTML as it is, and what to say below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A section: text, then figures, small figures side by side, tables, text set as code, long tables folded."""

    name: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    panels: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: str = ""
    folded: Sequence[Table] = ()


def part(report: Report, *keys: str) -> Report:
    """Return an inner mapping; an empty one where it is absent."""
    for key in keys:
        report = report.get(key) or {}
    return report


def as_text(value: Any) -> str:
    """Return plain data as one line."""
    if value is None:
        return NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {as_text(inner)}" for key, inner in value.items()) or NONE
    return ", ".join(map(as_text, value)) if isinstance(value, (list, tuple)) else str(value)
