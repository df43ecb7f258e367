"""What an interrupted optimization leaves behind, so that the next one goes on from there.

It is a cache, so no fault of it ends a run: a damaged file is made anew, and a place that cannot be written
is left alone; remarks say so.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from otgraph.errors import OutputError
from otgraph.files import write_aside
from otgraph.remark import Remark


class TrialCache:
    """Measured numbers by key, for one model, its data and one way to choose channels.

    ``what`` tells runs apart: whatever a measurement depends on goes into it. Written after each measurement,
    as a whole; without a ``folder`` nothing is written. ``remarks``: what was wrong with the file.
    """

    def __init__(self, folder: Path | None, *what: str) -> None:
        digest = hashlib.sha256("\n".join(what).encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"trials-{digest}.json"
        self.remarks: list[Remark] = []
        self._found = {} if self._path is None else self._read(self._path)

    def get(self, key: str) -> float | None:
        """What was measured, if it was."""
        return self._found.get(key)

    def put(self, key: str, value: float) -> None:
        """Keep a measurement."""
        self._found[key] = value
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(self._path) as aside:
                aside.write_text(json.dumps({k: v for k, v in self._found.items() if math.isfinite(v)}))
        except (OutputError, OSError) as error:
            self._say(self._path, f"cannot be written ({error}); what is measured is not kept")
            self._path = None

    def _read(self, path: Path) -> dict[str, float]:
        try:
            return _figures(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._say(path, f"cannot be read ({error.strerror or error}); all is measured again")
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            self._say(path, f"was damaged ({error}) and is made anew; what it held is measured again")
        return {}

    def _say(self, path: Path, text: str) -> None:
        self.remarks.append(Remark("missed", "cache", str(path), text))


def _figures(text: str) -> dict[str, float]:
    """Raises what JSON and conversions raise; ``ValueError`` for a number that is never kept."""
    found = {str(key): float(value) for key, value in json.loads(text).items()}
    wrong = next((key for key, value in found.items() if not math.isfinite(value)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} has a damage of {found[wrong]:g}")
    return found
