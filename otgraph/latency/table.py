"""The latency table: what was measured of single nodes, kept in SQLite, so once per device.

It is a cache, so no fault of it ends a run: a damaged file is made anew, and one that cannot be used is left
alone; remarks say so. Several processes may use it at once. It keeps SQLite's plain journal: WAL needs shared
memory, which network folders lack, and cannot be read where nothing may be written.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from otgraph.latency.damaged import rebuild
from otgraph.latency.kernel import Kernel
from otgraph.remark import Remark

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kernel_costs_2 (
    device TEXT NOT NULL, kernel TEXT NOT NULL, inputs INTEGER NOT NULL, outputs INTEGER NOT NULL,
    cost REAL NOT NULL, PRIMARY KEY (device, kernel, inputs, outputs)
)
"""
"""The number is raised whenever kernels are timed in another way, so that old figures are not mixed in."""

_LOAD = "SELECT inputs, outputs, cost FROM kernel_costs_2 WHERE device = ? AND kernel = ?"
_STORE = "INSERT OR REPLACE INTO kernel_costs_2 VALUES (?, ?, ?, ?, ?)"

WAIT_SECONDS = 10.0
"""How long another process may keep the file to itself; each use of it takes milliseconds."""

Row = tuple[str | int | float, ...]


class LatencyTable:
    """Costs by device, kernel and widths. ``device`` is what an engine says of itself (``Engine.describe``)
    with the number of threads: figures of one engine, version or machine are never taken for another's.
    Costs are relative to a reference kernel's, so that those measured at different times agree.

    ``remarks``: what was wrong with the file. Once it turned out to be of no use it is left alone.
    """

    def __init__(self, path: Path, device: Mapping[str, object]) -> None:
        self.path = path
        self.device = json.dumps({key: str(value) for key, value in sorted(device.items())})
        self.remarks: list[Remark] = []
        self._readable = self._writable = True

    def load(self, kernel: Kernel) -> dict[tuple[int, int], float]:
        """What is known of ``kernel``, at whatever widths, by (inputs, outputs)."""
        if not self._readable:
            return {}
        rows = self._run(_LOAD, [(self.device, _key(kernel))], writes=False)
        found: dict[tuple[int, int], float] = {}
        for i, o, cost in rows:
            if isinstance(i, int) and isinstance(o, int) and isinstance(cost, float) and 0 < cost < math.inf:
                found[i, o] = cost  # SQLite keeps whatever it is given, in whatever column
        if len(found) < len(rows):
            self._say("holds costs that are none; those kernels are measured again")
        return found

    def store(self, kernel: Kernel, costs: Mapping[tuple[int, int], float]) -> None:
        """Keep costs by (inputs, outputs); what was written before at these widths is replaced."""
        if self._writable:
            rows = [(self.device, _key(kernel), i, o, cost) for (i, o), cost in costs.items()]
            self._run(_STORE, rows, writes=True)

    def _run(self, statement: str, rows: Sequence[Row], *, writes: bool) -> list[tuple[object, ...]]:
        for attempt in (1, 2):
            try:
                return _execute(self.path, statement, rows)
            except (sqlite3.Error, OSError) as error:
                if attempt == 2 or not self._rebuilt(error):
                    self._give_up(error, writes=writes)
                    break
        return []

    def _rebuilt(self, error: sqlite3.Error | OSError) -> bool:
        """Whether the file was damaged, and is no more."""
        try:
            mended = rebuild(self.path, error, _SCHEMA)
        except (sqlite3.Error, OSError):
            return False
        if mended == "rebuilt":
            self._say(f"was damaged ({error}) and is made anew; what it held is measured again")
        return mended != "kept"

    def _give_up(self, error: sqlite3.Error | OSError, *, writes: bool) -> None:
        said_before = not self._writable
        self._writable = False
        self._readable = self._readable and writes
        lost = "what is measured is not kept" if writes else "all is measured, and nothing is kept"
        if not said_before:
            self._say(f"cannot be {'written' if writes else 'used'} ({error}); {lost}")

    def _say(self, text: str) -> None:
        remark = Remark("missed", "cache", str(self.path), text)
        if remark not in self.remarks:
            self.remarks.append(remark)


def _execute(path: Path, statement: str, rows: Sequence[Row]) -> list[tuple[object, ...]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection, connection:
        connection.execute(_SCHEMA)
        return [each for row in rows for each in connection.execute(statement, row)]


def _key(kernel: Kernel) -> str:
    """All that a time depends on but the widths."""
    return repr(kernel.at(0, 0))
