"""What code that is not ours did wrong (a user's callable, a module's ``forward``), in one line."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb
from typing import TypeVar

T = TypeVar("T")

LONGEST = 300
"""Characters of a foreign message that are repeated; some hold whole tensors."""

_OURS = str(Path(__file__).parent)
_LIBRARIES = tuple(
    folder + os.sep
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (folder := sysconfig.get_path(key))
)


class ForeignFailure(Exception):
    """What foreign code raised, as its cause; the text says what, and where in the user's code."""


def run_foreign(call: Callable[[], T]) -> T:
    """What ``call`` returns.

    Raises:
        ForeignFailure: it raised something; ``sys.exit`` counts, for it would end the command with a code
            that belongs to somebody else. ``KeyboardInterrupt`` stays what it is.
    """
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        raise ForeignFailure(blame(failure)) from failure


def blame(failure: BaseException) -> str:
    """``Type: message (file:line)``; the place is the innermost line of the user's own code, if any."""
    place = _place(failure)
    return f"{describe(failure)} ({place})" if place else describe(failure)


def describe(failure: BaseException) -> str:
    """``Type: message`` of an exception that foreign code raised, on one line."""
    try:
        text = " ".join(str(failure).split())
    except Exception:  # noqa: BLE001  (its ``__str__`` is foreign code as well)
        text = ""
    return f"{type(failure).__name__}: {_shortened(text)}" if text else type(failure).__name__


def _place(failure: BaseException, *, libraries: bool = True) -> str:
    """``file:line`` of the innermost line that is the user's, or (``libraries``) without one of a library."""
    if isinstance(failure, SyntaxError) and failure.filename:
        return f"{_short(failure.filename)}:{failure.lineno}"
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(failure.__traceback__)]
    files = [(file, line) for file, line in lines if not file.startswith((_OURS + os.sep, "<"))]
    users = [(file, line) for file, line in files if not file.startswith(_LIBRARIES)]
    for file, line in reversed(users or (files if libraries else [])):
        return f"{_short(file)}:{line}"
    return ""


def _short(file: str) -> str:
    """Relative to the current directory where it lies in there."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere; or the directory is gone
        return file


def first_line(error: BaseException) -> str:
    """The first line of the message of an exception, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def blame_briefly(failure: BaseException) -> str:
    """As ``blame``, for what a library makes of the user's code: the first line of its message, without the
    type of an ordinary exception, and a place only in the user's code."""
    place = _place(failure, libraries=False)
    text = _shortened(first_line(failure)) if isinstance(failure, Exception) else describe(failure)
    return f"{text} ({place})" if place else text


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
