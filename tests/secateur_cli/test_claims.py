"""A claim is one process's until it ends, however it ends, and who waits for it is told so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

import pytest

from secateur_cli.claims import Claims

if not hasattr(os, "fork"):
    pytest.skip("the system makes no copies of a process", allow_module_level=True)


def in_a_child(work: Any) -> int:
    """Do work in a copy of this process; return the exit status that it ends with."""
    child = os.fork()
    if child == 0:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_claim_is_one_process_s_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "claims"

    def tries(name: str) -> int:
        with Claims(path) as claims, claims.claim(name) as ours:
            return 10 + ours

    def dies() -> int:
        claims = Claims(path)
        with claims.claim("cell 1"):
            os._exit(5)

    with Claims(path) as claims:
        with claims.claim("cell 1") as ours:
            assert ours
            assert in_a_child(lambda: tries("cell 1")) == 10
            assert in_a_child(lambda: tries("cell 2")) == 11
        assert in_a_child(lambda: tries("cell 1")) == 11
        assert in_a_child(dies) == 5
        with claims.claim("cell 1") as ours:
            assert ours


def test_who_waits_for_another_process_is_told_so(tmp_path: Path) -> None:
    told: list[str] = []

    @contextmanager
    def waiting(title: str) -> Iterator[None]:
        told.append(title)
        os.write(begun, b".")
        yield
        told.append("done")

    def waits() -> int:
        with Claims(tmp_path / "claims", waiting) as claims, claims.claim("cell", wait=True) as ours:
            return 10 * len(told) + ours

    begins, begun = os.pipe()
    with Claims(tmp_path / "claims", waiting) as claims:
        with claims.claim("cell"):
            child = os.fork()
            if child == 0:
                os._exit(waits())
            assert select([begins], [], [], 20)[0] == [begins]
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 21
        assert told == []
        with claims.claim("cell", wait=True):
            assert told == ["waiting for what another process works at", "done"]
