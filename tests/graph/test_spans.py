"""Finding spans by structure: what is one, what is none, where it lies, and which maps it may become."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.depth import Depth, depth_of
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.regions import Flow
from otgraph.graph.span import Span
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.span_site import multiplies, site_of
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.load import load_model


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, c: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, 3 * c, 1, bias=False), nn.BatchNorm2d(3 * c), nn.ReLU6(),
            nn.Conv2d(3 * c, 3 * c, 3, stride, 1, groups=3 * c), nn.BatchNorm2d(3 * c), nn.ReLU6(),
            nn.Conv2d(3 * c, out, 1), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.add = stride == 1 and c == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.add else self.body(x)


class Attention(nn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.one(x)).reshape(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        x = x + self.out(y)
        return x + self.mlp(self.two(x))


class Plain(nn.Module):
    """A net whose modules have names that say nothing."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.q7 = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.q7:
            x = module(x)
        return x


def graph_of(module: nn.Module, *shape: int) -> Graph:
    torch.manual_seed(0)
    return capture(module.eval(), (torch.randn(*shape),))


def spans_of(graph: Graph, run: int = 3) -> dict[str, Span]:
    return {span.name: span for span in find_spans(graph, analyze(graph), run)}


@pytest.fixture(scope="module")
def mobile() -> Graph:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
    return graph_of(Plain(stem, Block(8, 8), Block(8, 8), Block(8, 16, 2), Block(16, 16), head), 2, 3, 16, 16)


def test_residual_blocks_have_a_branch_and_the_addition_as_exit(mobile: Graph) -> None:
    branched = [span for span in spans_of(mobile).values() if span.branch is not None]
    assert [len(span.nodes) for span in branched] == [9, 9, 9]
    nodes = {node.name: node for node in mobile.module.graph.nodes}
    for span in branched:
        names = {source.name for source in nodes[span.exit].all_input_nodes}
        assert names == {span.entry, span.branch} and span.nodes[-1] == span.exit


def test_a_block_that_changes_shape_reaches_to_the_entry_of_the_next(mobile: Graph) -> None:
    spans, axes = spans_of(mobile), analyze(mobile)
    second, third = [span for span in spans.values() if span.branch is not None][1:]
    stride = spans[f"{second.exit}..{third.entry}"]
    site = site_of(mobile, axes, stride)
    assert stride.branch is None and site is not None
    assert (site.entry, site.exit, site.stride, site.source, site.space) == (8, 16, (2, 2), (8, 8), (4, 4))
    assert site.kernel() == (3, 3) and site.padding((3, 3)) == ((1, 1), (1, 1))


def test_runs_of_blocks_are_spans_and_no_longer_than_asked(mobile: Graph) -> None:
    blocks = [span for span in spans_of(mobile).values() if span.branch is not None]
    pair = f"{blocks[0].entry}..{blocks[1].exit}"
    assert spans_of(mobile)[pair].nodes == blocks[0].nodes + blocks[1].nodes
    assert spans_of(mobile)[pair].branch is None
    assert pair not in spans_of(mobile, 1)
    assert f"{blocks[0].entry}..{blocks[2].exit}" not in spans_of(mobile)  # four blocks


def test_inner_spans_are_found_and_the_branch_itself_is_not_listed_twice(mobile: Graph) -> None:
    spans = spans_of(mobile)
    block = next(span for span in spans.values() if span.branch is not None)
    inner = [s for s in spans.values() if set(s.nodes) < set(block.nodes)]
    assert any(s.entry == block.entry for s in inner)  # read by the addition too, which is no obstacle
    assert f"{block.entry}..{block.branch}" not in spans


def test_every_span_is_a_region_with_one_entry_and_one_exit(mobile: Graph) -> None:
    nodes = {node.name: node for node in mobile.module.graph.nodes}
    for graph_span in spans_of(mobile).values():
        inside = set(graph_span.nodes)
        for name in graph_span.nodes:
            sources = {s.name for s in nodes[name].all_input_nodes if s.op != "get_attr"}
            assert sources <= inside | {graph_span.entry}
            if name != graph_span.exit:
                assert {user.name for user in nodes[name].users} <= inside


