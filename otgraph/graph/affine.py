"""Nodes seen as affine maps ``y = W x + b``: the one place that knows how each dialect spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from otgraph.graph.graph import Graph, op_name
from otgraph.window import Pads, Window


@dataclass(frozen=True)
class Affine:
    """A convolution or a matrix product by a stored weight.

    ``data`` is the activation that is read, ``node`` the node that multiplies, ``output`` the node whose
    value is the whole ``W x + b`` (it differs from ``node`` where ONNX adds the bias in a node of its own).
    ``weight`` and ``bias`` are tensor names. ``layout`` is how the stored weight lies: ``oi`` (out,
    in/groups, *kernel), or ``io`` (in, out) of a product.
    """

    node: fx.Node
    output: fx.Node
    data: fx.Node
    weight: str
    bias: str | None
    layout: Literal["oi", "io"]
    window: Window

    @property
    def kind(self) -> Literal["conv", "linear"]:
        """A convolution, or a product that no position but its own enters."""
        return "conv" if self.window.kernel else "linear"

    @property
    def axis(self) -> int:
        """The channel axis of ``data`` and of the result: 1 for convolutions, -1 for products."""
        return self.window.axis


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


def norm_of(graph: Graph, node: fx.Node) -> BatchNorm | None:
    """The batch norm that alone reads ``node``, its statistics its own, if there is one."""
    if len(node.users) != 1:
        return None
    norm = read_batch_norm(graph, next(iter(node.users)))
    return norm if norm is not None and norm.data is node else None


def read_affine(graph: Graph, node: fx.Node) -> Affine | None:
    """The affine view of ``node``, or None where it is something else: or its weight is computed, or what it
    maps is stored, so that it has no data and always makes the same."""
    reader = _READERS.get(op_name(node))
    view = None if reader is None else reader(graph, node)
    return None if view is None or view.data.op == "get_attr" else view


def affine_nodes(graph: Graph) -> list[Affine]:
    """Every node of ``graph`` that is an affine map, in program order."""
    views = (read_affine(graph, node) for node in graph.module.graph.nodes)
    return [view for view in views if view is not None]


def read_weight(graph: Graph, affine: Affine) -> torch.Tensor:
    """The weight as (out, in/groups, *kernel), detached."""
    weight = graph.tensor(affine.weight).detach()
    return weight if affine.layout == "oi" else weight.transpose(0, 1)


def lay_weight(affine: Affine, weight: torch.Tensor) -> torch.Tensor:
    """A weight given as ``read_weight`` returns it, laid out as it is stored."""
    return weight if affine.layout == "oi" else weight.transpose(0, 1).contiguous()


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
    window = _conv_window(
        graph.tensor(weight),
        groups=int(argument(node, groups_at, "groups", 1)),
        stride=_pair(argument(node, 3, "stride", 1), n),
        padding=pads,
        dilation=dilation,
    )
    return Affine(node, node, node.args[0], weight, _stored(bias), "oi", window)


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
    window = _conv_window(
        graph.tensor(weight),
        groups=int(options.get("group", 1) or 1),  # type: ignore[arg-type]
        stride=_pair(options.get("strides") or 1, n),
        padding=pads,
        dilation=_pair(options.get("dilations") or 1, n),
    )
    return Affine(node, node, node.args[0], weight, _stored(bias), "oi", window)


def _conv_window(
    weight: torch.Tensor, groups: int, stride: tuple[int, ...], padding: Pads, dilation: tuple[int, ...]
) -> Window:
    """The window of a weight that lies (out, in/groups, *kernel)."""
    outputs, columns, *kernel = (int(size) for size in weight.shape)
    return Window(columns * groups, outputs, groups, tuple(kernel), stride, padding, dilation)


def _product_window(weight: torch.Tensor, layout: Literal["oi", "io"]) -> Window:
    """The window of a product: one that does not slide."""
    first, second = (int(size) for size in weight.shape)
    return Window(second, first, 1) if layout == "oi" else Window(first, second, 1)


def _onnx_pads(options: dict[str, Any], kernel: tuple[int, ...]) -> Pads | None:
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
        or graph.tensor(weight).dim() != 2
    ):
        return None
    window = _product_window(graph.tensor(weight), "oi")
    return Affine(node, node, node.args[0], weight, _stored(bias), "oi", window)


def _aten_addmm(graph: Graph, node: fx.Node) -> Affine | None:
    bias, weight = _stored(node.args[0]), _stored(node.args[2])
    if bias is None or weight is None or node.kwargs or not isinstance(node.args[1], fx.Node):
        return None
    return Affine(node, node, node.args[1], weight, bias, "io", _product_window(graph.tensor(weight), "io"))


def _product(graph: Graph, node: fx.Node) -> Affine | None:
    data, weight = node.args[0], _stored(node.args[1])
    if weight is None or graph.tensor(weight).dim() != 2 or not isinstance(data, fx.Node):
        return None
    output, bias = _bias_of_next_add(graph, node, graph.tensor(weight).shape[1])
    return Affine(node, output, data, weight, bias, "io", _product_window(graph.tensor(weight), "io"))


def _onnx_gemm(graph: Graph, node: fx.Node) -> Affine | None:
    weight, bias = _stored(node.args[1]), argument(node, 2, "c")
    plain = node.kwargs.get("alpha", 1.0) == 1.0 and node.kwargs.get("beta", 1.0) == 1.0
    if weight is None or not plain or node.kwargs.get("transA", 0) or not isinstance(node.args[0], fx.Node):
        return None
    if bias is not None and (_stored(bias) is None or graph.tensor(str(bias.target)).dim() != 1):
        return None
    layout: Literal["oi", "io"] = "oi" if node.kwargs.get("transB", 0) else "io"
    window = _product_window(graph.tensor(weight), layout)
    return Affine(node, node, node.args[0], weight, _stored(bias), layout, window)


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
