"""Operators that make a tensor from numbers, and casts."""

from __future__ import annotations

import torch
from torch import Tensor

from otgraph.graph.onnx.ops.integers import integers
from otgraph.graph.onnx.ops.unsupported import Unsupported
from otgraph.graph.onnx.tensors import TORCH_TYPES

_CASTS = frozenset({1, 2, 3, 5, 6, 7, 9, 10, 11, 16})
"""The ONNX types that torch converts like ONNX does: no strings, no 4- and 8-bit floats, no wide unsigned."""


def Cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in _CASTS:
        raise Unsupported(f"cast to ONNX type {to}")
    return x.to(TORCH_TYPES[to])


def CastLike(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


def ConstantOfShape(
    shape: Tensor, *, value: float | int | bool = 0.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """``value`` and ``dtype`` are the one-element tensor of the attribute ``value``."""
    return torch.full(integers(shape), value, dtype=dtype, device=shape.device)


def Range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def EyeLike(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else TORCH_TYPES[dtype]
    rows, columns = x.shape
    column, row = torch.arange(columns, device=x.device), torch.arange(rows, device=x.device)
    return (column - row.unsqueeze(1) == k).to(kind)