class Leaky(nn.Module):
    """A block of which the output, or the shape, of an inner value is used outside."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.c(x)
        y = torch.relu(self.a(x))
        z = self.b(y) + x
        return (z, y.mean((2, 3))) if self.what == "output" else (z,)


def test_an_auxiliary_output_of_an_inner_value_makes_it_no_span() -> None:
    tight, leaky = (spans_of(graph_of(Leaky(what), 2, 4, 6, 6)) for what in ("nothing", "output"))
    assert [span.branch is not None for span in tight.values()].count(True) == 1
    assert not any(span.branch for span in leaky.values())
    assert "conv2d..add" not in leaky and "conv2d..relu" in leaky


SHAPE_READ_OUTSIDE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4,6] x) => (float[N,4,6] y)
  <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, int64[3] order = {0,2,1}> {
  h = Transpose <perm = [0,2,1]> (x)
  a = MatMul (h, w)
  b = Relu (a)
  c = MatMul (b, w)
  d = Add (c, h)
  e = Relu (d)
  s = Shape (WHO)
  f = Reshape (e, s)
  y = Transpose <perm = [0,2,1]> (f)
}
"""


@pytest.mark.parametrize(("who", "found"), [("h", True), ("d", True), ("b", False)])
def test_a_shape_that_is_needed_outside_ties_the_value(who: str, found: bool) -> None:
    model = parser.parse_model(SHAPE_READ_OUTSIDE.replace("WHO", who))
    onnx.checker.check_model(model)
    spans = spans_of(import_model(model))
    assert any(span.branch is not None for span in spans.values()) is found


def test_transformer_halves_and_whole_blocks() -> None:
    graph = graph_of(Plain(nn.Linear(5, 8), Attention(), Attention()), 2, 6, 5)
    spans, axes = spans_of(graph), analyze(graph)
    halves = [span for span in spans.values() if span.branch is not None]
    assert len(halves) == 4
    assert [a.exit == b.entry for a, b in pairwise(halves)] == [True] * 3
    block = spans[f"{halves[0].entry}..{halves[1].exit}"]
    site = site_of(graph, axes, block)
    assert site is not None and (site.axis, site.entry, site.exit, site.kernel()) == (-1, 8, 8, None)


def test_a_gate_is_one_span_with_its_pooling_and_its_ends_are_not_related_to_the_pooled_value() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return x * torch.sigmoid(self.c(torch.relu(self.b(x.mean((2, 3), keepdim=True)))))

    spans = spans_of(graph_of(Plain(Gate(), nn.Conv2d(6, 3, 1)), 2, 4, 6, 6))
    gates = [span for span in spans.values() if span.entry == "conv2d" and span.exit.startswith("mul")]
    assert [len(span.nodes) for span in gates] == [6]
    assert not {"conv2d..conv2d_1", "conv2d..conv2d_2", "conv2d..sigmoid"} & spans.keys()


def test_windows_that_are_not_symmetric_keep_their_place() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3, 2), nn.ReLU(),
        nn.Conv2d(4, 3, 1),
    )  # fmt: skip
    graph = graph_of(net, 2, 2, 12, 12)
    span = spans_of(graph)["input_1..conv2d_2"]
    site = site_of(graph, analyze(graph), span)
    assert site is not None and site.stride == (2, 2) and site.reach == (3, 3)
    assert site.kernel() == (3, 3)


