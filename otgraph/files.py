"""Writing files so that a failed or interrupted run leaves nothing half-written.

What is written goes to a hidden file beside its place first, which carries the number of the process. A
process that was killed outright leaves that behind; the next one that writes to the same place removes it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from otgraph.errors import OutputError

ENVIRONMENT = "OTGRAPH_CACHE"


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


def is_same(output: Path, source: Path) -> bool:
    """Whether writing ``output`` would replace ``source``, by whatever spelling or link."""
    try:
        if os.path.realpath(output) == os.path.realpath(
            source
        ):  # resolve() raises where links go in a circle
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
    kind = kind_of(target)
    if kind is not None:
        raise OutputError(f"{path}: is {kind}; give a file name")
    try:
        if not parent.is_dir():
            raise OutputError(f"{path}: the folder {parent} does not exist; create it first")
    except OSError as error:
        raise _refused(path, error) from error
    try:
        handle, probe = _make_aside(target)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write into {parent} ({error.strerror}); choose another place"
        ) from error
    os.close(handle)
    os.unlink(probe)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` only when the block succeeds. Where
    ``path`` is a link, what it leads to is written, and the link stays."""
    check_writable(path)
    target = through_links(path)
    _remove_stale(target)
    handle, name = _make_aside(target)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, target)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, document: object) -> None:
    """Write ``document`` as JSON, whole or not at all. Raises ``OutputError``."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cache_folder() -> Path | None:
    """``$OTGRAPH_CACHE`` or the user's cache folder, where measurements are kept; None if unusable."""
    given = os.environ.get(ENVIRONMENT)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else base / "otgraph"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _make_aside(path: Path) -> tuple[int, str]:
    """An open handle and the name of a new ``.<name>.<machine>-<process>.<random>.tmp`` beside ``path``."""
    prefix = f".{_short(path.name)}.{_machine()}-{os.getpid()}."
    return tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")


def _short(name: str) -> str:
    """``name``, or its beginning and a checksum where there is no room for more letters in a file's name."""
    raw = os.fsencode(name)
    return name if len(raw) <= 150 else f"{os.fsdecode(raw[:100])}~{zlib.crc32(raw):08x}"


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


def _remove_stale(path: Path) -> None:
    """Remove what processes of this machine that are no more left beside ``path``."""
    aside = re.compile(rf"\.{re.escape(_short(path.name))}\.{_machine()}-([0-9]+)\..*\.tmp")
    with suppress(OSError):  # a folder may be written to and not listed
        for name in os.listdir(path.parent):
            match = aside.fullmatch(name)
            if match is not None and not _is_alive(int(match[1])):
                with suppress(OSError):  # another process may have been faster, or owns it
                    os.unlink(path.parent / name)


def _is_alive(process: int) -> bool:
    """Whether there is such a process; on doubt there is."""
    if os.name != "posix":
        return True  # elsewhere signal 0 is not a question
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@cache
def _machine() -> str:
    """Tells apart those who may share a folder and do not see each other's processes: hosts, containers."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
