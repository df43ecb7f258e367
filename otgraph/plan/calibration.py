"""Which calibration data a plan was made with, so that it is found again, or seen to be another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otgraph.data import Data
from otgraph.data_sources import load_data
from otgraph.errors import DataError


@dataclass(frozen=True)
class CalibrationReference:
    """``source`` as it was given, a digest of the inputs (labels do not count), and the number of samples."""

    source: str
    digest: str
    count: int

    @staticmethod
    def of(data: Data) -> CalibrationReference:
        """The reference of ``data``."""
        return CalibrationReference(data.source, data_digest(data), len(data))

    def find(self, seed: int = 0) -> tuple[Data | None, str]:
        """The data that ``source`` names if it is still the same, else None; and in words what was found.

        A part is found again where it is the first ``count`` samples, or ``count`` drawn with ``seed``.
        Only files are read. A source that is a Python callable is not called: applying somebody's plan must
        not run the code that it names.
        """
        if not Path(self.source).exists():
            return None, f"no file or folder {self.source}"
        try:
            data = load_data(self.source)
        except DataError as error:
            return None, str(error)
        parts = (
            (data,) if self.count in (0, len(data)) else (data.take(self.count), data.take(self.count, seed))
        )
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
