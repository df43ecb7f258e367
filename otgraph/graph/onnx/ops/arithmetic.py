"""Element-wise arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from otgraph.graph.onnx.ops.unsupported import Unsupported


def Add(a: Tensor, b: Tensor) -> Tensor:
    return torch.add(a, b)


def Sub(a: Tensor, b: Tensor) -> Tensor:
    return torch.sub(a, b)


def Mul(a: Tensor, b: Tensor) -> Tensor:
    return torch.mul(a, b)


def Div(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def Mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """The sign follows the divisor, or with ``fmod`` the dividend."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def Pow(a: Tensor, b: Tensor) -> Tensor:
    """The result has the type of the base, whatever that of the exponent."""
    if a.is_floating_point():
        return torch.pow(a, b.to(a.dtype))
    return torch.pow(a, b).to(a.dtype)


def Abs(x: Tensor) -> Tensor:
    return torch.abs(x)


def Neg(x: Tensor) -> Tensor:
    return torch.neg(x)


def Sign(x: Tensor) -> Tensor:
    return torch.sign(x)


def Reciprocal(x: Tensor) -> Tensor:
    return torch.reciprocal(x)


def Sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


def Exp(x: Tensor) -> Tensor:
    return torch.exp(x)


def Log(x: Tensor) -> Tensor:
    return torch.log(x)


def Floor(x: Tensor) -> Tensor:
    return torch.floor(x)


def Ceil(x: Tensor) -> Tensor:
    return torch.ceil(x)


def Round(x: Tensor) -> Tensor:
    """Halves go to the even neighbor, in ONNX as in torch."""
    return torch.round(x)


def Erf(x: Tensor) -> Tensor:
    return torch.erf(x)


def Sin(x: Tensor) -> Tensor:
    return torch.sin(x)


def Cos(x: Tensor) -> Tensor:
    return torch.cos(x)


def Tan(x: Tensor) -> Tensor:
    return torch.tan(x)


def Asin(x: Tensor) -> Tensor:
    return torch.asin(x)


def Acos(x: Tensor) -> Tensor:
    return torch.acos(x)


def Atan(x: Tensor) -> Tensor:
    return torch.atan(x)


def Sinh(x: Tensor) -> Tensor:
    return torch.sinh(x)


def Cosh(x: Tensor) -> Tensor:
    return torch.cosh(x)


def Asinh(x: Tensor) -> Tensor:
    return torch.asinh(x)


def Acosh(x: Tensor) -> Tensor:
    return torch.acosh(x)


def Atanh(x: Tensor) -> Tensor:
    return torch.atanh(x)


def Max(*tensors: Tensor) -> Tensor:
    return _fold_ordered(torch.maximum, tensors)


def Min(*tensors: Tensor) -> Tensor:
    return _fold_ordered(torch.minimum, tensors)


def Sum(*tensors: Tensor) -> Tensor:
    return _fold(torch.add, tensors)


def Mean(*tensors: Tensor) -> Tensor:
    return _fold(torch.add, tensors) / len(tensors)


def BitShift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Only unsigned types exist in ONNX; torch shifts ``uint8``."""
    if direction not in ("LEFT", "RIGHT"):
        raise Unsupported(f"direction {direction}")
    return torch.bitwise_left_shift(a, b) if direction == "LEFT" else torch.bitwise_right_shift(a, b)


def _fold(combine: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    return functools.reduce(combine, tensors)


def _fold_ordered(combine: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    """Torch has no order of the wider unsigned types: those that fit into a signed one are compared there."""
    dtype = tensors[0].dtype
    if dtype not in (torch.uint16, torch.uint32):
        return _fold(combine, tensors)
    return _fold(combine, tuple(tensor.to(torch.int64) for tensor in tensors)).to(dtype)
