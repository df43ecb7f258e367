"""Multiply–accumulates of a graph's nodes as polynomials in the widths of its dims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import fx

from otgraph.allocate.cost import NodeCost, Polynomial, Term, collect, multiply
from otgraph.graph.affine import Affine, argument, read_affine
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.expression import Expression
from otgraph.graph.graph import Graph, op_name
from otgraph.pricing.lengths import expand

Shapes = Mapping[str, tuple[int, ...]]

_PRODUCTS = {"aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "onnx.MatMul"}
_CONVOLUTIONS = {f"aten.conv{rank}d" for rank in (1, 2, 3)} | {"aten.convolution", "onnx.Conv"}
_ATTENTION = {"aten.scaled_dot_product_attention"}
_TRANSPOSED = {
    "aten.conv_transpose1d",
    "aten.conv_transpose2d",
    "aten.conv_transpose3d",
    "onnx.ConvTranspose",
}


def macs_terms(graph: Graph, axes: AxisMap, shapes: Shapes) -> list[NodeCost]:
    """The multiply–accumulates of every convolution and matrix product, in program order.

    ``shapes`` maps node names to output shapes, and sets the batch that is counted (batch 1 gives the usual
    figures). Only dims that may be cut appear as variables. A convolution costs positions × the size of its
    weight, which holds for every grouping: a depthwise weight carries its channels once.
    """
    counter = _Counter(graph, axes, shapes)
    costs = ((node.name, counter.count(node)) for node in graph.module.graph.nodes)
    return [NodeCost(name, terms) for name, terms in costs if terms]


class _Counter:
    """Reads lengths of axes as polynomials; constant where the analysis says nothing."""

    def __init__(self, graph: Graph, axes: AxisMap, shapes: Shapes) -> None:
        self.graph = graph
        self.axes = axes
        self.shapes = shapes
        self.dims = frozenset(dim.name for dim in axes.prunable())

    def count(self, node: fx.Node) -> Polynomial:
        """The multiply–accumulates of one node; empty for an operator that is not counted."""
        if node.op != "call_function":
            return ()
        affine = read_affine(self.graph, node)
        if affine is not None:
            return self._affine(affine)
        name = op_name(node)
        if name in _CONVOLUTIONS:
            return self._convolution(node)
        if name in _PRODUCTS:
            return self._product(node)
        if name == "onnx.Gemm":
            return self._gemm(node)
        if name in _ATTENTION:
            return self._attention(node)
        return self._transposed(node) if name in _TRANSPOSED else ()

    def _affine(self, affine: Affine) -> Polynomial:
        lengths = self._value(affine.node)
        del lengths[affine.axis]
        return multiply([*lengths, *self._tensor(affine.weight)])

    def _convolution(self, node: fx.Node) -> Polynomial:
        """Its weight is computed, as one that is dequantized."""
        if node.kwargs.get("transposed") or argument(node, 6, "transposed") is True:
            return ()
        lengths = self._value(node)
        del lengths[1]
        return multiply([*lengths, *self._value(cast(fx.Node, node.args[1]))])

    def _gemm(self, node: fx.Node) -> Polynomial:
        left = cast(fx.Node, node.args[0])
        return multiply([*self._value(node), self._value(left)[0 if node.kwargs.get("transA") else 1]])

    def _transposed(self, node: fx.Node) -> Polynomial:
        """Each input position is spread over the whole kernel."""
        data, weight = cast(fx.Node, node.args[0]), cast(fx.Node, node.args[1])
        lengths = self._value(data)
        del lengths[1]
        return multiply([*lengths, *self._value(weight)])

    def _product(self, node: fx.Node) -> Polynomial:
        left = node.args[0]
        if not isinstance(left, fx.Node):
            return ()
        return multiply([*self._value(node), self._value(left)[-1]])

    def _attention(self, node: fx.Node) -> Polynomial:
        """Scores (queries × keys × depth of the keys), then the mixture (queries × keys × depth of the
        values)."""
        query, key = (cast(fx.Node, argument(node, at, name)) for at, name in ((0, "query"), (1, "key")))
        rows = self._value(node)
        depth = self._value(query)[-1]
        return multiply([*rows[:-1], self._value(key)[-2], collect([*depth, *rows[-1]])])

    def _value(self, node: fx.Node) -> list[Polynomial]:
        """The axes of the value of ``node``."""
        if node.op == "get_attr":
            return self._tensor(str(node.target))
        shape = self.shapes[node.name]
        found = self.axes.values.get(node.name, ())
        return self._lengths(shape, found[0] if found else ())

    def _tensor(self, name: str) -> list[Polynomial]:
        """The axes of a stored tensor."""
        return self._lengths(tuple(self.graph.tensor(name).shape), self.axes.tensors.get(name, ()))

    def _lengths(self, shape: tuple[int, ...], axes: tuple[Expression, ...]) -> list[Polynomial]:
        if len(axes) != len(shape):
            return [(Term(float(length)),) for length in shape]
        return [self._length(length, axis) for length, axis in zip(shape, axes, strict=True)]

    def _length(self, length: int, axis: Expression) -> Polynomial:
        """One axis; the factor accounts for a batch that is part of it and was another in the analysis."""
        if not any(name in self.dims for name in axis.dims()):
            return (Term(float(length)),)
        factor = length / axis.size
        return tuple(Term(factor * term.coefficient, term.dims) for term in expand(axis, self.dims))
