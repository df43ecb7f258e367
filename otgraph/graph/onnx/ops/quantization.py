"""Floats ⇄ integers of a scale and a zero point."""

from __future__ import annotations

import torch
from torch import Tensor

from otgraph.graph.onnx.ops.unsupported import Unsupported
from otgraph.graph.onnx.tensors import TORCH_TYPES

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.uint16)
_REALS = (torch.float32, torch.float64)
"""No file quantizes float64; programs that are compared beyond the rounding of float32 do."""


def QuantizeLinear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Halves are rounded to the even neighbor, as by ONNX Runtime; the result saturates."""
    dtype = zero_point.dtype if zero_point is not None else TORCH_TYPES.get(output_dtype, torch.uint8)
    if x.dtype != scale.dtype or x.dtype not in _REALS or precision not in (0, 1) or dtype not in _INTEGERS:
        raise Unsupported(f"quantizing {x.dtype} by {scale.dtype} to {dtype}")
    steps = torch.round(x / spread(scale, x, axis, block_size))
    if zero_point is not None:
        steps = steps + spread(zero_point.to(x.dtype), x, axis, block_size)
    range_ = torch.iinfo(dtype)
    return torch.clamp(steps, range_.min, range_.max).to(dtype)


def DequantizeLinear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """The difference to the zero point is of integers, the product of floats."""
    if scale.dtype not in _REALS or output_dtype not in (0, 1) or x.dtype not in (*_INTEGERS, torch.int32):
        raise Unsupported(f"dequantizing {x.dtype} by {scale.dtype}")
    steps = x.to(torch.int32)
    if zero_point is not None:
        steps = steps - spread(zero_point.to(torch.int32), x, axis, block_size)
    return steps.to(scale.dtype) * spread(scale, x, axis, block_size)


def spread(values: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """``values`` (one; one per index of ``axis``; one per block of that) in a shape that broadcasts."""
    if values.numel() == 1:
        return values.reshape(())
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if values.dim() != 1:
        raise Unsupported(f"a scale of rank {values.dim()} without blocks")
    return values.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
