"""The clock of the closed loop: a candidate's latency as a ratio to the original's, measured in pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from otgraph.data import Array, Data
from otgraph.engines.catalogue import get_engine
from otgraph.graph.graph import Graph
from otgraph.latency.protocol import Comparison, Latency, compare, measure
from otgraph.optimize.fusing import FusionClock


class Stopwatch:
    """Measures graphs against ``original`` on one engine. Usable as a context manager: it holds a folder.

    Raises ``EngineMissing`` where the engine is not there.
    """

    def __init__(self, original: Graph, data: Data, engine: str, threads: int, seed: int) -> None:
        self.engine = get_engine(engine)
        self.threads = threads
        self.seed = seed
        self.feeds = _first_sample(original, data)
        self._folder = tempfile.TemporaryDirectory(prefix="otgraph-")
        self._original = self._write(original, "original")
        self._count = 0

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def original(self) -> Latency:
        """The latency of the original by itself."""
        return measure(self.engine, self._original, self.feeds, threads=self.threads, seed=self.seed)

    def describe(self) -> dict[str, str]:
        """What the engine says of itself."""
        return {key: str(value) for key, value in self.engine.describe().items()}

    def ratio(self, candidate: Graph, *, quick: bool = False) -> Comparison:
        """``candidate`` against the original."""
        return self._compare(self._original, self._candidate(candidate))

    def between(self, a: Graph, b: Graph) -> Comparison:
        """``b`` against ``a``, neither of them the original."""
        return self._compare(self._candidate(a), self._candidate(b))

    def fusions(self, graph: Graph, progress: Callable[[str], None]) -> FusionClock:
        """Times the fusions of ``graph`` while it is edited, on the same sample."""
        arrays = (self.feeds[port.name] for port in graph.signature.inputs)
        inputs = tuple(torch.from_numpy(array) for array in arrays)
        return FusionClock(graph, inputs, self.engine, self.threads, self.seed, progress)

    def _compare(self, a: Path, b: Path) -> Comparison:
        seed = self.seed + self._count
        return compare(self.engine, a, b, self.feeds, threads=self.threads, seed=seed)

    def _candidate(self, graph: Graph) -> Path:
        self._count += 1
        return self._write(graph, f"candidate_{self._count}")

    def _write(self, graph: Graph, name: str) -> Path:
        path = Path(self._folder.name) / f"{name}.onnx"
        graph.save(path)
        return path


def _first_sample(graph: Graph, data: Data) -> Mapping[str, Array]:
    """The first sample, as a batch of one or of what the model's fixed batch axis wants."""
    names = [port.name for port in graph.signature.inputs]
    sizes = [
        port.shape[0] for port in graph.signature.inputs if port.shape and isinstance(port.shape[0], int)
    ]
    chunk = next(data.batches(sizes[0] if sizes else 1))
    return {name: chunk.arrays[name] for name in names}
