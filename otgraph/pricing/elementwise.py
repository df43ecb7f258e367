"""What nodes other than convolutions and products take: memory traffic, in proportion to the elements made.

An engine fuses a batch norm, an addition or an activation that directly follows a convolution into it. The
first takes nothing then, the last is timed together with the convolution."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from otgraph.allocate.cost import Polynomial, Term, TimeTerm, evaluate, multiply
from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.pointwise import ADDITIONS
from otgraph.pricing.lengths import expand

MS_PER_ELEMENT = (5e-7, 2e-6)
"""From an addition, measured within the caches, to an exponential function of each element."""

FUSED = {"add": 1.0, "norm": 0.0}
"""What an element of a fused node takes, relative to the least that one of another node does: an addition
still reads a whole value."""

_ATEN = {
    "Relu": "relu relu_",
    "Clip": "clamp clamp_ hardtanh hardtanh_ relu6",
    "LeakyRelu": "leaky_relu",
    "HardSigmoid": "hardsigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}

FOLLOWS: Mapping[str, str] = {
    **{f"onnx.{name}": name for name in _ATEN},
    **{f"aten.{aten}": name for name, names in _ATEN.items() for aten in names.split()},
    **dict.fromkeys(("aten.batch_norm", "onnx.BatchNormalization"), "norm"),
    **dict.fromkeys(ADDITIONS, "add"),
}
"""What is fused into a convolution whose result nothing else reads: activations by ONNX's name for them."""

FREE = frozenset(
    f"{dialect}.{name}"
    for dialect, names in {
        "aten": "view reshape flatten unflatten squeeze unsqueeze dropout detach _unsafe_view select",
        "onnx": "Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape",
    }.items()
    for name in names.split()
)
"""Nodes that move nothing."""


def element_times(graph: Graph, axes: AxisMap, rest_ms: float, dims: Container[str]) -> tuple[TimeTerm, ...]:
    """Milliseconds of each node that is no convolution or product, in the widths of ``dims``.

    ``rest_ms`` is what is left for them of the measured whole. Those that are not fused share it by their
    elements, as far as it comes to a time per element that memory traffic can explain: a network whose nodes
    are all fused has next to none to share, whatever the noise of the measurements leaves.
    """
    fused = {name: kind for name, (_, kind) in _inside(graph).items()}
    counts = _elements(graph, axes, dims)
    full = {name: dim.size for name, dim in axes.dims.items()}
    least, most = MS_PER_ELEMENT
    rates = {name: least * FUSED.get(kind, 0.0) for name, kind in fused.items()}
    left = rest_ms - sum(rates.get(name, 0.0) * evaluate(count, full) for name, count in counts.items())
    total = sum(evaluate(count, full) for name, count in counts.items() if name not in fused)
    each = min(max(left / total, least), most) if total > 0 else least
    return tuple(TimeTerm(name, times(rates.get(name, each), count)) for name, count in counts.items())


def _elements(graph: Graph, axes: AxisMap, dims: Container[str]) -> dict[str, Polynomial]:
    """How many elements each node makes per sample of the batch, where it makes a single value."""
    skipped = {view.node.name for view in affine_nodes(graph)}
    counts: dict[str, Polynomial] = {}
    for node in graph.module.graph.nodes:
        if node.op != "call_function" or node.name in skipped or op_name(node) in FREE:
            continue
        sizes = axes.values.get(node.name, ())
        if len(sizes) == 1 and sizes[0]:
            counts[node.name] = multiply(
                [(Term(1 / batch_size(graph)),), *(expand(axis, dims) for axis in sizes[0])]
            )
    return counts


def times(factor: float, terms: Iterable[Term]) -> Polynomial:
    """``terms`` multiplied by ``factor``, which is not negative."""
    return tuple(Term(factor * term.coefficient, term.dims) for term in terms) if factor > 0 else ()


def batch_size(graph: Graph) -> int:
    """The batch of the example inputs, over which the sizes of the graph's values are known."""
    return max(int(graph.example[0].shape[0]), 1) if graph.example and graph.example[0].dim() else 1


def fused_activations(graph: Graph) -> dict[str, str]:
    """The activation, in ONNX's name for it, that ends up inside each convolution, by the convolution's
    name: directly after it, after its batch norm, or after an addition that is fused as well."""
    return {conv: kind for conv, kind in _inside(graph).values() if kind not in FUSED}


def _inside(graph: Graph) -> dict[str, tuple[str, str]]:
    """The nodes that end up inside a convolution: its name, and ``norm``, ``add`` or the activation."""
    ends = {view.output.name: view.node.name for view in affine_nodes(graph) if view.kind == "conv"}
    found: dict[str, tuple[str, str]] = {}
    for node in graph.module.graph.nodes:
        kind = FOLLOWS.get(op_name(node)) if node.op == "call_function" else None
        source = next((s for s in node.all_input_nodes if s.name in ends and len(s.users) == 1), None)
        if kind is None or source is None:
            continue
        conv = ends.pop(source.name)
        found[node.name] = (conv, kind)
        if kind in FUSED:
            ends[node.name] = conv  # what follows is fused, too
    return found
