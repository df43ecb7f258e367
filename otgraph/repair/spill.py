"""Tensors that do not fit in memory, in files without a name, which vanish with them."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch

from otgraph.errors import OutputError
from otgraph.scratch import scratch_file

MORE_ROOM = "set TMPDIR to a folder with room"


class SpillFile:
    """Bytes are appended; the file has no name, so nothing is ever left behind.

    It is read and written, not mapped: mapped pages would count as memory of the process. Raises
    ``OutputError`` where there is no room for it.
    """

    def __init__(self, folder: Path | None) -> None:
        file = scratch_file(folder)
        self._handle = file.fileno()
        weakref.finalize(self, file.close)
        self._end = 0

    def write(self, data: memoryview) -> int:
        """Append ``data``; returns where it begins."""
        start = self._end
        while len(data):
            try:
                written = os.pwrite(self._handle, data, self._end)
            except OSError as error:
                raise OutputError(
                    f"intermediate values: cannot be written ({error.strerror}); {MORE_ROOM}"
                ) from error
            self._end += written
            data = data[written:]
        return start

    def read(self, into: memoryview, start: int) -> None:
        """Fill ``into`` with what was written at ``start``."""
        while len(into):
            count = os.preadv(self._handle, [into], start)
            if count == 0:
                raise OutputError(f"intermediate values: their file ended early; {MORE_ROOM}")
            start += count
            into = into[count:]


@dataclass(frozen=True, eq=False)
class Spilled:
    """A tensor in ``file``; ``stride`` is that of the copy which is read back."""

    file: SpillFile
    start: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def load(self) -> torch.Tensor:
        """The tensor, read back; a new one each time."""
        value = torch.empty_strided(self.shape, self.stride, dtype=self.dtype)
        self.file.read(_bytes(value), self.start)
        return value


def spill(value: torch.Tensor, file: SpillFile) -> Spilled:
    """``value`` appended to ``file``. Its order in memory is kept where it has no gaps, since that decides
    how later sums are rounded."""
    dense = value.detach()
    if not _is_dense(dense):
        dense = dense.clone()
        dense = dense if _is_dense(dense) else dense.contiguous()
    return Spilled(file, file.write(_bytes(dense)), dense.shape, dense.stride(), dense.dtype)


def _is_dense(value: torch.Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return value.numel() > 0


def _bytes(dense: torch.Tensor) -> memoryview:
    flat = dense.as_strided((dense.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data
