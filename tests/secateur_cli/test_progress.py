"""What a person sees: lines as they are written, silence for what is quick, a bar only where there is a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from secateur_cli import progress
from secateur_cli.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def piped() -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    return Progress(Console(file=file, width=80)), file


def test_lines_are_neither_wrapped_nor_interpreted() -> None:
    reporter, file = piped()
    text = "torchvision.models:car: [red]runs/[1][/red] :smile: 12.5% " + "of 60 held-out images " * 8
    reporter.say(text)
    assert file.getvalue() == text + "\n"


def test_what_is_quick_is_silent(clock: Clock) -> None:
    reporter, file = piped()
    for _ in reporter.track(range(1000), "counting"):
        clock.now += 0.0015
    assert file.getvalue() == ""


def test_what_is_slow_is_told_after_two_seconds_and_then_every_ten(clock: Clock) -> None:
    reporter, file = piped()

    def work() -> Iterator[int]:
        for item in reporter.track(range(30), "counting"):
            clock.now += 1.0
            yield item

    assert list(work()) == list(range(30))
    assert file.getvalue().splitlines() == [
        "  counting: 2 of 30 (2 s)",
        "  counting: 12 of 30 (12 s)",
        "  counting: 22 of 30 (22 s)",
    ]


def test_an_unknown_total_is_left_out(clock: Clock) -> None:
    reporter, file = piped()
    for _ in reporter.track(iter("abc"), "reading"):
        clock.now += 1.5
    assert file.getvalue() == "  reading: 2 (3 s)\n"


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    file = io.StringIO()
    reporter = Progress(Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"}))
    with reporter.task("scoring") as advance:
        advance(1, 4)
        reporter.say("a line between")
    assert "a line between" in file.getvalue()
    assert "scoring" not in file.getvalue()  # quick


def test_a_bar_is_shown_once_it_is_slow(clock: Clock) -> None:
    file = io.StringIO()
    reporter = Progress(Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"}))
    with reporter.task("scoring") as advance:
        clock.now += 3
        advance(1, 4)
        time.sleep(0.3)
    assert "scoring" in file.getvalue()
    assert "1/4" in file.getvalue()


def test_a_dumb_terminal_and_no_color_get_no_escape_codes(clock: Clock) -> None:
    for environment in ({"TERM": "dumb"}, {"TERM": "dumb", "NO_COLOR": "1"}):
        file = io.StringIO()
        reporter = Progress(Console(file=file, force_terminal=True, width=80, _environ=environment))
        with reporter.task("scoring") as advance:
            clock.now += 3
            advance(1, 4)
        assert file.getvalue() == "  scoring: 1 of 4 (3 s)\n"


def test_waiting_speaks_only_when_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUICK", 0.1)
    reporter, file = piped()
    with reporter.waiting("reading the data"):
        pass
    time.sleep(0.2)
    assert file.getvalue() == ""
    with reporter.waiting("reading the data"):
        time.sleep(0.3)
    assert file.getvalue() == "  reading the data ...\n"
