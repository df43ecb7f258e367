"""Tensors that do not fit in memory, kept in mapped files that vanish with them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch


def spill(value: torch.Tensor, folder: Path | None) -> torch.Tensor:
    """A copy of ``value`` in a memory-mapped file; the file has no name any more, so nothing is ever left
    behind."""
    if value.numel() == 0:
        return value
    handle, name = tempfile.mkstemp(prefix="otgraph-", suffix=".frontier", dir=folder)
    try:
        os.ftruncate(handle, value.numel() * value.element_size())
        mapped = torch.from_file(name, shared=True, size=value.numel(), dtype=value.dtype)
    finally:
        os.close(handle)
        os.unlink(name)
    return mapped.view(value.shape).copy_(value)
