"""Small integer tensors (shapes, axes, pads) read as Python numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Integers = torch.Tensor | Sequence[int]


def integers(value: Integers | int) -> list[int]:
    """``value`` as a list: a shape tensor of any rank, a list of an attribute, or one number."""
    if isinstance(value, torch.Tensor):
        return [int(v) for v in value.reshape(-1).tolist()]
    return [value] if isinstance(value, int) else [int(v) for v in value]


def axes_of(axes: Integers, rank: int) -> list[int]:
    """Axes as non-negative numbers, in the given order."""
    return [axis % rank if rank else 0 for axis in integers(axes)]


def scalar(value: torch.Tensor | float | int) -> float | int:
    """The only element of a tensor (or the number itself)."""
    return value.item() if isinstance(value, torch.Tensor) else value
