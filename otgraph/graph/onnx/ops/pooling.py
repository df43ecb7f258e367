"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.convolution import pad_explicitly, window_pads
from otgraph.graph.onnx.ops.unsupported import Unsupported

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def MaxPool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n, kernel, stride, dilation = _window(x, kernel_shape, strides, dilations)
    amounts = window_pads(x.shape[2:], kernel, stride, dilation, pads, auto_pad)
    if _torch_can(amounts, kernel):
        padding = [before for before, _ in amounts]
        return _MAX[n](x, kernel, stride, padding, dilation, bool(ceil_mode))
    if not x.is_floating_point():
        raise Unsupported("uneven padding of integers")
    fitted = _fit(x.shape[2:], kernel, stride, dilation, amounts, ceil_mode)
    return _MAX[n](pad_explicitly(x, fitted, -math.inf), kernel, stride, [0] * n, dilation)


def AveragePool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Cells outside the input do not count, or with ``count_include_pad`` the declared padding does."""
    n, kernel, stride, dilation = _window(x, kernel_shape, strides, dilations)
    if any(d != 1 for d in dilation):
        raise Unsupported("dilated average pooling")
    amounts = window_pads(x.shape[2:], kernel, stride, dilation, pads, auto_pad)
    if _torch_can(amounts, kernel):
        padding = [before for before, _ in amounts]
        return _AVERAGE[n](x, kernel, stride, padding, bool(ceil_mode), bool(count_include_pad))
    fitted = _fit(x.shape[2:], kernel, stride, dilation, amounts, ceil_mode)
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    rest = fitted
    if count_include_pad:
        inside = [
            (before, min(after, end)) for (before, end), (_, after) in zip(amounts, fitted, strict=True)
        ]
        counted = pad_explicitly(counted, inside, 1.0)
        rest = [(0, after - end) for (_, after), (_, end) in zip(fitted, inside, strict=True)]
    share = _AVERAGE[n](pad_explicitly(counted, rest), kernel, stride)
    return _AVERAGE[n](pad_explicitly(x, fitted), kernel, stride) / share


def GlobalAveragePool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def GlobalMaxPool(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def _window(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int] | None, dilations: Sequence[int] | None
) -> tuple[int, list[int], list[int], list[int]]:
    n = len(kernel)
    if n not in _MAX or x.dim() != n + 2:
        raise Unsupported(f"pooling over {n} axes of {x.dim()}")
    return n, list(kernel), list(strides or [1] * n), list(dilations or [1] * n)


def _torch_can(amounts: list[tuple[int, int]], kernel: list[int]) -> bool:
    return all(b == a and 0 <= 2 * b <= k for (b, a), k in zip(amounts, kernel, strict=True))


def _fit(
    sizes: Sequence[int],
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    amounts: list[tuple[int, int]],
    ceil_mode: int,
) -> list[tuple[int, int]]:
    """Padding for which whole windows cover everything; one that starts behind the input is dropped."""
    fitted = []
    for size, k, s, d, (before, after) in zip(sizes, kernel, stride, dilation, amounts, strict=True):
        span = (k - 1) * d + 1
        steps = (size + before + after - span) / s
        count = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
        if ceil_mode and (count - 1) * s >= size + before:
            count -= 1
        fitted.append((before, (count - 1) * s + span - size - before))
    return fitted
