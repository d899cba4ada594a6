"""Findings as data, and what packages ask for against what is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from secateur.errors import ConfigError
from secateur.findings import Finding, worst
from secateur.installed import Package, fits, installed_packages, unmet


def test_a_finding_is_plain_data() -> None:
    finding = Finding("a", "is so", "error", "it fails", ("first", "then"))
    assert json.loads(json.dumps(finding.to_json())) == {
        "check": "a",
        "what": "is so",
        "severity": "error",
        "why": "it fails",
        "mend": ["first", "then"],
    }


def test_a_finding_must_be_worth_telling() -> None:
    with pytest.raises(ConfigError, match="unknown severity 'fatal'; allowed: error, warning, fine"):
        Finding("a", "is so", "fatal", "it fails")
    for severity in ("error", "warning"):
        with pytest.raises(ConfigError, match="does not say why"):
            Finding("a", "is so", severity)


def test_the_worst_finding_counts() -> None:
    fine, warning, error = (Finding("a", "b", s, "c") for s in ("fine", "warning", "error"))
    assert worst([]) == worst([fine, fine]) == "fine"
    assert worst([fine, warning]) == worst([warning, fine]) == "warning"
    assert worst([warning, error, fine]) == "error"


ASKER = Package(
    "asker",
    "1.0",
    (
        "One_Package (>=2,<3)",
        "never; python_version < '3'",
        "Two; extra == 'more'",
        "two>=5; extra == 'most'",
        "asker[more]; extra == 'most'",
        "not a requirement !!",
    ),
)


@pytest.mark.parametrize(
    ("versions", "extras", "lacking"),
    [
        ({"one-package": "2.5"}, (), []),
        ({"one-package": "3"}, (), [("one-package", "3")]),
        ({"one-package": "2.0.0+cu130"}, (), []),
        ({"one-package": "no version"}, (), []),
        ({}, (), [("one-package", None)]),
        ({"one-package": "2.5"}, ("more",), [("two", None)]),
        ({"one-package": "2.5", "two": "4"}, ("more",), []),
        ({"one-package": "2.5", "two": "4"}, ("more", "most"), [("two", "4")]),
    ],
)
def test_what_is_not_met(
    versions: dict[str, str], extras: tuple[str, ...], lacking: list[tuple[str, str | None]]
) -> None:
    packages = {name: Package(name, version) for name, version in versions.items()}
    assert [(lack.name, lack.found) for lack in unmet(ASKER, packages, extras=extras)] == lacking


def test_a_lack_reads_as_pip_takes_it() -> None:
    (lack,) = unmet(ASKER, {})
    assert lack.requirement == "One_Package<3,>=2"
    assert str(lack) == "asker asks for One_Package<3,>=2; not installed"


@pytest.mark.parametrize("text", ["two (>1", 'two; os_name ~= "posix"', 'two; python_version ~= "new"'])
def test_requirements_that_follow_no_standard_are_passed_over(text: str) -> None:
    (lack,) = unmet(Package("asker", "1", (text, "one")), {})
    assert lack.name == "one"


def test_a_development_version_counts_as_newer_than_those_before() -> None:
    assert fits("2.16.0.dev20261101+cu130", ">=2.8")
    assert not fits("2.7.1", ">=2.8")
    assert fits("2.7.1", "no specifier")


def test_packages_are_found_by_their_proper_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("first", "1.0"), ("second", "2.0")):
        info = tmp_path / folder / f"Some_Package-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ("Metadata-Version: 2.1", "Name: Some_Package", f"Version: {version}", "Requires-Python: >=3.9")
        (info / "METADATA").write_text("\n".join([*lines, "Requires-Dist: other (<2)", ""]))
    (tmp_path / "first" / "broken-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second"), *sys.path])
    found = installed_packages()
    assert found["some-package"] == Package("some-package", "1.0", ("other (<2)",), ">=3.9")
    assert found["torch"].version


@pytest.mark.parametrize("damaged", ["Name: damaged\nVersion: 1\nAuthor: Andr\xe9\n", "Name: damaged\n"])
def test_metadata_that_cannot_be_read_hides_no_other_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    """As old packages have it in another encoding, and an installation that was interrupted without an end."""
    (tmp_path / "damaged-1.0.dist-info").mkdir()
    (tmp_path / "damaged-1.0.dist-info" / "METADATA").write_text(damaged, encoding="latin-1")
    monkeypatch.syspath_prepend(tmp_path)
    found = installed_packages()
    assert "damaged" not in found
    assert found["torch"].version
