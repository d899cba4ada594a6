"""A file of sqlite that survives its writers: opened with care, written whole or not at all, errors in words.

The file is in WAL mode: readers and one writer do not wait for each other, and what a killed process had committed is
there. With synchronous=FULL a commit also survives a loss of power; it costs a few milliseconds, little against what
is stored. What is cheap to lose is committed with NORMAL, at no cost, and lasts from the next full commit on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secateur.errors import JournalError

APPLICATION = 0x53454341  # "SECA" in the header of the file, where sqlite keeps who has written it
FORMAT = 1
AT = "at TEXT DEFAULT CURRENT_TIMESTAMP"  # in UTC
SCHEMA = (
    "CREATE TABLE identity (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"CREATE TABLE score_tables (name TEXT PRIMARY KEY, settings TEXT NOT NULL, seconds REAL, {AT})",
    "CREATE TABLE scores (name TEXT, layer TEXT, channel INTEGER, score REAL NOT NULL, "
    "PRIMARY KEY (name, layer, channel))",
    "CREATE TABLE evaluations (candidate TEXT, evaluation TEXT, worth REAL NOT NULL, exact INTEGER NOT NULL, "
    f"seconds REAL, widths TEXT, {AT}, PRIMARY KEY (candidate, evaluation))",
    "CREATE TABLE decisions (step INTEGER PRIMARY KEY, channel_group TEXT, width INTEGER, cost REAL, worth REAL, "
    f"record TEXT NOT NULL, {AT})",
    f"CREATE TABLE measurements (name TEXT PRIMARY KEY, value REAL NOT NULL, unit TEXT, seconds REAL, {AT})",
    f"CREATE TABLE plans (id INTEGER PRIMARY KEY CHECK (id = 1), fingerprint TEXT, plan TEXT NOT NULL, {AT})",
)
LATER = (f"CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, fact TEXT NOT NULL, {AT})",)
"""Tables that earlier journals of this format lack, and get when they are opened."""
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
UNWRITABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


class Store:
    """The tables of a journal in one file, for several processes at once.

    Args:
        path: the file; made if it is missing or empty, in a folder that exists.
        patience: seconds to wait for another process that writes.

    Raises:
        JournalError: the file is no journal or one of a newer format, which is left as it is; or it cannot be opened,
            read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(Path(folder) / "journal.sqlite")
        ...     with store.writing() as write:
        ...         _ = write("INSERT INTO identity VALUES (?, ?)", "seed", "0")
        ...     print(store.read("SELECT * FROM identity"))
        ...     store.close()
        [('seed', '0')]
    """

    def __init__(self, path: Path, *, patience: float = 30.0) -> None:
        self.path = path
        self._patience = patience
        self._refuse_foreign()
        try:
            self._connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
        except sqlite3.Error as error:
            raise self._told(error) from error
        try:
            self._make_tables()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.interpreting():
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise self._told(error) from error

    @contextmanager
    def writing(self, *, lasting: bool = True) -> Iterator[Any]:
        """Yield a function `(sql, *values)`, which returns how many rows it changed: all take effect, or none.

        Args:
            lasting: whether a loss of power must not undo it.
        """
        try:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if lasting else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")  # waits its turn now, not halfway
            yield lambda sql, *values: self._connection.execute(sql, values).rowcount
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._told(error) from error
        except UnicodeDecodeError as error:  # what sqlite says of a damaged file may quote it
            raise self._damaged(error) from error
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # sqlite has undone it by itself
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def interpreting(self) -> Iterator[None]:
        """Raise JournalError where what was read is not what was stored: text that is none, JSON that is cut."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> JournalError:
        return JournalError(f"the journal {self.path} is damaged ({error}); move it away, and the search begins anew")

    def _refuse_foreign(self) -> None:
        """Look at the first bytes of the file: sqlite itself would change a file that it opens."""
        try:
            with self.path.open("rb") as file:
                header = file.read(100)
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(f"the journal {self.path} cannot be read: {error.strerror}") from error
        if not header:  # as sqlite begins a file
            return
        if not header.startswith(b"SQLite format 3\0") or int.from_bytes(header[68:72], "big") != APPLICATION:
            raise JournalError(f"{self.path} is not a journal of secateur; choose another file")
        found = int.from_bytes(header[60:64], "big")
        if found != FORMAT:
            raise JournalError(
                f"the journal {self.path} has format {found}; this version of secateur reads format {FORMAT}"
            )

    def _make_tables(self) -> None:
        with self.writing() as write:
            if not self.read("SELECT name FROM sqlite_master"):
                for statement in (*SCHEMA, f"PRAGMA application_id={APPLICATION}", f"PRAGMA user_version={FORMAT}"):
                    write(statement)
            for statement in LATER:
                write(statement)
        with suppress(sqlite3.OperationalError):  # where another process holds it, or the file system has no WAL
            self._connection.execute("PRAGMA journal_mode=WAL")

    def _told(self, error: sqlite3.Error) -> JournalError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        journal = f"the journal {self.path}"
        if code in BUSY:
            return JournalError(
                f"{journal} was locked for more than {self._patience:g} s by another process; wait for it, or end it"
            )
        if code in UNWRITABLE:
            return JournalError(
                f"{journal} cannot be written ({error}); what it holds stays: once there is room and leave to write, "
                "the same search goes on from there"
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(error)
        return JournalError(f"{journal} cannot be used: {error}")
