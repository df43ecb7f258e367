"""The tensors in what a module takes or returns, whatever containers it was written with, and their names."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from itertools import count
from typing import Any

import torch
from torch.utils import _pytree as pytree

from otgraph.errors import ModelError

_CONSTANTS = (
    *(bool, int, float, complex, str, bytes, enum.Enum, range),
    *(torch.SymInt, torch.SymFloat, torch.SymBool, torch.dtype, torch.device, torch.layout),
)


@dataclass(frozen=True)
class Leaf:
    """A value that is no container. ``name``: its keys, fields and positions joined by ``_``, or "" where it
    was in no container; all but letters, digits and ``_`` is replaced by ``_``."""

    name: str
    value: Any


def leaves_of(value: Any, what: str) -> list[Leaf]:
    """Tensors and constants in ``value``, in order; ``None`` is left out.

    Mappings, named tuples, data classes, lists, tuples and classes registered with ``torch.utils._pytree``
    are containers. ``what`` is said of ``value`` in errors.

    Raises:
        ModelError: something else is in there, which nobody can take apart.
    """
    return [Leaf(_joined(path), found) for path, found in _walk(value, (), what)]


def output_names(leaves: Sequence[Leaf], taken: AbstractSet[str]) -> tuple[str, ...]:
    """One name each, unlike each other and those in ``taken``: ``output`` for a single one without keys,
    positions count as ``output_0``, and a name that is in use gets a number."""
    names: list[str] = []
    for leaf in leaves:
        positional = not leaf.name or leaf.name[0].isdigit()
        name = leaf.name if not positional else f"output_{leaf.name}".rstrip("_")
        if positional and len(leaves) == 1 and leaf.name.replace("_", "").isdigit():
            name = "output"
        names.append(_fresh(name, {*names, *taken}))
    return tuple(names)


def _fresh(name: str, taken: AbstractSet[str]) -> str:
    if name not in taken:
        return name
    return next(new for number in count(1) if (new := f"{name}_{number}") not in taken)


def _joined(path: tuple[str, ...]) -> str:
    return "_".join(re.sub(r"\W", "_", key) for key in path)


def _walk(value: Any, path: tuple[str, ...], what: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if value is None:
        return
    if isinstance(value, (torch.Tensor, *_CONSTANTS)):
        yield path, value
        return
    items = _items(value)
    if items is None:
        where, kind = f"{what} {'.'.join(path)}".rstrip(), type(value).__name__
        if hasattr(value, "__array__"):
            raise ModelError(f"{where}: is a {kind}; use a torch tensor")
        raise ModelError(
            f"{where}: is a {kind}, which cannot be taken apart; use tensors in tuples, lists, dicts, named "
            f"tuples or data classes, or register {kind} with torch.export.register_dataclass"
        )
    for key, item in items:
        yield from _walk(item, (*path, key), what)


def _items(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        named: Any = value
        return list(zip(named._fields, value, strict=True))
    if isinstance(value, (list, tuple)):
        return [(str(number), item) for number, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if pytree.tree_is_leaf(value):
        return None
    found, _ = pytree.tree_flatten_with_path(value, is_leaf=lambda each: each is not value)
    return [(_key(path[0]), item) for path, item in found]


def _key(entry: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
