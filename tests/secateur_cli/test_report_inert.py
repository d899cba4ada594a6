"""The report as a file to open: inert, linked nowhere, the same each time, whatever the names in it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import matplotlib
import pytest

from reports_for_tests import Page, full_report, hostile_report, minimal_report, quantized_report, rendered
from secateur_cli.report.report import render_report


def test_spaces_of_any_kind_are_shown() -> None:
    report = full_report() | {"command": "secateur run '/a/My\N{NO-BREAK SPACE}runs/x\N{RIGHT-TO-LEFT OVERRIDE}.yaml'"}
    assert "/a/My\N{NO-BREAK SPACE}runs/x\N{REPLACEMENT CHARACTER}.yaml" in render_report(report)


@pytest.mark.parametrize("make", [full_report, quantized_report, minimal_report, hostile_report, dict])
def test_page_is_inert_and_links_nowhere(make: Any) -> None:
    parsed = Page(rendered(make))
    tags = Counter(tag for tag, _ in parsed.elements)
    assert not {"script", "img", "iframe", "object", "embed", "link", "form", "image"} & set(tags)
    for tag, attributes in parsed.elements:
        assert not [key for key in attributes if key.startswith("on")], tag
        for key in ("src", "href", "xlink:href", "action", "style"):
            value = attributes.get(key) or ""
            assert key == "style" or not value or value.startswith("#"), (tag, value)
            assert "http" not in value
            assert not re.search(r"url\((?!#)", value)


@pytest.mark.parametrize("make", [full_report, quantized_report, hostile_report])
def test_identifiers_are_unique_and_every_reference_is_met(make: Any) -> None:
    parsed = Page(rendered(make))
    found = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert [name for name, count in found.items() if count > 1] == []
    for _, attributes in parsed.elements:
        for value in attributes.values():
            for name in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert name in found
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in found


def test_hostile_names_are_shown_as_text() -> None:
    words = Page(rendered(hostile_report)).words
    assert "<script>alert('x')</script>" in words
    assert "$\\frac{1}{2}$" in words
    assert not set("\x00\u202e\ud800") & set(words)


def test_same_data_same_page_and_matplotlib_left_as_it_was(drawn_anew: None) -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        first = render_report(full_report())
    assert rendered(full_report) == first
    assert dict(matplotlib.rcParams) == before
