"""The engines by name. An explicit, lazy table: an engine's package is imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from otgraph.engines.engine import Engine
from otgraph.errors import EngineMissing, UsageError


@dataclass(frozen=True)
class Entry:
    """Where an engine's class is, and what a user installs to have it."""

    target: str
    requirement: str


ENGINES: Mapping[str, Entry] = {
    "onnxruntime": Entry("otgraph.engines.onnxruntime:OnnxRuntime", "onnxruntime"),
}


def get_engine(name: str, table: Mapping[str, Entry] = ENGINES) -> Engine:
    """The engine called ``name``.

    Raises ``UsageError`` for a name that is not in the table and ``EngineMissing`` (exit code 3), naming
    what to install, when its package or device is not here.
    """
    entry = table.get(name)
    if entry is None:
        raise UsageError(f"engine '{name}': unknown; choose one of: {', '.join(sorted(table))}")
    module, _, attribute = entry.target.partition(":")
    try:
        engine: Engine = getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        raise EngineMissing(_missing(name, str(error), entry)) from error
    reason = engine.unavailable()
    if reason is not None:
        raise EngineMissing(_missing(name, reason, entry))
    return engine


def _missing(name: str, reason: str, entry: Entry) -> str:
    return f"engine '{name}': not available here ({reason}); pip install '{entry.requirement}'"
