"""The reference for cuts under a normalization: the masked original, its norms taken over what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from otgraph.graph.affine import argument
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.graph import Graph, op_name


def keep_statistics(masked: Graph, axis_map: AxisMap, keep: Keep) -> Graph:
    """Let every normalization of ``masked`` take its statistics over the kept entries.

    Removed entries count for nothing and come out as zero: what a cut network computes, said with whole
    shapes and without any rewriting of sizes.

    Args:
        masked: the original with everything that is cut at zero; an independent graph, edited in place.
        axis_map: the axes of the original.

    Returns:
        ``masked``.
    """
    for node in list(masked.module.graph.nodes):
        form = _FORMS.get(op_name(node))
        shapes = axis_map.values.get(node.name, ())
        if form is None or not shapes:
            continue
        masks = [torch.tensor(axis.mask(keep).tolist()) for axis in shapes[0]]
        if not all(bool(mask.all()) for mask in masks):
            form(node, masks)
    masked.module.recompile()
    return masked


def _layer_norm(node: fx.Node, mask: list[torch.Tensor]) -> None:
    shape: Any = argument(node, 1, "normalized_shape")
    _replace(
        node,
        _kept_layer_norm,
        argument(node, 2, "weight"),
        argument(node, 3, "bias"),
        argument(node, 4, "eps", 1e-5),
        mask[-len(shape) :],
    )


def _onnx_layer_norm(node: fx.Node, mask: list[torch.Tensor]) -> None:
    axis = int(node.kwargs.get("axis", -1)) % len(mask)  # type: ignore[arg-type]
    epsilon = node.kwargs.get("epsilon", 1e-5)
    _replace(
        node,
        _kept_layer_norm,
        argument(node, 1, "Scale"),
        argument(node, 2, "B"),
        epsilon,
        mask[axis:],
    )


def _group_norm(node: fx.Node, mask: list[torch.Tensor]) -> None:
    _replace(
        node,
        _kept_group_norm,
        argument(node, 1, "num_groups"),
        argument(node, 2, "weight"),
        argument(node, 3, "bias"),
        argument(node, 4, "eps", 1e-5),
        mask[1],
    )


def _onnx_group_norm(node: fx.Node, mask: list[torch.Tensor]) -> None:
    groups, epsilon = node.kwargs.get("num_groups"), node.kwargs.get("epsilon", 1e-5)
    _replace(
        node,
        _kept_group_norm,
        groups,
        argument(node, 1, "scale"),
        argument(node, 2, "bias"),
        epsilon,
        mask[1],
    )


def _replace(node: fx.Node, function: Callable[..., torch.Tensor], *rest: Any) -> None:
    """``rest`` ends in masks, which are no fx arguments: the function holds them."""
    *plain, mask = rest

    def held(x: torch.Tensor, *given: Any) -> torch.Tensor:
        return function(x, *given, mask)

    node.op, node.target = "call_function", held
    node.args, node.kwargs = (node.args[0], *plain), {}
    node.meta.pop("onnx", None)


def _kept_layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    masks: list[torch.Tensor],
) -> torch.Tensor:
    outer = x.shape[: x.dim() - len(masks)]
    kept = masks[0]
    for mask in masks[1:]:
        kept = (kept[:, None] & mask[None, :]).flatten()
    places = kept.nonzero().flatten()
    flat = x.flatten(len(outer))
    inner = flat.index_select(-1, places)
    scale, shift = (None if t is None else t.flatten()[places] for t in (weight, bias))
    normed = F.layer_norm(inner, (len(places),), scale, shift, eps)
    return torch.zeros_like(flat).index_copy(-1, places, normed).reshape(x.shape)


def _kept_group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    mask: torch.Tensor,
) -> torch.Tensor:
    places = mask.nonzero().flatten()
    left = int(mask.reshape(groups, -1).any(1).sum())
    scale, shift = (None if t is None else t.flatten()[places] for t in (weight, bias))
    normed = F.group_norm(x.index_select(1, places), left, scale, shift, eps)
    return torch.zeros_like(x).index_copy(1, places, normed)


_FORMS: dict[str, Callable[[fx.Node, list[torch.Tensor]], None]] = {
    "aten.layer_norm": _layer_norm,
    "aten.group_norm": _group_norm,
    "onnx.LayerNormalization": _onnx_layer_norm,
    "onnx.GroupNormalization": _onnx_group_norm,
}
