"""A user's folder, and one finished run in it, for all tests of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import exports_for_tests  # noqa: F401  # which makes exports quick
from runs_for_tests import User, write_user


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A folder with a network, data and a configuration; outputs go elsewhere."""
    return write_user(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def finished(user: User, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The output folder and the report of an undisturbed run. Only to be read."""
    output = tmp_path_factory.mktemp("finished") / "run"
    return output, user.call(output)
