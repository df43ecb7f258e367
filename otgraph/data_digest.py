"""Which samples something was fitted on, in so few bytes that a model file can carry them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from otgraph.data import Array
from otgraph.data_model import ModelData

KEPT = 2048
"""Hashes that are kept at most: 16 kB of text."""
BYTES = 6
"""Of each hash: among a million samples one in 140,000 data sets meets another's by chance."""
CONSTANT = "otgraph.constant_channels"
"""The key of a model's metadata that says how many channels of the dims that were cut were constant on the
calibration inputs: ``216 of 960``."""

METADATA = "otgraph.calibration"
"""The key under which an ONNX file carries the text of a ``Sketch``."""


@dataclass(frozen=True)
class Sketch:
    """The samples of some data: their number, and the hashes of all of them or of some.

    Where there are more distinct samples than ``KEPT``, those with the smallest hashes stand for all. That is
    a random sample of them that any other data can be held against: a part of these data is known, and so are
    data that they are a part of (bottom-k sketches, Cohen and Kaplan 2007). ``distinct``: how many samples
    differ. Labels do not count, nor do arrays that the model does not take.
    """

    count: int
    distinct: int
    hashes: frozenset[bytes]

    @staticmethod
    def of(data: ModelData) -> Sketch:
        """The sketch of ``data``."""
        every = set(_hashes(data))
        return Sketch(len(data), len(every), frozenset(sorted(every)[:KEPT]))

    @staticmethod
    def parse(text: str) -> Sketch | None:
        """Read what ``str()`` writes; None where ``text`` is nothing of the kind."""
        parts = text.split(" ")
        if len(parts) != 4 or parts[0] != "1" or not all(part.isdecimal() for part in parts[1:3]):
            return None
        try:
            packed = base64.b64decode(parts[3], validate=True)
        except (binascii.Error, ValueError):
            return None
        hashes = frozenset(packed[at : at + BYTES] for at in range(0, len(packed), BYTES))
        if len(packed) != BYTES * min(int(parts[2]), KEPT) or len(hashes) * BYTES != len(packed):
            return None
        return Sketch(int(parts[1]), int(parts[2]), hashes)

    def __str__(self) -> str:
        """Version, counts, and the hashes in ascending order as base64."""
        packed = base64.b64encode(b"".join(sorted(self.hashes))).decode("ascii")
        return f"1 {self.count} {self.distinct} {packed}"

    def seen(self, data: ModelData) -> int:
        """How many samples of ``data`` are among these; estimated where not every hash was kept."""
        theirs = list(_hashes(data))
        if self.distinct <= len(self.hashes):
            return sum(each in self.hashes for each in theirs)
        limit = max(self.hashes)
        comparable = [each for each in theirs if each <= limit]
        known = sum(each in self.hashes for each in comparable)
        return round(len(theirs) * known / len(comparable)) if comparable else 0


def _hashes(data: ModelData) -> Iterator[bytes]:
    names = sorted(spec.name for spec in data.specs)
    for chunk in data.chunks:
        arrays = [(name, _little(chunk.arrays[name])) for name in names]
        opening = hashlib.blake2b(digest_size=BYTES)
        opening.update("".join(f"{name} {a.dtype.str} {a.shape[1:]};" for name, a in arrays).encode())
        for row in range(len(chunk)):
            digest = opening.copy()
            for _, array in arrays:
                digest.update(array[row].tobytes())
            yield digest.digest()


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
