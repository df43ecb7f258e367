"""Temporary folders, which name their process: what a killed one leaves is removed by the next."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import IO

from otgraph.errors import OutputError
from otgraph.leftovers import owner, remove_own, remove_stale

PREFIX = "otgraph-"


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A new temporary folder, to be used as a context manager, which gives its path as text.

    Raises:
        OutputError: there is no place for temporary files.
    """
    clear_stale()
    try:
        return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{owner()}.")
    except OSError as error:
        raise _no_place(error) from error


def scratch_file(folder: Path | None = None) -> IO[bytes]:
    """A new file without a name, in ``folder`` or the folder of temporary files; it is gone once closed.

    Raises:
        OutputError: there is no place for it.
    """
    clear_stale()
    try:
        return tempfile.TemporaryFile(prefix=f"{PREFIX}{owner()}.", dir=folder, buffering=0)
    except OSError as error:
        raise _no_place(error) from error


@cache
def clear_stale() -> None:
    """Remove what killed processes of the user left in the folder of temporary files; once per process."""
    folder = _folder()
    if folder is not None:
        remove_stale(folder, PREFIX)


def discard_scratch() -> None:
    """Remove all temporary folders of this process, which is about to end."""
    folder = _folder()
    if folder is not None:
        remove_own(folder, PREFIX)


def _folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none can be written to
        return None


def _no_place(error: OSError) -> OutputError:
    reason = error.strerror or error
    return OutputError(f"temporary files: cannot be made ({reason}); set TMPDIR to a folder with room")
