"""The Python API, imported when a command needs it: torch takes seconds, ``--help`` takes none."""

from __future__ import annotations

import importlib
from typing import Any


def load_api() -> Any:
    """The module ``otgraph.api``."""
    return importlib.import_module("otgraph.api")
