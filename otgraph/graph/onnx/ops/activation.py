"""Activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.unsupported import Unsupported


def Relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def LeakyRelu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def PRelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def ThresholdedRelu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def Elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def Celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def Selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * F.elu(x, alpha)


def Sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def HardSigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def HardSwish(x: Tensor) -> Tensor:
    return F.hardswish(x)


def Swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def Mish(x: Tensor) -> Tensor:
    return F.mish(x)


def Tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def Softplus(x: Tensor) -> Tensor:
    """Without torch's linear branch above its threshold."""
    return torch.logaddexp(x, torch.zeros_like(x))


def Softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


def Gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def Shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def Clip(x: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None) -> Tensor:
    """Bounds are inputs since opset 11, attributes before; where they cross, the upper one wins."""
    low, high = _bound(min), _bound(max)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _bound(value: Tensor | float | None) -> float | int | None:
    return value.item() if isinstance(value, Tensor) else value


def Softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def LogSoftmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


def Softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over all axes from ``axis`` on, taken as one."""
    return _over_tail(torch.softmax, x, axis)


def LogSoftmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """As ``Softmax_1``."""
    return _over_tail(torch.log_softmax, x, axis)


def _over_tail(function, x: Tensor, axis: int) -> Tensor:  # type: ignore[no-untyped-def]
    start = axis % x.dim() if x.dim() else 0
    wide = [i for i in range(start, x.dim()) if x.shape[i] != 1]
    if len(wide) <= 1:
        return function(x, wide[0] if wide else start)
    return function(x.flatten(start), start).reshape(x.shape)


def Dropout(
    x: Tensor, ratio: Tensor | float | None = None, training_mode: Tensor | None = None, *, seed: int = 0
) -> Tensor:
    """The identity: this is inference."""
    if training_mode is not None and bool(training_mode.item()):
        raise Unsupported("dropout in training mode")
    return x
