"""Expressions over dims: what one axis of one tensor consists of (frozen result form of the axis algebra)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Atom:
    """The whole of one dim; ``name`` None stands for an axis that is no dim at all (never cut)."""

    name: str | None
    size: int

    def mask(self, keep: Mapping[str, Mask]) -> Mask:
        """Which positions of the axis stay when the dims in ``keep`` are cut to their masks."""
        found = None if self.name is None else keep.get(self.name)
        return np.ones(self.size, bool) if found is None else np.asarray(found, bool)

    def dims(self) -> tuple[str, ...]:
        """The dims the axis runs over, without repetition, outermost or first part first."""
        return () if self.name is None else (self.name,)

    def __str__(self) -> str:
        return f"{self.size}" if self.name is None else self.name


@dataclass(frozen=True)
class Product:
    """Axes merged by a reshape, outermost first."""

    parts: tuple[Expression, ...]

    @property
    def size(self) -> int:
        return int(np.prod([part.size for part in self.parts]))

    def mask(self, keep: Mapping[str, Mask]) -> Mask:
        """As ``Atom.mask``: a position stays when it stays in every factor."""
        mask = np.ones(1, bool)
        for part in self.parts:
            mask = np.outer(mask, part.mask(keep)).ravel()
        return mask

    def dims(self) -> tuple[str, ...]:
        """As ``Atom.dims``."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.dims()))

    def __str__(self) -> str:
        return "(" + "*".join(map(str, self.parts)) + ")"


@dataclass(frozen=True)
class Concatenation:
    """Axes laid end to end."""

    parts: tuple[Expression, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def mask(self, keep: Mapping[str, Mask]) -> Mask:
        """As ``Atom.mask``."""
        return np.concatenate([part.mask(keep) for part in self.parts])

    def dims(self) -> tuple[str, ...]:
        """As ``Atom.dims``."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.dims()))

    def __str__(self) -> str:
        return "[" + "+".join(map(str, self.parts)) + "]"


@dataclass(frozen=True)
class Indexed:
    """Position p of the axis is position ``index[p]`` of ``base``: where a product was cut in the middle."""

    base: Expression
    index: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.index)

    def mask(self, keep: Mapping[str, Mask]) -> Mask:
        """As ``Atom.mask``."""
        return self.base.mask(keep)[list(self.index)]

    def dims(self) -> tuple[str, ...]:
        """As ``Atom.dims``."""
        return self.base.dims()

    def __str__(self) -> str:
        return f"{self.base}@{self.size}"


Expression = Atom | Product | Concatenation | Indexed
