"""Refusing a value that is too large before torch allocates it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from otgraph.graph.onnx.bounds import in_words

_SMALL = 2**20
"""Arguments that together can reach no more elements than this are not looked at."""


class TooLarge(Exception):
    """A value would have ``size`` bytes, more than the bound."""

    def __init__(self, size: int) -> None:
        super().__init__(f"makes a value of {in_words(size)}")
        self.size = size


class Bounded(TorchDispatchMode):
    """Raises ``TooLarge`` instead of running an operator whose result would have more than ``bound`` bytes.

    The size is asked of torch's own shape functions (the ``meta`` device), and only where the arguments could
    make something large. Operators whose result depends on values have no such function; they make no more
    than they are given.
    """

    def __init__(self, bound: int) -> None:
        super().__init__()
        self.bound = bound

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        size = _size(func, args, named) if _may_be_large(args, named) else 0
        if size > self.bound:
            raise TooLarge(size)
        return func(*args, **named)


def _may_be_large(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether the sizes among the arguments, or what an operator spreads out of its tensors, could be."""
    reach = 1
    for leaf in tree_leaves((args, named)):
        if isinstance(leaf, torch.Tensor):
            reach *= max(leaf.numel(), 1)
        elif isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            reach *= max(int(abs(leaf)), 1) if abs(leaf) < 2**63 else _SMALL
        if reach >= _SMALL:
            return True
    return False


def _size(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Bytes of what ``func`` would make; 0 where torch cannot tell without its values."""
    try:
        with torch.no_grad():
            made = func(*tree_map(_outline, args), **tree_map(_outline, {**named, **_on_meta(named)}))
    except Exception:  # noqa: BLE001  (whatever is wrong is said by the operator itself)
        return 0
    return max((x.nbytes for x in tree_leaves(made) if isinstance(x, torch.Tensor)), default=0)


def _on_meta(named: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if "device" in named else {}


def _outline(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
