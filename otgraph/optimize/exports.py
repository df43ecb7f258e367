"""``Exports``: every network of a run as an ONNX file, written once however often it is measured."""

from __future__ import annotations

from pathlib import Path

from otgraph.graph.graph import Graph
from otgraph.graph.save import write_graph
from otgraph.scratch import scratch_folder


class Exports:
    """A folder of files by graph (by its program: graphs are values, and are not edited once they are here).
    Usable as a context manager; the files go with it."""

    def __init__(self) -> None:
        self._folder = scratch_folder()
        self._known: dict[int, tuple[Graph, Path]] = {}
        self._count = 0

    def __enter__(self) -> Exports:
        return self

    def __exit__(self, *_: object) -> None:
        self._known.clear()
        self._folder.cleanup()

    def path_of(self, graph: Graph) -> Path:
        """The file of ``graph``, written on the first call. For a module this is a whole torch export."""
        known = self._known.get(id(graph.module))
        if known is None:
            self._count += 1
            known = graph, Path(self._folder.name) / f"{self._count}.onnx"
            write_graph(graph, known[1])
            self._known[id(graph.module)] = known
        return known[1]
