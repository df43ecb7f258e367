"""``Fingerprint``: which model a plan was made for, down to the values of each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from otgraph.errors import PlanError
from otgraph.graph.graph import Graph, op_name

Tensor = npt.NDArray[Any] | torch.Tensor
_DIGITS = 16


@dataclass(frozen=True)
class TensorPrint:
    """Shape, dtype name and the first 16 hexadecimal digits of the SHA-256 of the little-endian values."""

    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """The prints of a model's tensors by name, and ``program``: a digest over its operators in order."""

    tensors: Mapping[str, TensorPrint]
    program: str

    @property
    def digest(self) -> str:
        """One digest over everything, 16 hexadecimal digits."""
        parts = [f"{name}{each}" for name, each in sorted(self.tensors.items())]
        return _digest("\n".join([*parts, self.program]).encode())


def fingerprint(tensors: Mapping[str, Tensor], nodes: Sequence[str]) -> Fingerprint:
    """The fingerprint of ``tensors`` (name → values, numpy or torch) and of the operator names in order."""
    prints = {name: _print(tensor) for name, tensor in tensors.items()}
    return Fingerprint(prints, _digest("\n".join(nodes).encode()))


def fingerprint_graph(graph: Graph) -> Fingerprint:
    """The fingerprint of a graph: every weight it reads, and its operators in program order."""
    return fingerprint(graph.tensors(), [op_name(node) for node in graph.module.graph.nodes])


def check(made_for: Fingerprint, other: Fingerprint, where: str = "plan") -> None:
    """Accept ``other`` only when it is the model that ``made_for`` was taken of.

    Raises:
        PlanError: names the first tensor (in program order) that differs, and how; ``where`` opens the
        message.
    """
    found = _difference(made_for, other)
    if found is not None:
        raise PlanError(f"{where}: made for another model: {found}; make a new plan for this model")


def _difference(made_for: Fingerprint, other: Fingerprint) -> str | None:
    for name, old in made_for.tensors.items():
        new = other.tensors.get(name)
        if new is None:
            return f"{name} is missing"
        if new.shape != old.shape:
            return f"{name} has shape {list(new.shape)}, not {list(old.shape)}"
        if new.dtype != old.dtype:
            return f"{name} is {new.dtype}, not {old.dtype}"
        if new.digest != old.digest:
            return f"{name} holds other values"
    extra = [name for name in other.tensors if name not in made_for.tensors]
    if extra:
        return f"{extra[0]} is not in the plan"
    return None if made_for.program == other.program else "the tensors agree but the operators do not"


def _print(tensor: Tensor) -> TensorPrint:
    if isinstance(tensor, torch.Tensor):
        values = tensor.detach().cpu().contiguous()
        dtype = str(values.dtype).removeprefix("torch.")
        flat = values.reshape(-1).view(torch.uint8).numpy() if values.numel() else np.empty(0, np.uint8)
        return TensorPrint(tuple(values.shape), dtype, _digest(flat.tobytes()))
    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    return TensorPrint(tuple(tensor.shape), tensor.dtype.name, _digest(little.tobytes()))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
