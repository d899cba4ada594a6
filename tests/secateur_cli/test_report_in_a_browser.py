"""The report as a browser shows it: on a phone, on a screen and in print, with nothing loaded from anywhere.

Frames stand in for phones, since browsers refuse windows as narrow; one start of the browser measures them all.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from comparisons_for_tests import full_comparison
from reports_for_tests import full_report, hostile_report
from secateur_cli.comparison.document import render_comparison
from secateur_cli.report.report import render_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
PHONES, SCREEN = (320, 390), 1200
A4 = round((210 - 2 * 15) / 25.4 * 96)  # the text of a page within its margins, in CSS pixels
LOOK = """onload = () => {
    const seen = [];
    for (const frame of document.querySelectorAll('iframe')) {
        const inner = frame.contentDocument, page = inner.documentElement;
        if (frame.dataset.media === 'print')
            for (const sheet of inner.styleSheets)
                for (const rule of sheet.cssRules)
                    if (rule.media && rule.media.mediaText === 'print') rule.media.mediaText = 'all';
        const all = selector => [...inner.querySelectorAll(selector)];
        seen.push({
            name: frame.dataset.name, media: frame.dataset.media, width: frame.clientWidth,
            sideways: page.scrollWidth - page.clientWidth,
            summary: Math.max(...all('#summary .scroll').map(box => box.scrollWidth - box.clientWidth)),
            beyond: all('section *').filter(e => e.getBoundingClientRect().right > frame.clientWidth + 1).length,
            figures: all('svg').length,
            lowest: Math.min(...all('svg').map(svg => svg.getBoundingClientRect().height)),
            smallest: Math.min(...all('p, td, th, a, figcaption').map(e => parseFloat(getComputedStyle(e).fontSize))),
            lettering: Math.min(...all('svg text').map(e => e.getBoundingClientRect().height)),
            wrapped: all('[id^=block] tbody td').filter(cell => {
                const text = inner.createRange();
                text.selectNodeContents(cell);
                return text.getClientRects().length > 1;
            }).length,
            folded: all('details table').length,
            unfolded: all('details table').filter(e => e.checkVisibility({contentVisibilityAuto: true})).length,
        });
    }
    const told = document.createElement('pre');
    told.id = 'seen';
    told.textContent = JSON.stringify(seen);
    document.body.append(told);
}"""


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine: its address, and the paths that were asked of it."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server looks for
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def seen(asked: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a browser measured of a report, a large comparison and a hostile report, at every width, and in print."""
    folder = tmp_path_factory.mktemp("frames")
    pages = {"full": render_report(full_report()), "hostile": render_report(hostile_report())}
    pages["comparison"] = render_comparison(full_comparison())
    pages["hostile"] = pages["hostile"].replace("evil.example", asked[0])
    frames = [
        f'<iframe data-name="{name}" data-media="{media}" style="border:0;width:{width}px;height:1500px" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for media, width in [*(("screen", width) for width in (*PHONES, SCREEN)), ("print", A4)]
    ]
    control = f'<img src="http://{asked[0]}/control">'
    outer = folder / "frames.html"
    outer.write_text(
        f"<!doctype html><meta charset=utf-8><body>{control}{''.join(frames)}<script>{LOOK}</script></body>", "utf-8"
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', _browse(outer, "--dump-dom", folder), re.DOTALL)
    assert found is not None
    measured: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert len(measured) == len(frames)
    return measured


def test_nothing_is_loaded(seen: list[dict[str, Any]], asked: tuple[str, list[str]]) -> None:
    """The hostile report names an image on the server; only the frame around it, which may, has asked for one."""
    assert asked[1] == ["/control"]


def test_no_page_scrolls_sideways(seen: list[dict[str, Any]]) -> None:
    assert [(page["name"], page["width"]) for page in seen if page["sideways"]] == []


def test_the_result_is_read_on_a_phone_without_scrolling(seen: list[dict[str, Any]]) -> None:
    ordinary = [page for page in seen if page["name"] != "hostile" and page["width"] >= 390]
    assert [page["summary"] for page in ordinary] == [0] * 6


def test_a_row_of_a_comparison_is_as_low_on_a_phone_as_its_name_lets_it(seen: list[dict[str, Any]]) -> None:
    """A speed with its interval, out of sight to the right, does not make each row three lines high."""
    shown = [page for page in seen if page["name"] == "comparison" and page["media"] == "screen"]
    assert [page["wrapped"] for page in shown] == [0, 0, 0]


def test_letters_and_figures_are_large_enough(seen: list[dict[str, Any]]) -> None:
    for page in seen:
        assert page["figures"] == (23 if page["name"] == "comparison" else 13)
        assert page["lowest"] > 60
        assert page["lettering"] >= (9 if page["width"] >= 390 else 7)
        assert page["smallest"] >= (10 if page["media"] == "print" else 12)


def test_print_cuts_nothing_and_unfolds_everything(seen: list[dict[str, Any]]) -> None:
    printed = [page for page in seen if page["media"] == "print"]
    assert [page["beyond"] for page in printed] == [0, 0, 0]
    assert all(page["folded"] == page["unfolded"] for page in printed)
    assert [page["name"] for page in printed if page["folded"]] == ["full", "hostile"]
    assert all(page["unfolded"] == 0 for page in seen if page["media"] == "screen")


def test_browser_takes_a_screenshot_with_something_on_it(tmp_path: Path) -> None:
    screenshot = tmp_path / "page.png"
    _browse(_written(tmp_path), f"--screenshot={screenshot}", tmp_path)
    darkness = 1 - imread(screenshot)[..., :3].mean(axis=2)
    rows = darkness.max(axis=1) > 0.5
    assert rows[:300].any()
    assert rows[-300:].any()
    assert darkness.mean() < 0.2  # dark on white


def test_print_gives_pages_of_a4_at_full_size(tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    _browse(_written(tmp_path), f"--print-to-pdf={pdf}", tmp_path)
    data = pdf.read_bytes()
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", data)
    assert 4 <= len(boxes) <= 12
    assert {(round(float(width)), round(float(height))) for width, height in boxes} == {(595, 842)}
    found = re.findall(rb"/FlateDecode[^>]*>>\s*stream\r?\n(x.*?)endstream", data, re.DOTALL)
    begins = [zlib.decompress(body)[:200] for body in found]
    number = rb"([\d.]+)"
    scales = [
        float(outer[1]) * float(inner[1])
        for begin in begins
        if (outer := re.match(number + rb" 0 0 -", begin)) and (inner := re.search(rb"q\s" + number + rb" 0 0 ", begin))
    ]
    assert len(scales) == len(boxes)
    assert scales == pytest.approx([72 / 96] * len(boxes), abs=0.001)  # a page that is too wide would be shrunk


def _written(folder: Path) -> Path:
    page = folder / "report.html"
    page.write_text(render_report(full_report()), "utf-8")
    return page


def _browse(page: Path, action: str, folder: Path) -> str:
    if not BROWSER:
        pytest.skip("no chromium on this machine to look at the page with")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
               f"--user-data-dir={folder / 'profile'}", "--window-size=1280,2000", action, page.as_uri()]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
