"""``Memory``: how many bytes of intermediate values may be held; the rest goes to files."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import torch

from otgraph.repair.spill import Spilled, SpillFile, spill

UNLIMITED = 1 << 62
"""More bytes than there are; such a limit is not watched."""


class Holder(Protocol):
    """Whatever holds values."""

    def storages(self, held: dict[int, int]) -> None:
        """Add to ``held`` the address and bytes of each storage in memory."""
        ...


class Memory:
    """How many bytes of values all holders together may have in memory before new ones go to files in
    ``folder``.

    Holders are known weakly: one that is dropped frees its values at once. What one node makes of one batch
    while it is executed comes on top, as do weights.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit = limit
        self.folder = folder
        self.peak = 0
        self.spilled = 0
        self._reserved = 0
        self._holders: weakref.WeakSet[Holder] = weakref.WeakSet()

    def watch(self, holder: Holder) -> None:
        """Count what ``holder`` has from now on."""
        self._holders.add(holder)

    def reserve(self, size: int) -> None:
        """Count ``size`` more bytes, of what holds no values, from now on."""
        self._reserved += size

    def used(self) -> int:
        """Bytes that are reserved, and those of the distinct storages held in memory."""
        return self._reserved + sum(self._held().values())

    def admit(self, value: Any) -> bool:
        """Whether ``value`` may be held; what is held already, or takes no memory, may.

        Counts it one way or the other, so ask once.
        """
        if self.limit >= UNLIMITED:
            return True
        held = self._held()
        used = self._reserved + sum(held.values())
        add_storages(value, held)
        total = self._reserved + sum(held.values())
        if total > max(self.limit, used):
            self.spilled += total - used
            return False
        self.peak = max(self.peak, total)
        return True

    def _held(self) -> dict[int, int]:
        held: dict[int, int] = {}
        for holder in self._holders:
            holder.storages(held)
        return held


class Values(Sequence[Any]):
    """The values of one node, one per batch, in memory or in a file; those in a file are read at each
    access."""

    def __init__(self, memory: Memory, like: Values | None = None) -> None:
        """None yet, or those of ``like``: each of the two then frees its own."""
        self._memory = memory
        self._file: SpillFile | None = None
        self._items: list[Any] = [] if like is None else list(like._items)

    def append(self, value: Any) -> None:
        """Add the value of the next batch, wherever there is room."""
        if self._memory.admit(value):
            self._items.append(value)
            return
        if self._file is None:
            self._file = SpillFile(self._memory.folder)
        self._items.append(_spilled(value, self._file))

    def drop(self, batch: int) -> None:
        """Free one value."""
        self._items[batch] = None

    def storages(self, held: dict[int, int]) -> None:
        """Add to ``held`` the address and bytes of each storage in memory."""
        for item in self._items:
            add_storages(item, held)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [_loaded(item) for item in self._items[index]]
        return _loaded(self._items[index])

    def __iter__(self) -> Iterator[Any]:
        return map(_loaded, self._items)


def add_storages(value: Any, held: dict[int, int]) -> None:
    """Add to ``held`` the address and bytes of each storage of ``value``, tuples of tensors included."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, tuple | list):
        for part in value:
            add_storages(part, held)


class _Parts(tuple[Any, ...]):
    """A tuple whose tensors are in a file."""


def _spilled(value: Any, file: SpillFile) -> Any:
    """``value`` with its tensors, those of a tuple too, in ``file``."""
    if isinstance(value, tuple | list):
        return _Parts(_spilled(part, file) for part in value)
    return spill(value, file) if isinstance(value, torch.Tensor) and value.numel() else value


def _loaded(item: Any) -> Any:
    if isinstance(item, _Parts):
        return tuple(_loaded(part) for part in item)
    return item.load() if isinstance(item, Spilled) else item
