"""Inputs as batches that each belong to one fold, split by *input*.

Positions of one input are not independent, so a split by position would call over-fitting a success.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otgraph.calibrate.feeds import Feed, feed, fixed_batch
from otgraph.data import Chunk, Data
from otgraph.errors import DataError
from otgraph.graph.graph import Graph


@dataclass(frozen=True)
class Batch:
    """The inputs of one call and the fold all its samples belong to."""

    inputs: Feed
    fold: int


def split_batches(
    graph: Graph, data: Data, folds: int, *, batch_size: int = 16, limit: int | None = None, seed: int = 0
) -> list[Batch]:
    """Cut ``data`` into batches, each in one of ``folds`` consecutive stretches of the samples.

    Neighbors are often kin (crops of one photograph, frames of one film): held-out samples tell the truth
    only when their kin are held out with them.

    ``limit`` bounds the number of samples; which ones is drawn with ``seed``.

    Raises:
        DataError: there is no complete batch.
    """
    fixed = fixed_batch(graph)
    rng = np.random.default_rng(seed)
    unit = fixed or 1
    pieces = [
        (c, start)
        for c, chunk in enumerate(data.chunks)
        for start in range(0, len(chunk) - len(chunk) % unit, unit)
    ]
    if not pieces:
        raise DataError(f"{data.source}: holds no complete batch of samples; give at least one")
    most = len(pieces) if limit is None else max(1, limit // unit)
    chosen = np.sort(rng.permutation(len(pieces))[:most])
    members: dict[tuple[int, int], list[int]] = {}
    for turn, index in enumerate(chosen):
        chunk, start = pieces[int(index)]
        members.setdefault((turn * folds // len(chosen), chunk), []).append(start)
    batches: list[Batch] = []
    for (fold, chunk), starts in sorted(members.items()):
        for group in _groups(sorted(starts), 1 if fixed else batch_size):
            rows = np.concatenate([np.arange(start, start + unit) for start in group])
            batches.append(Batch(feed(graph, _rows(data.chunks[chunk], rows)), fold))
    return batches


def _groups(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _rows(chunk: Chunk, rows: np.ndarray) -> Chunk:
    return Chunk({name: array[rows] for name, array in chunk.arrays.items()})
