"""What keeps channels from being cut: the operator, its node, the reason, and how much hangs on it."""

from __future__ import annotations

from dataclasses import dataclass

from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.graph import Graph, label
from otgraph.pricing.macs import macs_terms
from otgraph.rewrite.shapes import value_infos


@dataclass(frozen=True)
class Blocker:
    """One reason why dims cannot be cut.

    ``reason`` is that of the analysis; ``operator`` and ``node`` are what it names, empty where it names none
    (model inputs and outputs, integer tensors, what cannot be reconciled). ``parameters``: how many lie in
    the tensors that these dims run through, or that an operator without a rule holds; ``macs``: the share of
    the multiply–accumulates of the whole in the nodes that use these tensors. A tensor between two blocked
    dims counts for both.
    """

    reason: str
    operator: str
    node: str
    why: str
    dims: tuple[str, ...]
    channels: int
    parameters: int
    macs: float


def find_blockers(graph: Graph, axes: AxisMap) -> tuple[Blocker, ...]:
    """Why dims are blocked, what holds back most parameters and multiply–accumulates first."""
    groups: dict[str, list[Dim]] = {}
    for dim in axes.dims.values():
        if dim.blocked is not None and dim.size > 1:
            groups.setdefault(dim.blocked, []).append(dim)
    if not groups:
        return ()
    tensors = {name: t.numel() for name, t in graph.tensors().items() if t.is_floating_point()}
    work = _work(graph, axes)
    whole = sum(macs for macs, _ in work.values()) or 1.0
    unknown = {remark.message.partition(" ")[0] for remark in axes.remarks}
    inside = _stored_operands(graph)
    found: list[Blocker] = []
    for reason, dims in groups.items():
        operator, node, why = _parts(reason, unknown)
        names = {port.tensor for dim in dims for port in dim.ports}
        names = (names | (inside.get(node, set()) if why == _UNKNOWN else set())) & tensors.keys()
        macs = sum(cost for cost, used in work.values() if used & names) / whole
        parameters = sum(tensors[name] for name in names)
        channels = sum(dim.size for dim in dims)
        listed = tuple(dim.name for dim in dims)
        found.append(Blocker(reason, operator, node, why, listed, channels, parameters, macs))
    total = sum(tensors.values()) or 1
    return tuple(sorted(found, key=lambda b: -(b.parameters / total + b.macs)))


def _parts(reason: str, unknown: set[str]) -> tuple[str, str, str]:
    """Operator, node and what it does, of a reason such as ``softmax at blocks.0.attn``."""
    operator, at, rest = reason.partition(" at ")
    if not at or " " in operator:
        return "", "", reason
    node, _, more = rest.partition(" sums entries ")
    if more:
        return operator, node, f"sums entries {more}"
    return operator, node, _UNKNOWN if operator in unknown else _WHY.get(operator, _MIXES)


_UNKNOWN, _MIXES = "has no axis rule", "depends on every entry of the axis"
_PLACES, _NEIGHBORS = "takes entries by their places", "reads neighboring places together"
_WHY = {
    **dict.fromkeys(("select", "unbind", "stack", "slice", "index", "index_select", "embedding"), _PLACES),
    **dict.fromkeys(("select_scatter", "slice_scatter", "arange", "_embedding_bag", "gather"), _PLACES),
    **dict.fromkeys(("convolution", "im2col", "unfold", "pixel_shuffle", "pixel_unshuffle"), _NEIGHBORS),
    **{f"{kind}_pool{rank}d": _NEIGHBORS for kind in ("avg", "max") for rank in (1, 2, 3)},
    **{f"max_pool{rank}d_with_indices": _NEIGHBORS for rank in (1, 2, 3)},
}
"""What operators do to an axis that they fix, where it is not all of it that they need."""


def _stored_operands(graph: Graph) -> dict[str, set[str]]:
    """What a node is called → the stored tensors it reads."""
    found: dict[str, set[str]] = {}
    for node in graph.module.graph.nodes:
        stored = {str(source.target) for source in node.all_input_nodes if source.op == "get_attr"}
        if node.op in ("call_function", "call_module"):
            found.setdefault(label(node), set()).update(stored)
    return found


def _work(graph: Graph, axes: AxisMap) -> dict[str, tuple[float, frozenset[str]]]:
    """Node → its multiply–accumulates on the example inputs, and the stored tensors it uses."""
    shapes = {node.name: info.shape for node, info in value_infos(graph).items()}
    widths = {dim.name: dim.size for dim in axes.dims.values()}
    costs = {cost.node: cost.at(widths) for cost in macs_terms(graph, axes, shapes)}
    return {
        node.name: (
            costs[node.name],
            frozenset(str(source.target) for source in node.all_input_nodes if source.op == "get_attr"),
        )
        for node in graph.module.graph.nodes
        if node.name in costs
    }
