"""The Python API, imported when a command needs it: torch takes seconds, ``--help`` takes none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from otgraph.engines.catalogue import is_model_file
from otgraph.errors import UsageError


def load_api() -> Any:
    """The module ``otgraph.api``.

    Idle threads of torch sleep instead of spinning, unless the environment says otherwise: on a busy machine
    spinning took four times the CPU time of the work itself (``otgraph demo`` beside two other processes).

    Raises:
        UsageError: torch is not installed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return importlib.import_module("otgraph.api")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "otgraph":
            raise
        raise UsageError(
            f"this command needs the package {error.name}, which is not installed here; pip install otgraph "
            "with its dependencies (without them, audit, bench and build take .onnx files and engines)"
        ) from error


def load_for(models: Sequence[str]) -> Any:
    """What measures ``models``: ``otgraph.device`` where engines load all of them by themselves, which needs
    no torch, else the whole API. Both have ``audit``, ``bench_all`` and ``build``."""
    if all(map(is_model_file, models)):
        return importlib.import_module("otgraph.device")
    return load_api()
