"""Every clash of an installation, ONNX apart, is found where it is, with the command that mends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secateur.findings import Finding, worst
from secateur.installed import Package
from secateur_cli.doctor.environment import Environment, import_failures, is_proxied
from secateur_cli.doctor.environment_findings import diagnose_environment
from secateur_cli.doctor.nni_findings import diagnose_nni

ASKED = (
    "torch>=2.8",
    "torch-pruning<1.7,>=1.6",
    "rich>=13.8",
    'torchvision>=0.23; extra == "vision"',
    'pillow>=10; extra == "vision"',
    'scikit-learn>=1.4; extra == "vision"',
    'matplotlib>=3.9; extra == "report"',
    'jinja2>=3.1; extra == "report"',
    'numba>=0.61; extra == "fast"',
)
VERSIONS = {
    "torch-pruning": "1.6.1",
    "rich": "15.0.0",
    "pillow": "13.0.0",
    "scikit-learn": "1.9.1",
    "matplotlib": "3.11.2",
    "jinja2": "3.1.6",
    "numba": "0.68.1",
    "setuptools": "81.0.0",
    "filelock": "3.11.0",
    "typeguard": "4.1.2",
    "pandas": "3.1.1",
}
PACKAGES = {name: Package(name, version) for name, version in VERSIONS.items()} | {
    "secateur": Package("secateur", "0.1.0", ASKED, ">=3.11"),
    "torch": Package("torch", "2.14.1", (), ">=3.10"),
    "torchvision": Package("torchvision", "0.29.1", ("torch (==2.14.1)",), ">=3.10,!=3.14.1"),
    "nni": Package("nni", "3.0", ("filelock <3.12", "typeguard <4.1.3,>=3.0.0", "pandas")),
}
SOUND = Environment("3.11.9", PACKAGES, "13.0", 1, {}, node="v18.15.0", node_runs=True)


def with_package(name: str, version: str) -> Environment:
    return replace(SOUND, packages={**PACKAGES, name: replace(PACKAGES[name], version=version)})


def without(name: str) -> Environment:
    return replace(SOUND, packages={n: package for n, package in PACKAGES.items() if n != name})


def of(here: Environment, check: str) -> Finding:
    (finding,) = (f for f in [*diagnose_environment(here), *diagnose_nni(here)] if f.check == check)
    return finding


def test_nothing_is_wrong_where_nothing_is() -> None:
    findings = [*diagnose_environment(SOUND), *diagnose_nni(SOUND)]
    assert worst(findings) == "fine", findings
    assert not any(finding.mend or finding.why for finding in findings)
    assert of(SOUND, "torch").what == "2.14.1, for CUDA 13.0, 1 device to use"
    assert of(replace(SOUND, torch_cuda=None, devices=0), "torch").what == "2.14.1, for the CPU"


@pytest.mark.parametrize(
    ("python", "asker"), [("3.10.4", "secateur asks for >=3.11"), ("3.14.1", "torchvision asks for >=3.10,!=3.14.1")]
)
def test_a_python_that_a_package_is_not_made_for(python: str, asker: str) -> None:
    finding = of(replace(SOUND, python=python), "Python")
    assert (finding.severity, finding.what) == ("error", f"{python}; {asker}")
    assert finding.mend


NMS = "RuntimeError: operator torchvision::nms does not exist"


def test_torchvision_of_another_release_by_its_metadata() -> None:
    finding = of(with_package("torch", "2.15.0"), "torchvision")
    assert finding.severity == "error"
    assert finding.what == "0.29.1 beside torch 2.15.0: torchvision asks for torch==2.14.1; 2.15.0 is installed"
    assert finding.mend == ("pip install --upgrade torch torchvision",)


def test_torchvision_that_fails_on_import_whatever_its_metadata_says() -> None:
    finding = of(replace(SOUND, failures={"torchvision": NMS}), "torchvision")
    assert (finding.severity, finding.what) == ("error", f"0.29.1 beside torch 2.14.1: {NMS}")
    assert finding.mend == ("pip install --upgrade torch torchvision",)


@pytest.mark.parametrize("version", ["1.5.9", "1.7.0"])
def test_torch_pruning_out_of_range(version: str) -> None:
    finding = of(with_package("torch-pruning", version), "torch-pruning")
    assert (finding.severity, finding.mend) == ("error", ('pip install "torch-pruning<1.7,>=1.6"',))
    assert version in finding.what


def test_torch_that_is_too_old() -> None:
    finding = of(with_package("torch", "2.7.1"), "torch")
    assert (finding.severity, finding.mend) == ("error", ("pip install --upgrade torch torchvision",))
    assert "secateur asks for torch>=2.8" in finding.what


@pytest.mark.parametrize(
    ("name", "wanted"), [("torch", "torch>=2.8"), ("torch-pruning", "torch-pruning<1.7,>=1.6"), ("rich", "rich>=13.8")]
)
def test_what_nothing_works_without(name: str, wanted: str) -> None:
    finding = of(without(name), "secateur" if name == "rich" else name)
    assert (finding.severity, finding.mend) == ("error", (f'pip install "{wanted}"',))


@pytest.mark.parametrize(
    ("name", "severity", "lost", "wanted"),
    [
        ("numba", "fine", "several times as long", "numba>=0.61"),
        ("matplotlib", "warning", "no report.html", "matplotlib>=3.9"),
        ("jinja2", "warning", "no report.html", "jinja2>=3.1"),
        ("pillow", "warning", "no data set of images", "pillow>=10"),
        ("scikit-learn", "warning", "digits", "scikit-learn>=1.4"),
        ("torchvision", "warning", "no image folder", "torchvision>=0.23"),
    ],
)
def test_parts_that_are_missing_say_what_is_lost(name: str, severity: str, lost: str, wanted: str) -> None:
    finding = of(without(name), name)
    assert (finding.severity, finding.what, finding.mend) == (severity, "not installed", (f'pip install "{wanted}"',))
    assert lost in finding.why


def test_parts_that_are_too_old() -> None:
    finding = of(with_package("matplotlib", "3.8.4"), "matplotlib")
    assert (finding.severity, finding.what) == ("warning", "3.8.4; secateur asks for matplotlib>=3.9")


def test_parts_that_are_there_and_cannot_be_imported() -> None:
    said = "ImportError: Numba needs NumPy 2.4 or less. Got NumPy 2.5."
    finding = of(replace(SOUND, failures={"numba": said}), "numba")
    assert finding.what == f"0.68.1, which cannot be imported: {said}"
    assert (finding.severity, finding.mend) == ("fine", ('pip install --upgrade "numba>=0.61"',))
    assert of(replace(SOUND, failures={"matplotlib": "ImportError: numpy"}), "matplotlib").severity == "warning"


def test_secateur_that_is_only_on_the_path() -> None:
    here = without("secateur")
    assert of(here, "secateur").severity == "warning"
    assert worst(diagnose_environment(here)) == "warning"


@pytest.mark.parametrize("version", ["82.0.0", "84.2.1"])
def test_setuptools_that_nnictl_cannot_use(version: str) -> None:
    finding = of(with_package("setuptools", version), "nnictl")
    assert (finding.severity, finding.mend) == ("error", ('pip install "setuptools>=77.0.3,<82"',))
    assert f"setuptools {version} has no pkg_resources" in finding.what


def test_no_setuptools_at_all() -> None:
    assert of(without("setuptools"), "nnictl").severity == "error"


@pytest.mark.parametrize(
    ("name", "version", "severity", "wanted"),
    [
        ("filelock", "3.20.0", "error", "filelock<3.12"),
        ("typeguard", "4.4.0", "warning", "typeguard<4.1.3,>=3.0.0"),
        ("pandas", None, "error", "pandas"),
    ],
)
def test_what_nni_pins_or_lacks(name: str, version: str | None, severity: str, wanted: str) -> None:
    finding = of(without(name) if version is None else with_package(name, version), "NNI")
    assert (finding.severity, finding.mend) == (severity, (f'pip install "{wanted}"',))


def test_another_nni() -> None:
    finding = of(with_package("nni", "2.10"), "NNI")
    assert (finding.severity, finding.mend) == ("error", ('pip install "nni==3.0"',))


def test_without_nni_there_is_nothing_to_clash() -> None:
    here = replace(without("nni"), packages={**without("nni").packages, "setuptools": Package("setuptools", "84")})
    (finding,) = diagnose_nni(here)
    assert (finding.severity, finding.mend) == ("fine", ('pip install "nni==3.0" "setuptools>=77.0.3,<82"',))


def test_a_node_binary_that_does_not_run() -> None:
    finding = of(replace(SOUND, node="PermissionError: node", node_runs=False), "NNI's Node.js")
    assert (finding.severity, finding.what) == ("error", "does not run: PermissionError: node")
    assert finding.mend


def test_a_proxy_before_localhost() -> None:
    finding = of(replace(SOUND, proxied=True), "NNI's address")
    assert (finding.severity, finding.mend) == ("warning", ("export no_proxy=localhost,127.0.0.1",))


@pytest.mark.parametrize(
    ("variables", "proxied"),
    [
        ({}, False),
        ({"HTTP_PROXY": ""}, False),
        ({"http_proxy": "proxy:80"}, True),
        ({"ALL_PROXY": "proxy:80", "NO_PROXY": "example.org"}, True),
        ({"HTTP_PROXY": "proxy:80", "NO_PROXY": "example.org, localhost"}, False),
        ({"HTTP_PROXY": "proxy:80", "no_proxy": "*"}, False),
    ],
)
def test_who_goes_to_a_proxy(variables: dict[str, str], proxied: bool) -> None:
    assert is_proxied(variables) is proxied


def test_imports_that_fail_are_told_whatever_they_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secateur_test_operators.py").write_text(f"raise RuntimeError({NMS.partition(': ')[2]!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_failures(["json", "secateur_test_operators"]) == {"secateur_test_operators": NMS}
