"""The axis analysis: run a graph once and find out which index sets shrink together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _pop_mode_temporarily  # pyright: ignore[reportPrivateUsage]

from otgraph.graph.axes.algebra import Axis, atoms, block, index_of, resolve
from otgraph.graph.axes.axis_map import AxisMap, AxisPort, Dim, Role
from otgraph.graph.axes.composite import Composites
from otgraph.graph.axes.expression import Atom, Concatenation, Expression, Indexed, Product
from otgraph.graph.axes.quantizers import apply_quantizer
from otgraph.graph.axes.rules import RULES
from otgraph.graph.axes.tracker import Integers, Tracked, Tracker
from otgraph.graph.graph import Graph, label, op_name
from otgraph.graph.quantized import is_quantizer, stored_steps
from otgraph.remark import Remark

AVERAGES = frozenset({"aten.mean", "aten.rms_norm", "onnx.ReduceMean", "onnx.RMSNormalization"})
"""Operators that divide by how many entries there are, and can be given a factor when fewer are left."""


def analyze(graph: Graph) -> AxisMap:
    """Find the dims of ``graph``.

    Runs the program once on its example inputs: on fake tensors for the ``aten`` dialect, on real ones for
    ``onnx``, whose shape arithmetic must stay concrete. Model inputs and outputs, integer tensors but those
    of quantizers, and whatever an operator without a rule touches are blocked.
    """
    tracker = Tracker(RULES)
    run = _run_on_fake if graph.dialect == "aten" else _run_on_real
    values, tensors = run(graph, tracker)
    return _freeze(graph, tracker, values, tensors)


Values = dict[str, list[list[Axis]]]
Tensors = dict[str, list[Axis]]


def _run_on_fake(graph: Graph, tracker: Tracker) -> tuple[Values, Tensors]:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    weights = {name: fake.from_tensor(tensor) for name, tensor in graph.tensors().items()}
    inputs = [fake.from_tensor(tensor) for tensor in graph.example]
    with torch.no_grad(), fake:
        return _run(graph, tracker, weights, inputs)


def _run_on_real(graph: Graph, tracker: Tracker) -> tuple[Values, Tensors]:
    with torch.no_grad():
        weights = {name: tensor.detach() for name, tensor in graph.tensors().items()}
        return _run(graph, tracker, weights, [tensor.detach() for tensor in graph.example])


def _run(
    graph: Graph, tracker: Tracker, weights: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]
) -> tuple[Values, Tensors]:
    steps = stored_steps(graph)
    for name, tensor in weights.items():
        axes = [Axis(size) for size in tensor.shape]
        integers = Integers("an integer tensor", tuple(axes), steps=True) if name in steps else None
        tracker.register(tensor, Tracked(axes, [False] * tensor.dim(), False, frozenset({name}), integers))
    for port, tensor in zip(graph.signature.inputs, inputs, strict=True):
        axes = [Axis(size, blocked=f"model input {port.name}") for size in tensor.shape]
        tracker.register(tensor, Tracked(axes, [True] * tensor.dim(), computed=True))
    interpreter = _Interpreter(graph, tracker, weights)
    with tracker, Composites(tracker):
        outputs = interpreter.run(*inputs)
    for port, tensor in zip(graph.signature.outputs, pytree.tree_leaves(outputs), strict=True):
        for axis in tracker.read(tensor).axes:
            block(axis, f"model output {port.name}")
    return interpreter.values, {name: tracker.tracked(tensor).axes for name, tensor in weights.items()}


class _Interpreter(fx.Interpreter):
    """Runs the program with the given weights and notes the axes of what every node returns."""

    def __init__(self, graph: Graph, tracker: Tracker, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(graph.module)
        self.tracker = tracker
        self.weights = weights
        self.values: Values = {}

    def run_node(self, n: fx.Node) -> Any:
        self.tracker.where = label(n)
        self.tracker.rescales = op_name(n) in AVERAGES
        if n.op == "get_attr" and str(n.target) in self.weights:
            result = self.weights[str(n.target)]
        elif n.op == "call_module":
            result = self._run_opaque(n)
        elif is_quantizer(n):
            with _pop_mode_temporarily():
                result = super().run_node(n)
            operands, _ = self.fetch_args_kwargs_from_env(n)
            apply_quantizer(self.tracker, n, operands, result)
        elif isinstance(n.target, HigherOrderOperator):
            with _pop_mode_temporarily():  # the tracker cannot look into branches and loops
                result = super().run_node(n)
            self._declare_opaque(n, op_name(n), result)
        else:
            result = super().run_node(n)
        leaves = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        if leaves and n.op != "output":
            self.values[n.name] = [self.tracker.tracked(t).axes for t in leaves]
        return result

    def _run_opaque(self, n: fx.Node) -> Any:
        """Submodules are what the dialect could not express: nothing is known of them."""
        result = super().run_node(n)
        origin = n.meta.get("onnx")
        self._declare_opaque(n, origin.op_type if origin is not None else str(n.target), result)
        return result

    def _declare_opaque(self, n: fx.Node, operator: str, result: Any) -> None:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        results = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.tracker.opaque(operator, operands, results)


def _freeze(graph: Graph, tracker: Tracker, values: Values, tensors: Tensors) -> AxisMap:
    roles = _roles(tracker)
    involved = {key for _, key in roles}
    ports: dict[int, list[AxisPort]] = {}
    cells: dict[int, Axis] = {}
    for name, axes in tensors.items():
        for number, axis in enumerate(axes):
            for atom in _distinct_atoms(axis):
                if id(atom) not in involved:
                    continue  # a kernel, a table of constants, scales: no index set of the network
                role = roles.get((name, id(atom)), "carries")
                cells[id(atom)] = atom
                ports.setdefault(id(atom), []).append(AxisPort(name, number, role))
    names = _names(ports)
    dims = {names[key]: _dim(names[key], cells[key], ports[key]) for key in ports}
    freeze = _Freezer(names)
    return AxisMap(
        dims=dims,
        values={name: tuple(tuple(map(freeze, axes)) for axes in outs) for name, outs in values.items()},
        tensors={name: tuple(map(freeze, axes)) for name, axes in tensors.items()},
        remarks=_remarks(tracker, names, dims, graph),
    )


def _distinct_atoms(axis: Axis) -> Iterator[Axis]:
    yield from {id(atom): atom for atom in atoms(axis) if atom.size > 1}.values()


def _dim(name: str, atom: Axis, ports: list[AxisPort]) -> Dim:
    return Dim(name, atom.size, tuple(ports), atom.blocked, atom.normalized, atom.residual)


def _roles(tracker: Tracker) -> dict[tuple[str, int], Role]:
    """Per weight and atom the strongest role: reading beats writing beats carrying."""
    rank: dict[Role, int] = {"carries": 0, "writes": 1, "reads": 2}
    found: dict[tuple[str, int], Role] = {}
    for use in tracker.uses:
        for atom in _distinct_atoms(use.axis):
            for weight in use.weights:
                key = (weight, id(atom))
                if key not in found or rank[use.role] > rank[found[key]]:
                    found[key] = use.role
    return found


def _names(ports: dict[int, list[AxisPort]]) -> dict[int, str]:
    """A dim is called after the tensor that writes it first, else after the first that holds it."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for key, where in ports.items():
        port = next((p for p in where if p.role == "writes"), where[0])
        base = port.tensor.removesuffix(".weight")
        if port.role == "reads" or (port.role == "carries" and port.axis > 0):
            base = f"{base}[{port.axis}]"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}#{number}"
        taken.add(name)
        names[key] = name
    return names


