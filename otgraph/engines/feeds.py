"""From DATA to what a session eats: one batch after another, of the size the model's first axis asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otgraph.data import Array, Data
from otgraph.data_check import TensorSpec


@dataclass(frozen=True)
class FeedBatch:
    """Feeds for one run; only the first ``count`` samples are real, the rest fill a fixed batch."""

    feeds: Mapping[str, Array]
    count: int
    labels: Array | None
    chunk: int

    def real(self, output: Array) -> Array:
        """The rows of an output that belong to real samples."""
        size = len(next(iter(self.feeds.values())))
        return output[: self.count] if self.count < size and output.shape[:1] == (size,) else output


def batch_size(specs: Sequence[TensorSpec]) -> int:
    """The fixed first axis of the inputs; 1 where it is dynamic, as that is how latency is measured."""
    return max((spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)), default=1)


def batches(data: Data, specs: Sequence[TensorSpec]) -> Iterator[FeedBatch]:
    """All samples, in order; the last of a chunk repeats its last sample to fill a fixed batch."""
    size = batch_size(specs)
    for index, chunk in enumerate(data.chunks):
        for part in Data((chunk,)).batches(size):
            feeds = {spec.name: _fill(part.arrays[spec.name], size) for spec in specs}
            count = len(part.arrays[specs[0].name])
            yield FeedBatch(feeds, count, part.labels, index)


def first_feeds(data: Data, specs: Sequence[TensorSpec]) -> Mapping[str, Array]:
    """What latency and MACs are measured with: the first sample, or the first whole fixed batch."""
    return next(batches(data, specs)).feeds


def _fill(array: Array, size: int) -> Array:
    missing = size - len(array)
    whole = array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return np.ascontiguousarray(whole)
