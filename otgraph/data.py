"""DATA: named input arrays in chunks, with an optional label array (``data_sources`` reads them)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from otgraph.errors import DataError
from otgraph.seed import check_seed

Array = npt.NDArray[np.generic]

ONLY_INPUT = ""
"""The array name that means "the model's only input", given to data that came without a name."""


@dataclass(frozen=True)
class Chunk:
    """Samples of one shape: one array per model input, first axis = samples, and their labels if known."""

    arrays: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def rows(self, index: slice | npt.NDArray[np.intp]) -> Chunk:
        """The samples at ``index`` of the first axis; a view for a slice, a copy for an index array."""
        labels = None if self.labels is None else self.labels[index]
        return Chunk({name: array[index] for name, array in self.arrays.items()}, labels)


@dataclass(frozen=True)
class Data:
    """Inputs of a model, as chunks that may differ in shape (several files of a folder). No torch here."""

    chunks: tuple[Chunk, ...]
    source: str = "memory"

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    @staticmethod
    def from_arrays(
        arrays: Mapping[str, npt.ArrayLike], labels: npt.ArrayLike | None = None, source: str = "memory"
    ) -> Data:
        """One chunk from arrays in memory; all share the first axis, or ``DataError`` says which does not."""
        return Data((make_chunk(arrays, labels, source),), source)

    def batches(self, size: int) -> Iterator[Chunk]:
        """Consecutive batches of at most ``size`` samples; a batch never spans two chunks."""
        for chunk in self.chunks:
            for start in range(0, len(chunk), size):
                yield chunk.rows(slice(start, start + size))

    def named(self, input_names: Sequence[str]) -> Self:
        """This data with its unnamed array, if it has one, called by the model's only input.

        Names that are already given are left alone, right or wrong. ``DataError`` when an array has no name
        and the model has another number of inputs than one.
        """
        if not any(ONLY_INPUT in chunk.arrays for chunk in self.chunks):
            return self
        if len(input_names) != 1:
            inputs = ", ".join(input_names) or "none"
            raise DataError(
                f"{self.source}: yields arrays without a name, but the model's inputs are {inputs}; "
                "yield a dict with one array per input"
            )
        chunks = tuple(replace(chunk, arrays=_renamed(chunk.arrays, input_names[0])) for chunk in self.chunks)
        return replace(self, chunks=chunks)

    def take(self, count: int, seed: int | None = None) -> Self:
        """The first ``count`` samples, or ``count`` drawn without replacement when ``seed`` is given.

        Everything when there are fewer. Samples keep their order and chunks that end up empty are left out.
        """
        if count < 1:
            raise DataError(f"{self.source}: cannot take {count} samples; ask for at least one")
        if count >= len(self):
            return self
        if seed is None:
            return self._at(np.arange(count))
        check_seed(seed, f"{self.source}: seed")
        return self._at(np.random.default_rng(seed).permutation(len(self))[:count])

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Two disjoint parts by sample: about ``fraction`` of them drawn with ``seed``, and the rest.

        Each part has at least one sample; ``DataError`` when there are fewer than two to share.
        """
        if not 0 < fraction < 1:
            raise DataError(
                f"{self.source}: cannot split off a share of {fraction}; give one between 0 and 1"
            )
        if len(self) < 2:
            raise DataError(f"{self.source}: has {len(self)} sample, too few to split; give at least two")
        check_seed(seed, f"{self.source}: seed")
        order = np.random.default_rng(seed).permutation(len(self))
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        return self._at(order[:count]), self._at(order[count:])

    def halves(self, fraction: float) -> tuple[Self, Self]:
        """The first ``fraction`` of the samples and the rest, both in order; at least one sample each.

        Both are views: they take no memory of their own.
        """
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        return self.between([(0, count)]), self.between([(count, len(self))])

    def between(self, stretches: Sequence[tuple[int, int]]) -> Self:
        """The samples with numbers from the first to before the last of each stretch, as views."""
        kept: list[Chunk] = []
        for first, last in stretches:
            start = 0
            for chunk in self.chunks:
                part = slice(max(first - start, 0), max(last - start, 0))
                if part.start < min(part.stop, len(chunk)):
                    kept.append(chunk.rows(part))
                start += len(chunk)
        return replace(self, chunks=tuple(kept))

    def _at(self, samples: npt.NDArray[np.intp]) -> Self:
        """The samples with these numbers (counted over all chunks), in their original order."""
        kept: list[Chunk] = []
        start = 0
        for chunk in self.chunks:
            here = np.sort(samples[(samples >= start) & (samples < start + len(chunk))]) - start
            if len(here):
                kept.append(chunk.rows(here))
            start += len(chunk)
        return replace(self, chunks=tuple(kept))


def make_chunk(arrays: Mapping[str, npt.ArrayLike], labels: npt.ArrayLike | None, source: str) -> Chunk:
    """Arrays of equal first axis as a chunk; ``DataError``, naming ``source``, when they are not that."""
    if not arrays:
        raise DataError(f"{source}: holds no input array; store one array per model input, samples first")
    inputs = {name: _as_array(value, f"{source}: array {name!r}") for name, value in arrays.items()}
    targets = None if labels is None else _as_array(labels, f"{source}: array 'labels'")
    everything = {**inputs, "labels": targets} if targets is not None else inputs
    counts = {name: len(array) for name, array in everything.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name or 'input'} has {count}" for name, count in counts.items())
        raise DataError(f"{source}: arrays differ in their first axis ({listed}); one row per sample in each")
    if not next(iter(counts.values())):
        raise DataError(f"{source}: is empty (no samples); give at least one")
    return Chunk(inputs, targets)


def _as_array(value: npt.ArrayLike, what: str) -> Array:
    """``value`` (anything NumPy can read) as a numeric or text array with at least a sample axis."""
    try:
        array: Array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that need a gradient
        raise DataError(f"{what}: cannot be read as an array ({error})") from error
    if array.dtype.hasobject:
        raise DataError(f"{what}: holds Python objects; store plain numbers")
    if array.ndim == 0:
        raise DataError(f"{what}: is a single number; its first axis must be the samples")
    return array


def _renamed(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {name if key == ONLY_INPUT else key: array for key, array in arrays.items()}
