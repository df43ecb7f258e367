"""The depth of a program: its longest chain of nodes, and of nodes that hold its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from otgraph.graph.graph import Graph, op_name
from otgraph.graph.regions import Flow

PRODUCTS = frozenset(
    {f"aten.{name}" for name in ("matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "convolution")}
    | {f"aten.conv_transpose{n}d" for n in (1, 2, 3)}
    | {"aten.scaled_dot_product_attention", "aten.lstm", "aten.gru", "aten.linear", "aten.embedding"}
    | {f"aten.conv{n}d" for n in (1, 2, 3)}
    | {f"onnx.{name}" for name in ("MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN")}
    | {f"onnx.{name}" for name in ("Attention", "MultiHeadAttention", "DeformConv")}
)
"""The operators that hold a network's arithmetic, whether their weights are stored or computed."""


def is_product(node: fx.Node) -> bool:
    """Whether ``node`` is one of the operators that hold a network's arithmetic."""
    return op_name(node) in PRODUCTS


@dataclass(frozen=True)
class Depth:
    """The longest chains from an input to an output: of call nodes, and of products (convolutions, matrix
    products and their like). ``audit`` counts the same of an ONNX file."""

    nodes: int
    compute: int


def depth_of(graph: Graph) -> Depth:
    """The depth of ``graph``; what only handles shapes or stored tensors is not counted."""
    nodes: dict[fx.Node, int] = {}
    compute: dict[fx.Node, int] = {}
    flow = Flow.of(graph)
    for node in flow.order:
        here = node.op != "placeholder"
        nodes[node] = here + max((nodes[source] for source in flow.preds[node]), default=0)
        compute[node] = is_product(node) + max((compute[source] for source in flow.preds[node]), default=0)
    return Depth(max(nodes.values(), default=0), max(compute.values(), default=0))