class _Freezer:
    """Turns cells of the unification into expressions over named dims."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names

    def __call__(self, axis: Axis) -> Expression:
        axis = resolve(axis)
        if axis.kind == "atom":
            return Atom(self.names.get(id(axis)), axis.size)
        parts = tuple(self(part) for part in axis.parts)
        if axis.kind == "product":
            return Product(parts)
        if axis.kind == "concatenation":
            return Concatenation(parts)
        return Indexed(parts[0], tuple(int(i) for i in index_of(axis)))


def _remarks(
    tracker: Tracker, names: dict[int, str], dims: dict[str, Dim], graph: Graph
) -> tuple[Remark, ...]:
    """Each operator without a rule is named once, with the channels it blocks."""
    blocked: dict[str, set[str]] = {}
    first: dict[str, str] = {}
    for unknown in tracker.unknown:
        first.setdefault(unknown.operator, unknown.node)
        touched = {names[id(a)] for axis in unknown.axes for a in _distinct_atoms(axis) if id(a) in names}
        blocked.setdefault(unknown.operator, set()).update(touched)
    return tuple(
        Remark(
            "analysis",
            "axes",
            first[operator],
            f"{operator} has no axis rule: what it touches stays as it is",
            {"dims": len(touched), "channels": sum(dims[name].size for name in touched)},
        )
        for operator, touched in blocked.items()
    )


def with_protected(axes: AxisMap, blocked: dict[str, str]) -> AxisMap:
    """The same map with more dims blocked: dim name → reason."""
    dims = {
        name: replace(d, blocked=blocked[name]) if name in blocked else d for name, d in axes.dims.items()
    }
    return replace(axes, dims=dims)
