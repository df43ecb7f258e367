"""Gather, scatter, and what else looks elements up by index."""

from __future__ import annotations

import torch
from torch import Tensor

from otgraph.graph.onnx.ops.integers import Integers, integers
from otgraph.graph.onnx.ops.unsupported import Unsupported


def Gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    if indices.dim() == 0:
        return x.select(axis, int(indices.item()))
    along = axis % x.dim()
    flat = x.index_select(along, _positive(indices.reshape(-1), x.shape[along]))
    if indices.dim() == 1:
        return flat
    return flat.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])


def GatherElements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _positive(indices, x.shape[axis]))


def GatherND(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise Unsupported("batch_dims")
    return x[tuple(indices.long().unbind(-1))]


def ScatterElements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    index = _positive(indices, x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(x, axis, index, updates, names[reduction])


def ScatterND(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction not in ("none", "add"):
        raise Unsupported(f"reduction {reduction}")
    return torch.index_put(x, tuple(indices.long().unbind(-1)), updates, accumulate=reduction == "add")


def OneHot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    n = int(depth.item())
    index = indices.long()
    at = axis % (index.dim() + 1)
    index = torch.where(index < 0, index + n, index).unsqueeze(at)
    shape = [1] * index.dim()
    shape[at] = n
    hot = index == torch.arange(n, device=index.device).reshape(shape)
    return torch.where(hot, values[1], values[0])


def TopK(
    x: Tensor, k: Integers, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Equal values come in the order of their indices, so a stable sort and not ``torch.topk``."""
    (count,) = integers(k)
    values, index = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), index.narrow(axis, 0, count)


def Trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def NonZero(x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


def _positive(indices: Tensor, size: int) -> Tensor:
    index = indices.long()
    return torch.where(index < 0, index + size, index)
