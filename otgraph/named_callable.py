"""``package.module:callable``: how a command line names a Python function (a model, data, a metric)."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from otgraph.errors import OtgraphError
from otgraph.foreign import ForeignFailure, run_foreign

T = TypeVar("T")

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
    found = _import_module(spec, module_name, error)
    for name in path.split("."):
        try:
            found = run_foreign(lambda owner=found, name=name: getattr(owner, name))
        except ForeignFailure as failure:
            if isinstance(failure.__cause__, AttributeError):
                text = f"{spec}: {module_name} has no {path}; name a function that is defined there"
            else:
                text = f"{spec}: reading {name} raised {failure}; mend it"
            raise error(text) from failure.__cause__
    if not callable(found):
        raise error(f"{spec}: is a {type(found).__name__}, not callable; name a function")
    return found


def call_named(spec: str, function: Callable[[], T], error: type[OtgraphError]) -> T:
    """What ``function``, the callable that ``spec`` names or a step with what it returned, returns.

    Raises:
        error: it raised anything, ``sys.exit`` included; the text names ``spec``, what was raised and the
            line of the user's code. An interrupt by the user stays one.
    """
    try:
        with current_directory_importable():
            return run_foreign(function)
    except ForeignFailure as failure:
        raise error(
            f"{spec}: raised {failure}; mend it: it is called without arguments"
        ) from failure.__cause__


def _import_module(spec: str, module_name: str, error: type[OtgraphError]) -> Any:
    try:
        with current_directory_importable():
            return run_foreign(lambda: importlib.import_module(module_name))
    except ForeignFailure as failure:
        missing = failure.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            text = f"importing {module_name} failed: {failure}; mend it"
        elif missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            text = f"importing {module_name} needs the module {missing.name}; install it"
        else:
            text = f"there is no module {missing.name}; run from the folder that holds it, or install it"
        raise error(f"{spec}: {text}") from missing
