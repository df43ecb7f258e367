"""Writing files so that a failed or interrupted run leaves nothing half-written.

What is written goes to a hidden file beside its place first, which names its process (``leftovers``). A
process that was killed outright leaves that behind; the next one that writes to the same place removes it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otgraph.errors import OutputError
from otgraph.leftovers import owner, remove_own, remove_stale

ENVIRONMENT = "OTGRAPH_CACHE"

_unfinished: list[Path] = []
"""What this process is writing at the moment."""


def check_writable(path: Path) -> None:
    """Raise ``OutputError`` now, before any work, when ``path`` could not be written later."""
    parent = path.parent
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give a file name")
        if not parent.is_dir():
            raise OutputError(f"{path}: the folder {parent} does not exist; create it first")
        with _noted(path):
            handle, probe = _make_aside(path)
            os.close(handle)
            os.unlink(probe)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write into {parent} ({error.strerror}); choose another place"
        ) from error


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``path`` only when the block succeeds.

    Raises:
        OutputError: it cannot be written, or not whole: the disk is full, say.
    """
    check_writable(path)
    remove_stale(path.parent, f".{path.name}.", ".tmp")
    with _noted(path):
        aside: Path | None = None
        try:
            handle, name = _make_aside(path)
            aside = Path(name)
            os.close(handle)
            yield aside
            os.chmod(aside, 0o666 & ~_umask())
            os.replace(aside, path)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}); choose another place"
            ) from error
        finally:
            if aside is not None:
                aside.unlink(missing_ok=True)


def write_json(path: Path, document: object) -> None:
    """Write ``document`` as JSON, whole or not at all. Raises ``OutputError``."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def discard_unfinished() -> None:
    """Remove what this process, which is about to end, is still writing; outputs that are whole stay."""
    for path in list(_unfinished):
        remove_own(path.parent, f".{path.name}.", ".tmp")


def cache_folder() -> Path | None:
    """``$OTGRAPH_CACHE`` or the user's cache folder, where measurements are kept; it may not exist yet, nor
    be usable. None where the user has no home."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # any other is to be ignored, by its specification
        return Path(base) / "otgraph"
    home = _home()
    return None if home is None else home / ".cache" / "otgraph"


def _home() -> Path | None:
    """``$HOME``, where it is the path of a folder, or what the system knows of the user."""
    given = os.environ.get("HOME") or os.environ.get("USERPROFILE") or ""
    if Path(given).is_absolute():
        return Path(given)
    try:
        import pwd  # noqa: PLC0415  (there is none on Windows)

        known = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):  # a container may run under a number that nobody has
        return None
    return known if known.is_absolute() else None


def _make_aside(path: Path) -> tuple[int, str]:
    """An open handle and the name of a new ``.<name>.<owner>.<random>.tmp`` beside ``path``."""
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{owner()}.", suffix=".tmp")


@contextmanager
def _noted(path: Path) -> Iterator[None]:
    """Within the block ``path`` is known to be unfinished, from before its temporary file is made."""
    _unfinished.append(path)
    try:
        yield
    finally:
        _unfinished.remove(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
