"""Two processes for all tests of this folder, since it takes them seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from processes_for_tests import Processes


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("meeting")) as running:
        yield running
