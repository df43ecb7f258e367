"""The clock of the closed loop: a candidate's latency as a ratio to the original's, measured in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from otgraph.data import Array, Data
from otgraph.engines.catalog import get_engine
from otgraph.graph.graph import Graph
from otgraph.latency.protocol import Comparison, Latency, compare, measure
from otgraph.optimize.exports import Exports
from otgraph.optimize.fusing import FusionClock

QUICK = 8, 24
"""Pairs of a quick comparison, at least and at most."""

QUICK_MS = 500.0
"""How long the original's calls of a quick comparison may take together, within that."""


class Stopwatch:
    """Measures graphs against ``original`` on one engine, from the files of ``exports``.

    Raises ``EngineMissing`` where the engine is not there.
    """

    def __init__(
        self, original: Graph, data: Data, engine: str, threads: int, seed: int, exports: Exports
    ) -> None:
        self.engine = get_engine(engine)
        self.threads = threads
        self.seed = seed
        self.feeds = _first_sample(original, data)
        self._exports = exports
        self._original = original
        self._count = 0
        self._ms = 0.0

    def original(self) -> Latency:
        """The latency of the original by itself."""
        path = self._exports.path_of(self._original)
        found = measure(self.engine, path, self.feeds, threads=self.threads, seed=self.seed)
        self._ms = found.ms
        return found

    def describe(self) -> dict[str, str]:
        """What the engine says of itself."""
        return {key: str(value) for key, value in self.engine.describe().items()}

    def ratio(self, candidate: Graph, *, quick: bool = False) -> Comparison:
        """``candidate`` against the original. ``quick``: in one set of pairs instead of three with sessions
        of their own, for the steps of a search."""
        if quick:
            pairs = min(max(int(QUICK_MS / max(self._ms, 1e-3)), QUICK[0]), QUICK[1])
            return self._compare(self._original, candidate, repeats=1, pairs=pairs)
        return self._compare(self._original, candidate)

    def between(self, a: Graph, b: Graph) -> Comparison:
        """``b`` against ``a``, neither of them the original."""
        return self._compare(a, b)

    def fusions(self, graph: Graph, progress: Callable[[str], None]) -> FusionClock:
        """Times the fusions of ``graph`` while it is edited, on the same sample."""
        arrays = (self.feeds[port.name] for port in graph.signature.inputs)
        inputs = tuple(torch.from_numpy(array) for array in arrays)
        return FusionClock(graph, inputs, self.engine, self.threads, self.seed, progress)

    def _compare(self, a: Graph, b: Graph, repeats: int = 3, pairs: int | None = None) -> Comparison:
        self._count += 1
        first, second = self._exports.path_of(a), self._exports.path_of(b)
        seed = self.seed + self._count
        return compare(
            self.engine,
            first,
            second,
            self.feeds,
            threads=self.threads,
            seed=seed,
            pairs=pairs,
            repeats=repeats,
        )


def _first_sample(graph: Graph, data: Data) -> Mapping[str, Array]:
    """The first sample, as a batch of one or of what the model's fixed batch axis wants."""
    names = [port.name for port in graph.signature.inputs]
    sizes = [
        port.shape[0] for port in graph.signature.inputs if port.shape and isinstance(port.shape[0], int)
    ]
    chunk = next(data.batches(sizes[0] if sizes else 1))
    return {name: chunk.arrays[name] for name in names}
