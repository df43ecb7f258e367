"""The latency table: what was measured of single nodes, kept in SQLite, so once per device."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from otgraph.errors import OutputError
from otgraph.latency.kernel import Kernel

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kernel_costs_2 (
    device TEXT NOT NULL, kernel TEXT NOT NULL, inputs INTEGER NOT NULL, outputs INTEGER NOT NULL,
    cost REAL NOT NULL, PRIMARY KEY (device, kernel, inputs, outputs)
)
"""
"""The number is raised whenever kernels are timed in another way, so that old figures are not mixed in."""


class LatencyTable:
    """Costs by device, kernel and widths. ``device`` is what an engine says of itself (``Engine.describe``)
    with the number of threads: figures of one engine, version or machine are never taken for another's.
    Costs are relative to a reference kernel's, so that those measured at different times agree.

    Raises ``OutputError`` where the file cannot be used.
    """

    def __init__(self, path: Path, device: Mapping[str, object]) -> None:
        self.path = path
        self.device = json.dumps({key: str(value) for key, value in sorted(device.items())})
        self._run(_SCHEMA)

    def load(self, kernel: Kernel) -> dict[tuple[int, int], float]:
        """What is known of ``kernel``, at whatever widths, by (inputs, outputs)."""
        rows = self._run(
            "SELECT inputs, outputs, cost FROM kernel_costs_2 WHERE device = ? AND kernel = ?",
            [(self.device, _key(kernel))],
        )
        return {(int(i), int(o)): float(cost) for i, o, cost in rows}

    def store(self, kernel: Kernel, costs: Mapping[tuple[int, int], float]) -> None:
        """Keep costs by (inputs, outputs); what was written before at these widths is replaced."""
        rows = [(self.device, _key(kernel), i, o, cost) for (i, o), cost in costs.items()]
        self._run("INSERT OR REPLACE INTO kernel_costs_2 VALUES (?, ?, ?, ?, ?)", rows)

    def _run(
        self, statement: str, rows: Sequence[tuple[str | int | float, ...]] = ((),)
    ) -> list[tuple[float, ...]]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
                return [each for row in rows for each in connection.execute(statement, row)]
        except (sqlite3.Error, OSError) as error:
            raise OutputError(
                f"{self.path}: cannot be used as a latency table ({error}); remove it, or set OTGRAPH_CACHE"
            ) from error


def _key(kernel: Kernel) -> str:
    """All that a time depends on but the widths."""
    return repr(kernel.at(0, 0))
