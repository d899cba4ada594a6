"""What the report says of the channels: what chose them, and which were kept and removed."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from reports_for_tests import Page, minimal_report
from secateur.search.selection import Variant
from secateur_cli.report import choosing
from secateur_cli.report.drawing import BLUE, RUST
from secateur_cli.report.report import render_report
from secateur_cli.workspace import LEARNT


def planned(how: dict[str, Any]) -> dict[str, Any]:
    """A run that scored and planned one group and did nothing else."""
    report = minimal_report()
    plan = report["plan"] | {"groups": report["plan"]["groups"][:1]} | how
    return report | {"scores": {"criterion": "hrank"}, "plan": plan}


@pytest.mark.parametrize(
    ("search", "variant", "heading", "gone"),
    [
        ("greedy", "low", "by hrank", "those of the lowest scores by hrank were removed. "),
        ("cross_layer", "low", "by hrank", "those of the lowest scores by hrank were removed. "),
        ("uniform", "reverse", "by hrank, reversed (an ablation)", "those of the highest scores by hrank were removed"),
        ("uniform", "edge", "by hrank, from both ends (an ablation)", "those at both ends of the scores by hrank were"),
        ("rates", "middle", "by hrank, from the middle (an ablation)", "those in the middle of the scores by hrank "),
        ("uniform", "random", "at random (an ablation of hrank)", "those drawn at random were removed"),
        ("uniform", "best", "by hrank, best (an ablation)", "those that go by the variant best by hrank were removed"),
    ],
)
def test_a_page_says_what_chose_the_channels(search: str, variant: str, heading: str, gone: str) -> None:
    report = planned({"search": search, "settings": {"search": search, "variant": variant}})
    words = Page(render_report(report)).words
    assert f"digits_resnet, pruned {heading} 2026-11-20" in words
    assert f"Of the channels of a group, {gone}" in words
    is_method = variant == "low"
    assert ("an ablation: the method removes those of the lowest scores" in words) is not is_method
    assert ("crosses removed, the dashed line is the cut. Scores" in words) is is_method
    assert ("crosses removed, in this ablation those" in words) is not is_method
    assert ("dashed line" in words) is is_method
    assert ("Ties are channels that share the score at the cut" in words) is (variant != "random")


@pytest.mark.parametrize(("search", "name"), [("autopruner", "autopruner"), ("soft_clusters", "soft clusters")])
def test_what_was_learnt_is_not_said_of_a_criterion(search: str, name: str) -> None:
    report = planned({"search": search})
    report["plan"]["groups"][0]["scores"] = None
    words = Page(render_report(report)).words
    assert f"digits_resnet, pruned by {name} 2026-11-20" in words
    for text in ("by hrank", "Of the channels of a group", "Ties are", "dashed line"):
        assert text not in words, text


def test_no_line_is_drawn_where_it_is_not_the_cut() -> None:
    """A search that scores the network anew removes other channels than those of the lowest first scores."""
    report = planned({"search": "greedy"})
    lines = [panel.count("stroke-dasharray") for panel in panels(render_report(report))]
    group = report["plan"]["groups"][0]
    best = max(range(group["width"]), key=lambda channel: group["scores"][channel])
    worst = min(range(group["width"]), key=lambda channel: group["scores"][channel])
    group["kept_channels"] = sorted({*group["kept_channels"], worst} - {best})
    page = render_report(report)
    assert lines == [1]
    assert [panel.count("stroke-dasharray") for panel in panels(page)] == [0]
    assert "Circles are kept, crosses removed. Scores of different groups" in Page(page).words


def test_of_equal_scores_the_removed_ones_lie_beyond_the_cut() -> None:
    report = planned({"search": "greedy"})
    report["plan"]["groups"][0] |= {"width": 5, "kept": 3, "kept_channels": [2, 3, 4], "scores": [1, 1, 1, 1, 5]}
    (panel,) = panels(render_report(report))
    use = r'<use href="[^"]*" x="([\d.]+)" y="[\d.]+" style="fill: '
    crosses, circles = ([float(x) for x in re.findall(use + colour, panel)] for colour in (RUST, BLUE))
    assert (len(crosses), len(circles)) == (2, 3)
    assert min(crosses) > max(circles)


def test_a_sketch_keeps_no_channels_and_none_is_drawn_as_kept() -> None:
    report = planned({"search": "uniform"}) | {"recovery": {"method": "sketch", "taken": {}, "norms": [], "left": {}}}
    words = Page(render_report(report)).words
    for text in ("Circles are kept", "dashed line", "Which channels are kept", " kept Scores", "crosses"):
        assert text not in words, text
    assert "Scores of different groups are not on one scale" in words


def panels(page: str) -> list[str]:
    return re.findall(r'<svg[^>]*aria-label="Scores of .*?</svg>', page, flags=re.DOTALL)


def test_every_search_that_learns_and_every_ablation_has_words() -> None:
    assert set(choosing.LEARNT) == set(LEARNT)
    assert {"low", *choosing.ABLATIONS} == set(get_args(Variant))


def test_large_network_shows_a_limited_number_of_panels() -> None:
    report = minimal_report()
    report["plan"]["groups"] = [dict(report["plan"]["groups"][0], name=f"layer{i}") for i in range(70)]
    parsed = Page(render_report(report))
    assert sum(tag == "svg" for tag, _ in parsed.elements) == 1 + 12
    assert "layer69: 16 of 32 kept" in parsed.words
    assert "10 more groups are in the table" in parsed.words
    assert "Shown are 12 of 70 groups" in parsed.words
