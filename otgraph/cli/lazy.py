"""The Python API, imported when a command needs it: torch takes seconds, ``--help`` takes none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from otgraph.engines.catalog import is_model_file


def load_api() -> Any:
    """The module ``otgraph.api``.

    Idle threads of torch sleep instead of spinning, unless the environment says otherwise: on a busy machine
    spinning took four times the CPU time of the work itself (``otgraph demo`` beside two other processes).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return importlib.import_module("otgraph.api")


def load_for(models: Sequence[str]) -> Any:
    """What measures ``models``: ``otgraph.device`` where engines load all of them by themselves, which needs
    no torch, else the whole API. Both have ``audit``, ``bench_all`` and ``build``."""
    if all(map(is_model_file, models)):
        return importlib.import_module("otgraph.device")
    return load_api()
