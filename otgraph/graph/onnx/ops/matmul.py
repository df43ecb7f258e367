"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def MatMul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def Gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    left = a.t() if transA else a
    right = b.t() if transB else b
    vector = c is None or (c.dim() == 1 and c.shape[0] == right.shape[1])
    if alpha == 1.0 and beta == 1.0 and vector and a.is_floating_point():
        return F.linear(left, right.t(), c)
    product = torch.mm(left, right)
    product = product if alpha == 1.0 else product * alpha
    if c is None:
        return product
    return product + (c if beta == 1.0 else c * beta)


def Einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *tensors)
