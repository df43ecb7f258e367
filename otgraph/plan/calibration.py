"""Which calibration data a plan was made with, so that it is found again, or seen to be another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from otgraph.data import Data
from otgraph.data_check import TensorSpec
from otgraph.data_digest import Sketch
from otgraph.data_model import ModelData
from otgraph.data_sources import load_data
from otgraph.errors import DataError


@dataclass(frozen=True)
class CalibrationReference:
    """``source`` as it was given, a digest of the inputs (labels do not count), and the number of samples.

    ``samples``: the text of a ``Sketch``, by which other data are known to hold some of these. Where
    others were kept to judge by, these are ``stretches`` (first sample, and one past the last) of so many
    ``drawn``.
    """

    source: str
    digest: str
    count: int
    samples: str | None = None
    drawn: int | None = None
    stretches: tuple[tuple[int, int], ...] | None = None

    @staticmethod
    def of(data: Data) -> CalibrationReference:
        """The reference of ``data``."""
        samples = str(Sketch.of(data)) if isinstance(data, ModelData) else None
        return CalibrationReference(data.source, data_digest(data), len(data), samples)

    def within(self, drawn: int, stretches: Sequence[tuple[int, int]]) -> CalibrationReference:
        """The same, known to be ``stretches`` of so many samples."""
        return replace(self, drawn=drawn, stretches=tuple(stretches))

    def sketch(self) -> Sketch | None:
        """Which samples these are, where that was noted."""
        return None if self.samples is None else Sketch.parse(self.samples)

    def find(self, seed: int = 0, specs: Sequence[TensorSpec] = ()) -> tuple[Data | None, str]:
        """The data that ``source`` names if it is still the same, else None; and in words what was found.

        A part is found again where it is the first ``count`` samples, or ``count`` drawn with ``seed``, or
        ``stretches`` of ``drawn``.
        ``specs``: the inputs of the model that they are for, in whose types they were noted.
        Only files are read. A source that is a Python callable is not called: applying somebody's plan must
        not run the code that it names.
        """
        if not Path(self.source).exists():
            return None, f"no file or folder {self.source}"
        try:
            data = load_data(self.source)
            data = ModelData.of(data, specs) if specs else data
        except DataError as error:
            return None, str(error)
        parts = [data]
        if self.count not in (0, len(data)):
            parts = [data.take(self.count), data.take(self.count, seed)]
        if self.drawn is not None and self.stretches is not None:
            parts.append(data.take(self.drawn, seed).between(self.stretches))
        for part in parts:
            if data_digest(part) == self.digest:
                return part, f"read {self.source}"
        return None, f"{self.source} holds other data than the plan was made with"


def data_digest(data: Data) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the inputs of ``data``: names, types, shapes,
    values."""
    digest = hashlib.sha256()
    for chunk in data.chunks:
        for name, array in sorted(chunk.arrays.items()):
            little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
            digest.update(f"{name} {little.dtype.str} {little.shape};".encode())
            digest.update(little.tobytes())
    return digest.hexdigest()[:16]
