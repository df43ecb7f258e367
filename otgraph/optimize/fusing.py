"""Whether a fusion pays: the nodes and the one that may take their place, timed against each other.

Fewer nodes and no more multiply–accumulates are no proof: engines have kernels for some shapes and not for
others. A fusion that leaves one of its nodes with the geometry it had, and takes the others away, needs no
proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import fx, nn

from otgraph.data import Array
from otgraph.engines.engine import Engine
from otgraph.errors import ModelError
from otgraph.graph.affine import Affine, read_affine
from otgraph.graph.graph import Graph, Port, Signature
from otgraph.graph.save import to_onnx_bytes
from otgraph.latency.protocol import Comparison, compare
from otgraph.remark import Remark
from otgraph.rewrite.contract import Context
from otgraph.rewrite.linear.fuse import fuse_linear
from otgraph.rewrite.linear.fusion import Fusion, needs_pad
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import format_pipeline, parse_pipeline
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import ValueInfo, value_infos

SOURCE = "veto"

FUSE = "fuse-linear"

_CONVOLUTIONS = {
    1: torch.ops.aten.conv1d.default,
    2: torch.ops.aten.conv2d.default,
    3: torch.ops.aten.conv3d.default,
}


@dataclass
class FusionClock:
    """Judges the fusions of ``graph`` while it is edited, on ``engine``; ``inputs``: one sample of each
    input, of the batch to time with. ``measured``: what was timed, by the fusion's first and last node."""

    graph: Graph
    inputs: tuple[torch.Tensor, ...]
    engine: Engine
    threads: int = 1
    seed: int = 0
    progress: Callable[[str], None] = lambda _: None
    measured: dict[str, Comparison | str] = field(default_factory=dict[str, Comparison | str])

    def __call__(self, fusion: Fusion) -> str | None:
        """None where ``fusion`` is credibly faster or needs no measurement, else why it is not made."""
        if any(window_is(self.graph, view, fusion) for view in _hosts(self.graph, fusion)):
            return None
        self.progress(f"does fusing {fusion.title} pay?")
        try:
            found = self.measured[fusion.name] = self._compare(fusion)
        except ModelError as error:
            self.measured[fusion.name] = str(error)
            return f"it could not be timed: {error}"
        if found.credible_gain:
            return None
        return f"{found.a_ms:.4g} → {found.b_ms:.4g} ms is no credible gain"

    def verdicts(self) -> Iterator[Remark]:
        """What the clock said of each fusion, as remarks with both figures."""
        for name, found in self.measured.items():
            if isinstance(found, str):
                yield Remark("missed", SOURCE, name, f"not fused, since it could not be timed: {found}")
                continue
            text = f"fused: {found.a_ms:.4g} → {found.b_ms:.4g} ms by itself"
            text += "" if found.credible_gain else ", which is no credible gain; the nodes stay apart"
            figures = {"old_ms": found.a_ms, "new_ms": found.b_ms, "low": found.low, "high": found.high}
            yield Remark("applied" if found.credible_gain else "missed", SOURCE, name, text, figures)

    def apart(self) -> tuple[str, ...]:
        """The fusions that are not to be made, as ``fuse-linear{apart=…}`` takes them."""
        return tuple(
            name for name, found in self.measured.items() if isinstance(found, str) or not found.credible_gain
        )

    def _compare(self, fusion: Fusion) -> Comparison:
        info = value_infos(self.graph.with_example(self.inputs))[fusion.entry]
        before, after = excerpt(self.graph, fusion, info), fused(self.graph, fusion, info)
        feeds: dict[str, Array] = {"x": before.example[0].numpy()}
        models = (to_onnx_bytes(before), to_onnx_bytes(after))
        return compare(self.engine, *models, feeds, threads=self.threads, seed=self.seed)


def with_apart(pipeline: str, names: Sequence[str]) -> str:
    """``pipeline`` with these fusions refused."""
    if not names:
        return pipeline
    steps = parse_pipeline(pipeline)
    told = [replace(cast("Any", step), apart=tuple(names)) if step.name == FUSE else step for step in steps]
    return format_pipeline(told)


def judged(
    graph: Graph, context: Context, pipeline: str, clock: Callable[[Graph], FusionClock]
) -> FusionClock:
    """What the clock says of every fusion that ``pipeline`` would make of ``graph``, which is not edited."""
    steps = parse_pipeline(pipeline)
    at = next((i for i, step in enumerate(steps) if step.name == FUSE), len(steps))
    before = PassManager(steps[:at], on_failure="undo").run(graph, context).graph.copy()
    judge = clock(before)
    if at < len(steps):
        fuse_linear(Rewriter(before, FUSE), accept=judge)
    return judge


def window_is(graph: Graph, view: Affine, fusion: Fusion) -> bool:
    """Whether the fused node is ``view`` with other numbers: the same geometry, and no padding of its own."""
    return view.window == fusion.window and not needs_pad(graph, fusion.window, fusion.fill)


def _hosts(graph: Graph, fusion: Fusion) -> Iterator[Affine]:
    for node in fusion.nodes:
        view = read_affine(graph, node)
        if view is not None and view.kind == fusion.host.kind:
            yield view


def excerpt(graph: Graph, fusion: Fusion, entry: ValueInfo) -> Graph:
    """The nodes of ``fusion`` as a network of their own, from ``x`` in the place of its entry.

    Raises:
        ModelError: they read another value than that.
    """
    program = fx.Graph()
    placed = {fusion.entry: program.placeholder("x")}

    def load(node: fx.Node) -> fx.Node:
        if node.op == "placeholder" and node not in placed:
            raise ModelError(f"{fusion.title}: reads {node.name} besides {fusion.entry.name}")
        if node not in placed:
            placed[node] = program.node_copy(node, load)
        return placed[node]

    program.output((load(fusion.nodes[-1]),))
    return _network(graph.module, program, entry)


def fused(graph: Graph, fusion: Fusion, entry: ValueInfo) -> Graph:
    """The one node that would take the place of ``fusion``, as a network of its own."""
    root, program, window = nn.Module(), fx.Graph(), fusion.window
    for name, value in (("weight", fusion.map.weight), ("bias", fusion.map.bias)):
        root.register_buffer(name, value.to(entry.dtype))
    value = program.placeholder("x")
    tensors = program.get_attr("weight"), program.get_attr("bias")
    if fusion.host.kind == "linear":
        value = program.call_function(torch.ops.aten.linear.default, (value, *tensors))
    else:
        pads = [before for before, _ in window.padding]
        if needs_pad(replace(graph, dialect="aten"), window, fusion.fill):
            flat = [amount for pair in reversed(window.padding) for amount in pair]
            pad = torch.ops.aten.constant_pad_nd.default
            value, pads = program.call_function(pad, (value, flat, fusion.fill)), [0] * len(pads)
        geometry = (list(window.stride), pads, list(window.dilation), window.groups)
        call = _CONVOLUTIONS[len(window.kernel)]
        value = program.call_function(call, (value, *tensors, *geometry))
    program.output((value,))
    return _network(root, program, entry)


def _network(root: nn.Module, program: fx.Graph, entry: ValueInfo) -> Graph:
    x = torch.randn(entry.shape, generator=torch.Generator().manual_seed(0)).to(entry.dtype)
    module = fx.GraphModule(root, program)
    with torch.no_grad():
        y = module(x)[0]
    ports: Sequence[Port] = [Port(n, t.dtype, tuple(t.shape)) for n, t in (("x", x), ("y", y))]
    return Graph(module, Signature((ports[0],), (ports[1],)), "aten", (x,), "excerpt")
