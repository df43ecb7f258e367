"""Products without multiplying: the analysis asks for the shapes of activations, not for their values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils import _pytree as pytree

HEAVY = 2**28
"""Multiply-accumulates from which on a product is not carried out."""

aten = torch.ops.aten
PRODUCTS = {aten.mm.default: 0, aten.addmm.default: 1, aten.bmm.default: 0, aten.baddbmm.default: 1}
"""Matrix products, and the position of their left factor."""


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``func`` returns; of a convolution or matrix product of at least ``HEAVY`` multiply-accumulates
    only the shape and type, filled with zeros."""
    if func not in PRODUCTS and func is not aten.convolution.default:
        return func(*args, **kwargs)
    meta_args, meta_kwargs = pytree.tree_map_only(torch.Tensor, _bare, (args, kwargs))
    outline = func(*meta_args, **meta_kwargs)
    if outline.numel() * _depth(func, args) < HEAVY:
        return func(*args, **kwargs)
    some = next(arg for arg in args if isinstance(arg, torch.Tensor))
    return torch.empty_strided(
        outline.shape, outline.stride(), dtype=outline.dtype, device=some.device
    ).zero_()


def _depth(func: Any, args: tuple[Any, ...]) -> int:
    """How many products each entry of the result sums."""
    if func is not aten.convolution.default:
        return args[PRODUCTS[func]].shape[-1]
    weight, transposed, groups = args[1], args[6], args[8]
    return weight.shape[0] // groups if transposed else math.prod(weight.shape[1:])


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
