"""Names: ONNX allows any text, torch and fx do not; and names that a rewrite adds must be new."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import fx

_TAKEN = frozenset(dir(fx.GraphModule(torch.nn.Module(), fx.Graph())))
"""Attributes that a tensor of a module must not hide."""


class TensorNames:
    """Program tensor names for ONNX names: the same text where torch allows it (a dot makes a submodule)."""

    def __init__(self) -> None:
        self._tensors: set[str] = set()
        self._owners: set[str] = set()

    def take(self, name: str) -> str:
        """A name for the tensor ``name``, unlike all taken before."""
        clean = re.sub(r"[^\w./:;,@#$%&+=~<>|()\[\]*!?^ -]", "_", name) or "tensor"
        target = clean if self._fits(clean) else fresh(clean.replace(".", "_"), lambda n: not self._fits(n))
        self._tensors.add(target)
        parts = target.split(".")
        self._owners.update(".".join(parts[:i]) for i in range(1, len(parts)))
        return target

    def _fits(self, target: str) -> bool:
        parts = target.split(".")
        if not all(parts) or any(part in _TAKEN for part in parts):
            return False
        owners = {".".join(parts[:i]) for i in range(1, len(parts))}
        return target not in self._tensors and target not in self._owners and not owners & self._tensors


def fresh(name: str, taken: Callable[[str], bool]) -> str:
    """``name``, or ``name_1``, ``name_2`` … : the first that is not taken."""
    if not taken(name):
        return name
    number = 1
    while taken(f"{name}_{number}"):
        number += 1
    return f"{name}_{number}"


def identifier(name: str) -> str:
    """``name`` with everything replaced that Python does not allow in a name."""
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return clean if clean and not clean[0].isdigit() else f"_{clean}"
