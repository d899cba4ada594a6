"""Who works at what: several processes share the work, and one that is killed leaves nothing claimed."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Self

RANGE = 2**40


class Claims:
    """Claims on pieces of work, each a byte of one file that the system locks for a process and frees when it ends.

    Where the system or the file system knows no such locks, everything can be claimed by everyone: work is then done
    twice, and what was stored first counts.

    Args:
        path: the file; made if it is missing, never written to.
        waiting: a context, given what to tell a user, within which another process is waited for.
    """

    def __init__(self, path: Path, waiting: Callable[[str], AbstractContextManager[object]] = nullcontext) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._waiting = waiting

    def close(self) -> None:
        """Give up all claims."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Claim a piece of work within the block; yield whether it is ours, and not another process's.

        Args:
            name: of the work.
            wait: whether to wait until it is free.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Claims(Path(folder) / "claims") as claims:
            ...     with claims.claim("cell") as ours:
            ...         ours
            True
        """
        if sys.platform == "win32":
            yield True
            return
        import fcntl

        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % RANGE
        try:
            with self._waiting("waiting for what another process works at") if wait else nullcontext():
                fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except (BlockingIOError, PermissionError):  # another process has it
            yield False
            return
        except OSError:  # a file system without locks
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
