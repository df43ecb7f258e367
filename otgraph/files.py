"""Writing files so that a failed or interrupted run leaves nothing half-written.

What is written goes to a hidden file beside its place first, which names its process (``leftovers``). A
process that was killed outright leaves that behind; the next one that writes to the same place removes it.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otgraph.errors import OutputError
from otgraph.leftovers import owner, remove_own, remove_stale

ENVIRONMENT = "OTGRAPH_CACHE"

_unfinished: list[Path] = []
"""What this process is writing at the moment."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (a named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: Path) -> str | None:
    """What ``path`` is if it is there and no file: ``a folder``, ``a FIFO (a named pipe)``, ``a device`` …"""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there, out of reach, or no name that a file could have
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def why_no_file(path: Path) -> str:
    """Why nothing can be read from ``path``, which is no file, and what to do: the end of a message."""
    kind = kind_of(path)
    return "no such file; check the path" if kind is None else f"is {kind}; give a file"


def is_text(path: Path) -> bool:
    """Whether the bytes of ``path`` are UTF-8: engines open no other."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


NO_TEXT = "its path is no UTF-8, which engines cannot open; rename it"
"""The end of a message about a path that is none."""


def is_same(output: Path, source: Path) -> bool:
    """Whether writing ``output`` would replace ``source``, by whatever spelling or link."""
    try:
        if os.path.realpath(output) == os.path.realpath(source):
            return True
        # what is not there yet cannot be lost
        return output.exists() and source.exists() and output.samefile(source)
    except (OSError, ValueError):
        return False  # it cannot be opened: who reads or writes it says so


def check_kept(output: Path, sources: Iterable[Path]) -> None:
    """Raise ``OutputError`` where writing ``output`` would replace one of ``sources``, which were read."""
    if any(is_same(output, source) for source in sources):
        raise OutputError(
            f"{output}: is what this was made from; give another name (or in Python, overwrite=True)"
        )


def through_links(path: Path) -> Path:
    """The file that is written when ``path`` is: where its links lead, as an editor has it.

    Raises:
        OutputError: they lead in a circle, or the system refuses the name.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_symlink():
            raise OutputError(f"{path}: is a link that leads in a circle; remove it or choose another name")
    except OSError as error:
        raise _refused(path, error) from error
    return target


def check_writable(path: Path) -> None:
    """Raise ``OutputError`` now, before any work, when ``path`` could not be written later."""
    target = through_links(path)
    parent = target.parent
    if not is_text(target):
        raise OutputError(f"{path}: {NO_TEXT}")
    kind = kind_of(target)
    if kind is not None:
        raise OutputError(f"{path}: is {kind}; give a file name")
    try:
        if not parent.is_dir():
            raise OutputError(f"{path}: the folder {_shown(path, parent)} does not exist; create it first")
    except OSError as error:
        raise _refused(path, error) from error
    try:
        with _noted(target):
            handle, probe = _make_aside(target)
            os.close(handle)
            os.unlink(probe)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write into {_shown(path, parent)} ({error.strerror}); choose another place"
        ) from error


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only when the block succeeds. Where
    ``path`` is a link, what it leads to is written, and the link stays.

    Raises:
        OutputError: it cannot be written, or not whole: the disk is full, say.
    """
    check_writable(path)
    target = through_links(path)
    remove_stale(target.parent, _prefix(target), ".tmp")
    with _noted(target):
        aside: Path | None = None
        try:
            handle, name = _make_aside(target)
            aside = Path(name)
            os.close(handle)
            yield aside
            os.chmod(aside, 0o666 & ~_umask())
            os.replace(aside, target)
        except OSError as error:
            raise _refused(path, error) from error
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
        remove_own(path.parent, _prefix(path), ".tmp")


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
    return tempfile.mkstemp(dir=path.parent, prefix=f"{_prefix(path)}{owner()}.", suffix=".tmp")


def _prefix(path: Path) -> str:
    """``.<name>.``, or its beginning and a checksum where there is no room for more letters in a name."""
    raw = os.fsencode(path.name)
    return f".{path.name}." if len(raw) <= 150 else f".{os.fsdecode(raw[:100])}~{zlib.crc32(raw):08x}."


def _shown(path: Path, parent: Path) -> Path:
    """The folder that ``path`` is written to, as the user has it."""
    return parent if path.is_symlink() else path.parent


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


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
