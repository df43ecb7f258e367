"""Normalizations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.unsupported import Unsupported


def BatchNormalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    if training_mode or not spatial:
        raise Unsupported("batch normalization in training mode or per position")
    if mean.requires_grad or var.requires_grad:  # statistics are not trained; torch refuses to try
        mean, var = mean.detach(), var.detach()
    return F.batch_norm(x, mean, var, scale, b, training=False, eps=epsilon)


def InstanceNormalization(x: Tensor, scale: Tensor, b: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Written out, so that each channel is seen to be on its own."""
    over = list(range(2, x.dim()))
    shape = [1, -1] + [1] * len(over)
    centered = x - x.mean(over, keepdim=True)
    variance = (centered * centered).mean(over, keepdim=True)
    return centered * torch.rsqrt(variance + epsilon) * scale.reshape(shape) + b.reshape(shape)


def LayerNormalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    shape = x.shape[axis:]
    if scale.shape == shape and (b is None or b.shape == shape):
        return F.layer_norm(x, shape, scale, b, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon) * scale
    return y if b is None else y + b


def RMSNormalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    over = list(range(axis % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(over, keepdim=True) + epsilon) * scale


def GroupNormalization(
    x: Tensor, scale: Tensor, b: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Since opset 21: one scale per channel."""
    return F.group_norm(x, num_groups, scale, b, epsilon)


def LpNormalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    if p not in (1, 2):
        raise Unsupported(f"norm of order {p}")
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def LRN(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    if size % 2 == 0:
        raise Unsupported("local response normalization over an even number of channels")
    return F.local_response_norm(x, size, alpha, beta, bias)
