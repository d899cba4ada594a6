"""NNI not installed, and setuptools too new for its command line: refused with the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

import secateur_nni
from secateur.errors import MissingDependencyError
from secateur_nni import check_nnictl

WITHOUT_NNI = """
import sys
sys.modules["nni"] = None
import secateur, secateur_nni
try:
    secateur_nni.HRankPruner
except secateur.errors.MissingDependencyError as error:
    print(isinstance(error, ImportError), error)
"""


def test_without_nni_everything_else_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NNI], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True NNI 3.0 cannot be imported")
    assert 'pip install "secateur[nni]"' in done.stdout


def test_unknown_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HRankPrunner'"):
        _ = secateur_nni.HRankPrunner


def test_every_public_name_has_a_home() -> None:
    assert set(secateur_nni._HOMES) == set(secateur_nni.__all__)
    assert len(secateur_nni._HOMES) == len(secateur_nni.__all__)


@pytest.mark.parametrize("installed", [True, False])
def test_nnictl_without_pkg_resources(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    def version(_name: str) -> str:
        if not installed:
            raise importlib.metadata.PackageNotFoundError
        return "84.2.1"

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", version)
    what = r"setuptools 84\.2\.1 has none" if installed else "setuptools is not installed"
    with pytest.raises(MissingDependencyError, match=rf'{what}; pip install "setuptools>=77\.0\.3,<82"'):
        check_nnictl()


def test_nnictl_with_pkg_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_nnictl()
