"""Nodes seen as affine maps ``y = W x + b``: the one place that knows how each dialect spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from otgraph.graph.graph import Graph, op_name


@dataclass(frozen=True)
class Affine:
    """A convolution or a matrix product by a stored weight.

    ``data`` is the activation that is read, ``node`` the node that multiplies, ``output`` the node whose
    value is the whole ``W x + b`` (it differs from ``node`` where ONNX adds the bias in a node of its own).
    ``weight`` and ``bias`` are tensor names. ``axis`` is the channel axis of ``data`` and of the result
    (1 for convolutions, -1 for products). ``layout`` is how the stored weight lies: ``oi`` (out, in/groups,
    *kernel), ``io`` (in, out/groups, *kernel). ``padding`` has one (before, after) pair per spatial axis.
    """

    kind: Literal["conv", "linear"]
    node: fx.Node
    output: fx.Node
    data: fx.Node
    weight: str
    bias: str | None
    axis: int
    layout: Literal["oi", "io"]
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class BatchNorm:
    """An inference batch norm ``weight * (x - mean) / sqrt(var + eps) + bias`` over axis 1; fields are names.

    ``weight`` and ``bias`` are None where the affine part is absent.
    """

    node: fx.Node
    data: fx.Node
    weight: str | None
    bias: str | None
    mean: str
    var: str
    eps: float


def read_batch_norm(graph: Graph, node: fx.Node) -> BatchNorm | None:
    """``node`` as an inference batch norm with stored statistics, or None where it is something else."""
    name = op_name(node)
    if name not in ("aten.batch_norm", "onnx.BatchNormalization"):
        return None
    training = (
        argument(node, 5, "training") if name == "aten.batch_norm" else node.kwargs.get("training_mode")
    )
    eps = argument(node, 7, "eps", 1e-5) if name == "aten.batch_norm" else node.kwargs.get("epsilon", 1e-5)
    given = list(node.args[1:5])
    names = [_stored(value) for value in given]
    absent = any(found is None and value is not None for found, value in zip(names, given, strict=True))
    if training or absent or len(names) != 4 or not isinstance(node.args[0], fx.Node):
        return None
    weight, bias, mean, var = names
    if mean is None or var is None:
        return None
    return BatchNorm(node, node.args[0], weight, bias, mean, var, float(eps))  # type: ignore[arg-type]


def read_affine(graph: Graph, node: fx.Node) -> Affine | None:
    """The affine view of ``node``, or None where it is something else (or its weight is computed)."""
    reader = _READERS.get(op_name(node))
    return None if reader is None else reader(graph, node)


def affine_nodes(graph: Graph) -> list[Affine]:
    """Every node of ``graph`` that is an affine map, in program order."""
    views = (read_affine(graph, node) for node in graph.module.graph.nodes)
    return [view for view in views if view is not None]


def read_weight(graph: Graph, affine: Affine) -> torch.Tensor:
    """The weight as (out, in/groups, *kernel), detached; as (in, out/groups, *kernel) where transposed."""
    weight = graph.tensor(affine.weight).detach()
    return weight if affine.layout == "oi" or affine.transposed else weight.transpose(0, 1)


def lay_weight(affine: Affine, weight: torch.Tensor) -> torch.Tensor:
    """A weight given as ``read_weight`` returns it, laid out as it is stored."""
    return weight if affine.layout == "oi" or affine.transposed else weight.transpose(0, 1).contiguous()


def write_weight(graph: Graph, affine: Affine, weight: torch.Tensor) -> None:
    """Store ``weight``, given as ``read_weight`` returns it, in place, in its own shape and dtype."""
    stored = graph.tensor(affine.weight)
    laid = lay_weight(affine, weight)
    if laid.shape != stored.shape:
        raise ValueError(f"{affine.weight}: holds {tuple(stored.shape)}, was given {tuple(laid.shape)}")
    stored.data = laid.detach().to(stored.dtype).contiguous()


def readers_of(graph: Graph, name: str) -> list[fx.Node]:
    """The ``get_attr`` nodes that read the tensor ``name``; more than one user in all means it is shared."""
    return [node for node in graph.module.graph.nodes if node.op == "get_attr" and node.target == name]


def is_shared(graph: Graph, name: str) -> bool:
    """Whether more than one call node uses the tensor ``name``."""
    return sum(len(node.users) for node in readers_of(graph, name)) > 1


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call node given by position or by keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _stored(value: Any) -> str | None:
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def _pair(value: Any, n: int) -> tuple[int, ...]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(int(v) for v in (items * n if len(items) == 1 else items))


def _aten_convolution(graph: Graph, node: fx.Node) -> Affine | None:
    weight = _stored(node.args[1])
    bias = argument(node, 2, "bias")
    if (
        weight is None
        or not isinstance(node.args[0], fx.Node)
        or (bias is not None and _stored(bias) is None)
    ):
        return None
    n = graph.tensor(weight).dim() - 2
    name = op_name(node)
    transposed = name.startswith("aten.conv_transpose") or (
        name == "aten.convolution" and bool(argument(node, 6, "transposed", False))
    )
    if transposed:
        return None  # nothing downstream fits or fuses transposed convolutions yet; the axes know them
    groups_at = 8 if name == "aten.convolution" else 6
    dilation = _pair(argument(node, 5, "dilation", 1), n)
    padding = argument(node, 4, "padding", 0)
    if isinstance(padding, str):
        kernel = graph.tensor(weight).shape[2:]
        spans = [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = tuple((s // 2, s - s // 2) for s in spans)
    else:
        pads = tuple((p, p) for p in _pair(padding, n))
    return Affine(
        kind="conv",
        node=node,
        output=node,
        data=node.args[0],
        weight=weight,
        bias=_stored(bias),
        axis=1,
        layout="oi",
        stride=_pair(argument(node, 3, "stride", 1), n),
        padding=pads,
        dilation=dilation,
        groups=int(argument(node, groups_at, "groups", 1)),
    )


def _onnx_conv(graph: Graph, node: fx.Node) -> Affine | None:
    weight = _stored(node.args[1])
    bias = argument(node, 2, "b")
    if (
        weight is None
        or not isinstance(node.args[0], fx.Node)
        or (bias is not None and _stored(bias) is None)
    ):
        return None
    options = node.kwargs
    n = graph.tensor(weight).dim() - 2
    pads = _onnx_pads(options, tuple(graph.tensor(weight).shape[2:]))
    if pads is None:
        return None
    return Affine(
        kind="conv",
        node=node,
        output=node,
        data=node.args[0],
        weight=weight,
        bias=_stored(bias),
        axis=1,
        layout="oi",
        stride=_pair(options.get("strides") or 1, n),
        padding=pads,
        dilation=_pair(options.get("dilations") or 1, n),
        groups=int(options.get("group", 1) or 1),  # type: ignore[arg-type]
    )


def _onnx_pads(options: dict[str, Any], kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
    """The padding of each axis; None where ``auto_pad`` makes it depend on the size of the input."""
    n, auto = len(kernel), options.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "", "VALID"):
        pads = [0] * (2 * n) if auto == "VALID" else options.get("pads") or [0] * (2 * n)
        return tuple((int(pads[i]), int(pads[n + i])) for i in range(n))
    if any(stride != 1 for stride in options.get("strides") or ()):
        return None
    dilation = _pair(options.get("dilations") or 1, n)
    halves = [divmod(d * (k - 1), 2) for d, k in zip(dilation, kernel, strict=True)]
    if auto == "SAME_UPPER":
        return tuple((half, half + odd) for half, odd in halves)
    return tuple((half + odd, half) for half, odd in halves)


def _aten_linear(graph: Graph, node: fx.Node) -> Affine | None:
    weight = _stored(node.args[1])
    bias = argument(node, 2, "bias")
    if (
        weight is None
        or not isinstance(node.args[0], fx.Node)
        or (bias is not None and _stored(bias) is None)
    ):
        return None
    return Affine("linear", node, node, node.args[0], weight, _stored(bias), -1, "oi")


def _aten_addmm(graph: Graph, node: fx.Node) -> Affine | None:
    bias, weight = _stored(node.args[0]), _stored(node.args[2])
    if bias is None or weight is None or node.kwargs or not isinstance(node.args[1], fx.Node):
        return None
    return Affine("linear", node, node, node.args[1], weight, bias, -1, "io")


def _product(graph: Graph, node: fx.Node) -> Affine | None:
    data, weight = node.args[0], _stored(node.args[1])
    if weight is None or graph.tensor(weight).dim() != 2 or not isinstance(data, fx.Node):
        return None
    output, bias = _bias_of_next_add(graph, node, graph.tensor(weight).shape[1])
    return Affine("linear", node, output, data, weight, bias, -1, "io")


def _onnx_gemm(graph: Graph, node: fx.Node) -> Affine | None:
    weight, bias = _stored(node.args[1]), argument(node, 2, "c")
    plain = node.kwargs.get("alpha", 1.0) == 1.0 and node.kwargs.get("beta", 1.0) == 1.0
    if weight is None or not plain or node.kwargs.get("transA", 0) or not isinstance(node.args[0], fx.Node):
        return None
    if bias is not None and (_stored(bias) is None or graph.tensor(str(bias.target)).dim() != 1):
        return None
    layout: Literal["oi", "io"] = "oi" if node.kwargs.get("transB", 0) else "io"
    return Affine("linear", node, node, node.args[0], weight, _stored(bias), -1, layout)


def _bias_of_next_add(graph: Graph, node: fx.Node, out: int) -> tuple[fx.Node, str | None]:
    """The addition of a stored vector that directly follows, as ONNX and decomposed graphs write a bias."""
    if len(node.users) != 1:
        return node, None
    user = next(iter(node.users))
    if op_name(user) not in ("onnx.Add", "aten.add") or user.kwargs:
        return node, None
    other = [a for a in user.args if a is not node]
    name = _stored(other[0]) if len(other) == 1 else None
    if name is None or tuple(graph.tensor(name).shape) != (out,):
        return node, None
    return user, name


_READERS = {
    "aten.conv1d": _aten_convolution,
    "aten.conv2d": _aten_convolution,
    "aten.conv3d": _aten_convolution,
    "aten.convolution": _aten_convolution,
    "aten.linear": _aten_linear,
    "aten.addmm": _aten_addmm,
    "aten.mm": _product,
    "aten.matmul": _product,
    "onnx.Conv": _onnx_conv,
    "onnx.Gemm": _onnx_gemm,
    "onnx.MatMul": _product,
}
