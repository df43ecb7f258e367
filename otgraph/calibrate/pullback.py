"""The pull-back: what any small change inside a network does to its outputs, by a few backward passes.

A probe v of the outputs' metric is propagated back; at an edge e (a value *as one reader takes it*) it
arrives as ``g_e``. A change of the edges by δ_e then moves ``⟨v, f(x)⟩`` by ``t = Σ_e ⟨g_e, δ_e⟩``, and its
damage is ``E[t²]`` over inputs and probes: one number per input and probe prices every candidate. Kindred:
Fisher pruning and K-FAC (EigenDamage, Wang et al., 2019), gate gradients (Molchanov et al., 2019).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx
from torch.fx.node import map_arg

from otgraph.calibrate.feeds import Feed
from otgraph.calibrate.metric import OutputMetric
from otgraph.graph.graph import Graph, op_name

FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError)
"""What torch raises where an operator has no derivative, or a function asks for a plain tensor."""


@dataclass(frozen=True, order=True)
class Edge:
    """The value of the node ``value`` as the node ``reader`` takes it, or where that is empty as all do."""

    value: str
    reader: str = ""


class Observer(Protocol):
    """Is shown each batch once, then each probe of it. It must keep no tensor beyond the batch."""

    def begin(self, values: Mapping[Edge, torch.Tensor], samples: int) -> None:
        """The values at the edges for a batch of so many samples."""
        ...

    def probe(self, gradients: Mapping[Edge, torch.Tensor]) -> None:
        """What one probe has become at the edges that it reaches; the shapes are those of the values."""
        ...


@dataclass(frozen=True)
class Reach:
    """``edges``: those at which gradients arrived, all of what runs through them. ``blocked``: the nodes
    through which none flows, such as quantizers and operators that run in another engine; what is before one
    of them has no price. ``error``: why there is none at all, or empty."""

    edges: frozenset[Edge]
    blocked: tuple[str, ...] = ()
    error: str = ""


def pull_back(
    graph: Graph,
    batches: Iterable[Feed],
    metric: OutputMetric,
    edges: Collection[Edge],
    observer: Observer,
    *,
    probes: int = 4,
    seed: int = 0,
) -> Reach:
    """Run ``graph`` over ``batches`` with ``probes`` backward passes each, and show ``observer`` the edges.

    No weight gets a gradient, so a probe costs about one more run. Memory is that of one batch's values: the
    caller bounds it by the size of the batches. The same for the same ``seed``.
    """
    wanted = frozenset(edges)
    generator = torch.Generator().manual_seed(seed)
    recorder = _Recorder(graph.module, wanted)
    reached: set[Edge] = set()
    frozen = [p for p in graph.module.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for batch in batches:
            reached |= _batch(recorder, batch, metric, observer, probes, generator)
    except FAILURES as error:
        text = str(error).strip().splitlines()
        return Reach(frozenset(), tuple(recorder.blocked), text[0] if text else type(error).__name__)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    blind = _before(graph, recorder.blocked)
    clear = {edge for edge in reached if not _runs_into(edge, blind, graph)}
    return Reach(frozenset(clear), tuple(recorder.blocked))


def _batch(
    recorder: _Recorder,
    batch: Feed,
    metric: OutputMetric,
    observer: Observer,
    probes: int,
    generator: torch.Generator,
) -> set[Edge]:
    inputs = tuple(value.detach() for value in batch)
    with torch.enable_grad():
        outputs = recorder.run(*inputs)
    taps = recorder.taps
    observer.begin({edge: tap.detach() for edge, tap in taps.items()}, len(batch[0]))
    reached: set[Edge] = set()
    names = list(taps)
    live = [i for i, output in enumerate(outputs) if output.requires_grad]
    for number in range(probes if live else 0):
        drawn = metric.probe(outputs, generator)
        found = torch.autograd.grad(
            [outputs[i] for i in live],
            [taps[name] for name in names],
            [drawn[i] for i in live],
            retain_graph=number < probes - 1,
            allow_unused=True,
        )
        gradients = {name: g for name, g in zip(names, found, strict=True) if g is not None}
        observer.probe(gradients)
        reached |= gradients.keys()
    recorder.taps = {}
    return reached


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps, at every wanted edge, a tensor that a gradient can be taken at."""

    def __init__(self, module: fx.GraphModule, edges: frozenset[Edge]) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.taps: dict[Edge, torch.Tensor] = {}
        self.blocked: dict[str, None] = {}
        self._edges = edges
        self._read: dict[str, frozenset[str]] = {}
        for edge in edges:
            if edge.reader:
                self._read[edge.reader] = self._read.get(edge.reader, frozenset()) | {edge.value}

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "get_attr", "output"):
            return self._whole(n, super().run_node(n))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        names = self._read.get(n.name)
        if names is not None:
            tapped = {name: self._tap(Edge(name, n.name), self._value_of(n, name)) for name in names}
            args, kwargs = map_arg(
                (n.args, n.kwargs),
                lambda source: tapped[source.name] if source.name in tapped else self.env[source],
            )
        moved = _moves(args) or _moves(tuple(kwargs.values()))
        if moved and n.op == "call_module":  # it runs elsewhere, on plain tensors
            args, kwargs = _detached(args), _detached(kwargs)
        if moved and op_name(n).endswith("_") and len(n.all_input_nodes[0].users) == 1:
            first: Any = args[0]
            args = (first.clone(), *args[1:])  # a tap must keep the value that its reader took
        found = getattr(self, n.op)(n.target, args, kwargs)
        kind = op_name(n).rpartition(".")[2]
        if moved and kind not in SIZES and (kind in FLAT or _swallows(found)):
            self.blocked[n.name] = None
        return self._whole(n, found)

    def _whole(self, n: fx.Node, value: Any) -> Any:
        edge = Edge(n.name)
        if edge not in self._edges or not isinstance(value, torch.Tensor):
            return value
        return self._tap(edge, value)

    def _value_of(self, n: fx.Node, name: str) -> Any:
        source = next(source for source in n.all_input_nodes if source.name == name)
        return self.env[source]

    def _tap(self, edge: Edge, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        tap = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        self.taps[edge] = tap
        return tap


FLAT = {
    *("Round", "Floor", "Ceil", "Sign", "QuantizeLinear", "DynamicQuantizeLinear"),
    *("round", "floor", "ceil", "sign", "trunc", "fix"),
    *("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"),
}
"""Operators whose derivative is 0 wherever it exists, though they pass on what they read."""

SIZES = {"Shape", "Size", "size", "sym_size", "numel"}
"""Operators that read only how large a tensor is."""


def _moves(values: Any) -> bool:
    """Whether any tensor in ``values`` depends on a tap."""
    if isinstance(values, torch.Tensor):
        return values.requires_grad
    return isinstance(values, tuple | list) and any(_moves(value) for value in values)


def _detached(values: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return values.detach()
    if isinstance(values, dict):
        return {key: _detached(value) for key, value in values.items()}
    if isinstance(values, tuple | list):
        return type(values)(_detached(value) for value in values)
    return values


def _swallows(found: Any) -> bool:
    """Whether a node that read what depends on a tap made numbers that do not (truth values aside: where
    they select, the gradient runs through what is selected)."""
    values = (
        [found] if isinstance(found, torch.Tensor) else list(found) if isinstance(found, tuple | list) else []
    )
    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.dtype != torch.bool]
    return bool(tensors) and not any(value.requires_grad for value in tensors)


def _before(graph: Graph, blocked: Collection[str]) -> frozenset[str]:
    """The nodes that lead to a blocked one, and those themselves."""
    found = set(blocked)
    for node in reversed(graph.module.graph.nodes):
        if any(user.name in found for user in node.users):
            found.add(node.name)
    return frozenset(found)


def _runs_into(edge: Edge, blind: frozenset[str], graph: Graph) -> bool:
    if not blind:
        return False
    if edge.reader:
        return edge.reader in blind
    node = next(node for node in graph.module.graph.nodes if node.name == edge.value)
    return any(user.name in blind for user in node.users)
