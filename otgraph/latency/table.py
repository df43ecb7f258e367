"""The latency table: what was measured of single nodes, kept in SQLite, so once per device."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from otgraph.errors import OutputError

if TYPE_CHECKING:
    from otgraph.latency.kernels import Kernel, KernelTime

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kernel_times (
    device TEXT NOT NULL, kernel TEXT NOT NULL, form TEXT NOT NULL, PRIMARY KEY (device, kernel)
)
"""


class LatencyTable:
    """Fitted times by device and kernel. ``device`` is what an engine says of itself (``Engine.describe``)
    with the number of threads: figures of one engine, version or machine are never taken for another's.

    Raises ``OutputError`` where the file cannot be used.
    """

    def __init__(self, path: Path, device: Mapping[str, object]) -> None:
        self.path = path
        self.device = json.dumps({key: str(value) for key, value in sorted(device.items())})
        self._run(_SCHEMA)

    def load(self, kernel: Kernel) -> dict[str, float] | None:
        """The coefficients of ``KernelTime`` by name, or None."""
        rows = self._run(
            "SELECT form FROM kernel_times WHERE device = ? AND kernel = ?", self.device, repr(kernel)
        )
        return None if not rows else {str(k): float(v) for k, v in json.loads(rows[0][0]).items()}

    def store(self, kernel: Kernel, time: KernelTime) -> None:
        """Keep ``time``; a row written before is replaced."""
        self._run(
            "INSERT OR REPLACE INTO kernel_times VALUES (?, ?, ?)",
            self.device,
            repr(kernel),
            json.dumps(asdict(time)),
        )

    def _run(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        try:
            with closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
                return connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.path}: cannot be used as a latency table ({error}); remove it, or set OTGRAPH_CACHE"
            ) from error
