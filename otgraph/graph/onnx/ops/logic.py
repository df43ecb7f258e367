"""Comparisons, boolean and bitwise operators, selection."""

from __future__ import annotations

import torch
from torch import Tensor


def Equal(a: Tensor, b: Tensor) -> Tensor:
    return torch.eq(a, b)


def Greater(a: Tensor, b: Tensor) -> Tensor:
    return torch.gt(a, b)


def GreaterOrEqual(a: Tensor, b: Tensor) -> Tensor:
    return torch.ge(a, b)


def Less(a: Tensor, b: Tensor) -> Tensor:
    return torch.lt(a, b)


def LessOrEqual(a: Tensor, b: Tensor) -> Tensor:
    return torch.le(a, b)


def And(a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_and(a, b)


def Or(a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_or(a, b)


def Xor(a: Tensor, b: Tensor) -> Tensor:
    return torch.logical_xor(a, b)


def Not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


def BitwiseAnd(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_and(a, b)


def BitwiseOr(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_or(a, b)


def BitwiseXor(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_xor(a, b)


def BitwiseNot(x: Tensor) -> Tensor:
    return torch.bitwise_not(x)


def IsNaN(x: Tensor) -> Tensor:
    return torch.isnan(x)


def IsInf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_positive:
        found = found | torch.isposinf(x)
    return found | torch.isneginf(x) if detect_negative else found


def Where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)
