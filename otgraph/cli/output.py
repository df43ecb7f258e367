"""What a command says and where: results to standard output, progress to a terminal, nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from otgraph.cli.lazy import report

if TYPE_CHECKING:
    from otgraph.remark import Remark
    from otgraph.task import OutputReading

PIPE_WIDTH = 120
"""Columns where there is no terminal to ask."""

_STYLES = {"applied": "green", "missed": "yellow", "analysis": "dim", "failure": "bold red"}


@dataclass(frozen=True)
class Output:
    """Standard output of one command: text as it comes, or with ``as_json`` one object at the end."""

    as_json: bool

    def say(self, item: RenderableType) -> None:
        """Print text or a table; a text is taken literally, whatever brackets it holds."""
        if not self.as_json:
            console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
            console.print(
                Text(item) if isinstance(item, str) else item, soft_wrap=isinstance(item, (str, Text))
            )

    def reading(self, reading: OutputReading) -> None:
        """Print how the outputs are read, before any work rests on it."""
        self.say(f"task   {reading.text}")

    def remarks(self, remarks: Iterable[Remark]) -> None:
        """Print remarks, one a line."""
        for remark in remarks:
            self.say(Text(str(remark), style=_STYLES[remark.kind]))

    def result(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON object, if that is what was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(report.plain(document), indent=2, ensure_ascii=False) + "\n")


def plain_table(*columns: str) -> Table:
    """A table without lines, which reads well in a pipe too."""
    return Table(*columns, box=None, pad_edge=False, padding=(0, 3, 0, 0))


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done: on a terminal; in a pipe it says nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _silent
        return
    with console.status("") as status:

        def show(message: str) -> None:
            status.update(Text(message))

        yield show


def _silent(message: str) -> None:
    """In a pipe nothing is shown."""
