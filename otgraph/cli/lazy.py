"""The Python API, imported when a command needs it: torch takes seconds, ``--help`` takes none."""

from __future__ import annotations

import importlib
import os
from typing import Any


def load_api() -> Any:
    """The module ``otgraph.api``.

    Idle threads of torch sleep instead of spinning, unless the environment says otherwise: on a busy machine
    spinning took four times the CPU time of the work itself (``otgraph demo`` beside two other processes).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return importlib.import_module("otgraph.api")
