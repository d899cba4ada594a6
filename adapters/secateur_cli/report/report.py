"""The report of a run: report.json for programs, report.html for people. One file, no script, nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import MissingDependencyError
from secateur.files import replacing, write_json
from secateur_cli.report.choosing import chosen
from secateur_cli.report.verdict import verdict
from secateur_cli.wording import is_shown

JSON_FILE = "report.json"
HTML_FILE = "report.html"
TEMPLATE = "report.html.jinja"
INSTALL = 'pip install "secateur[report]"'


def render_report(report: Mapping[str, Any]) -> str:
    """Return a run as one HTML page that opens offline: the result in a few sentences, a table, then the evidence.

    The page holds its style and its figures and runs no script. The same data gives the same text. Names come from
    whoever wrote the network, so all of them are escaped.

    Args:
        report: the run as plain data; the parts of steps that were switched off are left out, and so are their
            sections.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is missing; the message holds the command that installs them.

    Cost: about a tenth of a second for each figure.

    Example:
        >>> page = render_report({"plan": {"cost": "macs", "before": 200.0, "after": 99.0}})
        >>> "needs 49.5% of the MACs" in page, "<script" in page
        (True, False)
    """
    try:
        from secateur_cli.report import sections
    except ImportError as error:
        raise packages_missing(error) from error
    run = readable(report)
    network = run.get("network") or {}
    return render_page(
        TEMPLATE,
        network=str(network.get("build") or "network").rpartition(":")[2],
        chosen=chosen(run),
        created=moment(str(run.get("created") or "")),
        data=(run.get("data") or {}).get("source"),
        smoke=bool(run.get("smoke")),
        verdict=verdict(run),
        summary=sections.summary(run),
        sections=sections.sections(run),
        version=(run.get("versions") or {}).get("secateur"),
    )


def render_page(template: str, **content: Any) -> str:
    """Return a page from a template of ours, with all of its content escaped but the figures.

    Raises:
        MissingDependencyError: jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise packages_missing(error) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def write_report(report: Mapping[str, Any], folder: str | Path) -> None:
    """Write report.json and then report.html to `folder`, each under another name first, so that none is ever half.

    Numbers that are not finite become null, since JSON knows none.

    Raises:
        MissingDependencyError: as `render_report`; report.json is written all the same.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report({"seconds": 8.0}, folder)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['report.html', 'report.json']
    """
    folder = Path(folder)
    write_json(folder / JSON_FILE, plain(report))
    page = render_report(report)
    with replacing(folder / HTML_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")


def readable(report: Mapping[str, Any]) -> Any:
    """Return a report as a page may show it: finite numbers, and no characters that are invisible or no text."""
    return _printable(plain(report))


def moment(created: str) -> str:
    """Return an ISO time without its seconds."""
    return created[:16].replace("T", " ") + (" UTC" if created.endswith(("+00:00", "Z")) else "")


def packages_missing(error: ImportError) -> MissingDependencyError:
    """Return the error that says how to get what a page needs."""
    return MissingDependencyError(f"the page needs jinja2 and matplotlib ({error}); install them with {INSTALL}")


def plain(value: Any) -> Any:
    """Return mappings and lists anew, with None in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _printable(value: Any) -> Any:
    """Return plain data with a mark in place of characters that are invisible or no text at all."""
    if isinstance(value, dict):
        return {_printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    if isinstance(value, str):
        return "".join(c if is_shown(c) else "�" for c in value)
    return value
