"""``package.module:callable``: how a command line names a Python function (a model, data, a metric)."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from otgraph.errors import OtgraphError

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_named_callable(spec: str) -> bool:
    """Whether ``spec`` has the form ``package.module:callable`` (nothing is imported to find out)."""
    return _SPEC.fullmatch(spec) is not None


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """While it lasts, modules of the current directory are found, and first, as with ``python -m``."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def import_callable(spec: str, error: type[OtgraphError]) -> Callable[..., Any]:
    """The callable that ``package.module:callable`` names; an ``error`` says what is missing where."""
    module_name, _, path = spec.partition(":")
    with current_directory_importable():
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
                raise error(
                    f"{spec}: importing {module_name} needs the module {missing.name}; install it"
                ) from missing
            raise error(
                f"{spec}: there is no module {missing.name}; run from the folder that holds it, or install it"
            ) from missing
        except Exception as failure:
            raise error(f"{spec}: importing {module_name} failed ({describe(failure)})") from failure
    for name in path.split("."):
        if not hasattr(found, name):
            raise error(f"{spec}: {module_name} has no {path}; name a function that is defined there")
        found = getattr(found, name)
    if not callable(found):
        raise error(f"{spec}: is a {type(found).__name__}, not callable; name a function")
    return found


def describe(failure: BaseException) -> str:
    """``Type: message`` of an exception that foreign code raised, on one line."""
    text = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__
