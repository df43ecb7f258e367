"""A damaged SQLite file is thrown away and made anew, once, whoever else uses it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

try:
    import fcntl
except ImportError:  # Windows: there two processes may both make it anew
    fcntl = None

Mended = Literal["rebuilt", "sound", "kept"]
"""Made anew; found to be sound, since another process was faster; or left as it is, for it is not damaged."""

SIDES = ("", "-journal", "-wal", "-shm")
"""A new file must not meet the journal of the old one, which SQLite would play back into it."""


def rebuild(path: Path, error: Exception, schema: str) -> Mended:
    """Make ``path`` anew if ``error`` says that it is damaged, or has other columns than ``schema``.

    A lock and a second look keep one process from throwing away what another has just made anew. Raises
    ``OSError`` or ``sqlite3.Error`` where that cannot be done.
    """
    if not _is_damage(error):
        return "kept"
    with _locked(path.with_name(f"{path.name}.lock")):
        if _is_sound(path, schema):
            return "sound"
        for side in SIDES:
            path.with_name(path.name + side).unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(schema)
    return "rebuilt"


def _is_damage(error: Exception) -> bool:
    """Of ``OperationalError``, which is what a full disk, a lock or a missing permission raises, only what
    speaks of the schema."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return isinstance(error, sqlite3.DatabaseError)


def _is_sound(path: Path, schema: str) -> bool:
    """Whether the file has the columns of ``schema`` and SQLite finds no fault in it."""
    try:
        with closing(sqlite3.connect(path)) as found, closing(sqlite3.connect(":memory:")) as model:
            model.execute(schema)
            found.execute(schema)
            (table,) = model.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
            columns = f"PRAGMA table_info({table})"
            same = found.execute(columns).fetchall() == model.execute(columns).fetchall()
            return same and found.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
    except sqlite3.OperationalError as error:
        if not _is_damage(error):
            raise
        return False
    except sqlite3.DatabaseError:
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Within the block no other process is in it; where files cannot be locked, that is hoped for."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