ASYMMETRIC = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4,12,12] x) => (float[N,4,6,6] y)
  {
  a = Conv <kernel_shape = [1,1]> (x, w)
  b = Relu (a)
  c = Conv <kernel_shape = [3,3], strides = [2,2], pads = [0,0,1,1]> (b, v)
  y = Relu (c)
}
"""


def test_padding_on_one_side_is_kept() -> None:
    model = parser.parse_model(ASYMMETRIC)
    random = np.random.default_rng(0)
    for name, shape in (("v", (4, 4, 3, 3)), ("w", (4, 4, 1, 1))):
        value = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    graph = import_model(model)
    axes = analyze(graph)
    whole = next(span for span in find_spans(graph, axes) if len(span.nodes) == 3)
    site = site_of(graph, axes, whole)
    assert site is not None and site.center == (1.0, 1.0) and site.padding((3, 3)) == ((0, 1), (0, 1))


def test_activations_written_with_several_nodes_are_one() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            x = x * torch.sigmoid(1.7 * x)
            return torch.relu(self.b(x))

    graph = graph_of(Written(), 3, 4)
    found = activation_nodes(graph, analyze(graph))
    assert [len(span.nodes) for span in found] == [3, 1]
    assert not any(span.name == found[0].name for span in spans_of(graph).values())


def test_maps_are_those_that_fit_the_ends_and_multiply_less(mobile: Graph) -> None:
    axes = analyze(mobile)
    spans = find_spans(mobile, axes)
    by_span: dict[str, set[str]] = {}
    for collapse in find_collapses(mobile, axes, spans, ("least-squares", "moments", "gaussian")):
        by_span.setdefault(collapse.span.name, set()).add(f"{collapse.map}:{collapse.estimator}")
    nodes = {node.name: node for node in mobile.module.graph.nodes}
    for span in spans:
        maps, site = by_span.get(span.name, set()), site_of(mobile, axes, span)
        assert site is not None
        assert ("identity:least-squares" in maps) == site.same
        assert ("linear:gaussian" in maps) <= site.same
        assert "conv:gaussian" not in maps
        work = sum(multiplies(mobile, axes, nodes[name]) for name in span.nodes)
        dense = site.samples * int(np.prod(site.space)) * site.entry * site.exit
        assert ("linear:moments" in maps) <= (dense <= 2 * work)
    single = [span for span in spans if len(span.nodes) <= 2 and span.entry != "input_1"]
    assert single and not any("conv:moments" in by_span.get(span.name, set()) for span in single)


def test_the_list_grows_in_proportion_to_the_chain() -> None:
    def count(layers: int) -> int:
        modules = [m for _ in range(layers) for m in (nn.Linear(6, 6), nn.ReLU())]
        return len(find_spans(*(lambda g: (g, analyze(g)))(graph_of(nn.Sequential(*modules), 2, 6))))

    assert count(40) - count(30) == count(20) - count(10) > 0


def test_dominators_of_a_diamond() -> None:
    class Diamond(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(x)
            return torch.sigmoid(torch.tanh(y) + torch.exp(y) + y)

    flow = Flow.of(graph_of(Diamond(), 2, 3))
    name = {node.name: node for node in flow.order}
    first, second = (node for node in flow.order if node.name.startswith("add"))
    assert flow.dominators[second] is name["relu"]
    assert flow.post_dominators[name["relu"]] is second
    assert flow.post_dominators[name["tanh"]] is first
    assert flow.between(name["relu"], second) == (name["tanh"], name["exp"], first, second)
    assert flow.escapes([name["tanh"], name["exp"]])
    assert not flow.escapes([name["tanh"], name["exp"], first])


def test_depth_counts_the_longest_chain(mobile: Graph) -> None:
    assert depth_of(mobile).compute == 1 + 4 * 3 + 1
    assert depth_of(graph_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), 2, 3)) == Depth(3, 2)


def test_the_embedded_sample() -> None:
    from otgraph import sample  # noqa: PLC0415

    graph = load_model(str(next(iter(sample.__path__)) + "/digits_resnet20.onnx"))
    spans = spans_of(graph)
    assert sum(span.branch is not None for span in spans.values()) == 7  # two of nine blocks widen
    assert len(activation_nodes(graph, analyze(graph))) == 19


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "residual", "activations"),
    [
        ("resnet18", 5, 17),  # three of eight blocks have a convolution in the shortcut
        ("mobilenet_v2", 10, 35),
        ("swin_t", 24, 12),
        ("densenet121", 0, 121),
    ],
)
def test_the_zoo(name: str, residual: int, activations: int) -> None:
    import torchvision  # noqa: PLC0415

    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(weights=None).eval()
    graph = capture(module, (torch.randn(2, 3, 224, 224),))
    axes = analyze(graph)
    spans = find_spans(graph, axes)
    assert sum(span.branch is not None for span in spans) == residual
    assert len(activation_nodes(graph, axes)) == activations
    assert residual <= len(spans) < len(graph.module.graph.nodes)
