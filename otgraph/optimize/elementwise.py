"""What nodes other than convolutions and products take: memory traffic, in proportion to the elements made.

An engine fuses a batch norm or an activation that directly follows a convolution into it; the one takes
nothing, the other is timed together with the convolution. An addition is fused as well, but reads a whole
value."""

from __future__ import annotations

from collections.abc import Container, Mapping

from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph, op_name
from otgraph.plan.terms import NodeTime, Polynomial, Term, evaluate, expand, multiply

MS_PER_ELEMENT = (5e-7, 2e-6)
"""From an addition, measured within the caches, to an exponential function of each element."""

FUSED = 0.01
"""What an element of a fused node takes, relative to one of a node that is not."""

_ATEN = {
    "Relu": "relu relu_",
    "Clip": "clamp clamp_ hardtanh hardtanh_ relu6",
    "LeakyRelu": "leaky_relu",
    "HardSigmoid": "hardsigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}

ACTIVATIONS: Mapping[str, str] = {
    **{f"onnx.{name}": name for name in _ATEN},
    **{f"aten.{aten}": name for name, names in _ATEN.items() for aten in names.split()},
}
"""What is fused into a convolution whose result nothing else reads, by the name that ONNX has for it."""

BATCH_NORMS = frozenset({"aten.batch_norm", "onnx.BatchNormalization"})

ADDITIONS = frozenset({"aten.add", "aten.add_", "onnx.Add"})

FREE = frozenset(
    f"{dialect}.{name}"
    for dialect, names in {
        "aten": "view reshape flatten unflatten squeeze unsqueeze dropout detach _unsafe_view select",
        "onnx": "Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape",
    }.items()
    for name in names.split()
)
"""Nodes that move nothing."""


def element_times(graph: Graph, axes: AxisMap, rest_ms: float, dims: Container[str]) -> tuple[NodeTime, ...]:
    """Milliseconds of each node that is no convolution or product, in the widths of ``dims``.

    ``rest_ms`` is what is left for them of the measured whole. They share it by their elements, as far as it
    comes to a time per element that memory traffic can explain: a network whose nodes are all fused has next
    to none to share, whatever the noise of the measurements leaves.
    """
    views = affine_nodes(graph)
    fused = _inside(graph)
    skipped = {view.node.name for view in views}
    counts: dict[str, Polynomial] = {}
    for node in graph.module.graph.nodes:
        if node.op != "call_function" or node.name in skipped or op_name(node) in FREE:
            continue
        sizes = axes.values.get(node.name, ())
        if len(sizes) == 1 and sizes[0]:
            share = (FUSED if node.name in fused else 1.0) / batch_size(graph)
            counts[node.name] = multiply([(Term(share),), *(expand(axis, dims) for axis in sizes[0])])
    full = {name: dim.size for name, dim in axes.dims.items()}
    total = sum(evaluate(count, full) for count in counts.values())
    least, most = MS_PER_ELEMENT
    each = min(max(rest_ms / total, least), most) if total > 0 else least
    return tuple(
        NodeTime(name, tuple(Term(each * term.coefficient, term.dims) for term in count))
        for name, count in counts.items()
    )


def batch_size(graph: Graph) -> int:
    """The batch of the example inputs, over which the sizes of the graph's values are known."""
    return max(int(graph.example[0].shape[0]), 1) if graph.example and graph.example[0].dim() else 1


def fused_activations(graph: Graph) -> dict[str, str]:
    """The activation, in ONNX's name for it, that ends up inside each convolution, by the convolution's
    name: directly after it, after its batch norm, or after an addition that is fused as well."""
    return {source: name for _, (source, name) in _inside(graph).items() if name}


def _inside(graph: Graph) -> dict[str, tuple[str, str]]:
    """The nodes that end up inside a convolution: its name, and the activation where the node is one.
    Additions are not among them: they still read another value."""
    ends = {view.output.name: view.node.name for view in affine_nodes(graph) if view.kind == "conv"}
    found: dict[str, tuple[str, str]] = {}
    for node in graph.module.graph.nodes:
        name = op_name(node) if node.op == "call_function" else ""
        if name not in ACTIVATIONS and name not in BATCH_NORMS | ADDITIONS:
            continue
        source = next((s for s in node.all_input_nodes if s.name in ends and len(s.users) == 1), None)
        if source is None:
            continue
        conv = ends.pop(source.name)
        if name not in ACTIVATIONS:
            ends[node.name] = conv  # what follows is fused, too
        if name not in ADDITIONS:
            found[node.name] = (conv, ACTIVATIONS.get(name, ""))
    return found
