"""What the benchmark scripts share: a plain table on the terminal, and the same rows as JSON."""

from __future__ import annotations

import json
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]

PACKAGES = ("otgraph", "torch", "onnxruntime", "numpy")


def show(title: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Print ``rows``; ``columns`` maps what is shown, in order, to a format such as ``.3f`` ('' for text)."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, form in columns.items():
        table.add_column(name, justify="right" if form else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(name), form) for name, form in columns.items()))
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)


def cell(value: Any, form: str) -> str:
    """One entry of a table; what is not known is a dash."""
    if value is None:
        return "-"
    return format(value, form) if form else str(value)


def save(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write ``document`` with the command and the software's versions, if a path is given."""
    if path is None:
        return
    header = {"command": sys.argv, "machine": machine()}
    path.write_text(json.dumps({**header, **document}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> dict[str, str]:
    """What the figures depend on besides the arguments."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def peak_megabytes() -> float:
    """The largest resident memory this process has had so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
