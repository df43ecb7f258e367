"""Convolutions and their padding arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.unsupported import Unsupported

_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


def window_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    """The (before, after) padding of each spatial axis, with ``auto_pad`` worked out for these sizes."""
    n = len(kernel)
    if auto_pad in ("NOTSET", ""):
        flat = list(pads) if pads else [0] * (2 * n)
        return [(flat[i], flat[n + i]) for i in range(n)]
    if auto_pad == "VALID":
        return [(0, 0)] * n
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return found


def pad_explicitly(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad (or, with negative amounts, crop) the trailing axes."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def Conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n = w.dim() - 2
    if n not in _CONVOLUTIONS:
        raise Unsupported(f"a convolution over {n} axes")
    stride, dilation = list(strides or [1] * n), list(dilations or [1] * n)
    amounts = window_pads(x.shape[2:], w.shape[2:], stride, dilation, pads, auto_pad)
    if all(before == after >= 0 for before, after in amounts):
        padding = [before for before, _ in amounts]
    else:
        x, padding = pad_explicitly(x, amounts), [0] * n
    return _CONVOLUTIONS[n](x, w, b, stride, padding, dilation, group)


def ConvTranspose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n = w.dim() - 2
    if n not in _TRANSPOSED:
        raise Unsupported(f"a convolution over {n} axes")
    stride, dilation = list(strides or [1] * n), list(dilations or [1] * n)
    extra = list(output_padding or [0] * n)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise Unsupported("output_padding as large as the stride")
    full = [
        (size - 1) * s + (k - 1) * d + 1 + e
        for size, s, k, d, e in zip(x.shape[2:], stride, w.shape[2:], dilation, extra, strict=True)
    ]
    amounts = _transposed_pads(x, full, stride, pads, auto_pad, output_shape)
    if any(min(pair) < 0 for pair in amounts):
        raise Unsupported("a transposed convolution with negative padding")
    if all(before == after for before, after in amounts):
        return _TRANSPOSED[n](x, w, b, stride, [before for before, _ in amounts], extra, group, dilation)
    y = _TRANSPOSED[n](x, w, b, stride, [0] * n, extra, group, dilation)
    return pad_explicitly(y, [(-before, -after) for before, after in amounts])


def _transposed_pads(
    x: Tensor,
    full: list[int],
    stride: list[int],
    pads: Sequence[int] | None,
    auto_pad: str,
    output_shape: Sequence[int] | None,
) -> list[tuple[int, int]]:
    n = len(full)
    if output_shape is None and auto_pad in ("NOTSET", "", "VALID"):
        return window_pads([], full, [], [], pads, auto_pad)
    wanted = list(output_shape)[-n:] if output_shape else [x.shape[2 + i] * stride[i] for i in range(n)]
    totals = [f - o for f, o in zip(full, wanted, strict=True)]
    if auto_pad == "SAME_UPPER":
        return [(t // 2, t - t // 2) for t in totals]
    return [(t - t // 2, t // 2) for t in totals]
