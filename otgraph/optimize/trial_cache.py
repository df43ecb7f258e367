"""What an interrupted optimization leaves behind, so that the next one goes on from there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from otgraph.files import write_aside


class TrialCache:
    """Measured numbers by key, for one model, its data and one way to choose channels.

    ``what`` tells runs apart: whatever a measurement depends on goes into it. Written after each measurement,
    as a whole; without a ``folder`` nothing is written.
    """

    def __init__(self, folder: Path | None, *what: str) -> None:
        digest = hashlib.sha256("\n".join(what).encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"trials-{digest}.json"
        self._found = _read(self._path)

    def get(self, key: str) -> float | None:
        """What was measured, if it was."""
        return self._found.get(key)

    def put(self, key: str, value: float) -> None:
        """Keep a measurement."""
        self._found[key] = value
        if self._path is not None:
            with write_aside(self._path) as aside:
                aside.write_text(json.dumps(self._found))


def _read(path: Path | None) -> dict[str, float]:
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # not ours, or cut short by an older version: measure again
