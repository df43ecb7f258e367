"""Multiply–accumulates: known networks at full width, and real smaller networks at reduced widths."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from otgraph.allocate.cost import NodeCost
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.axes.expression import Atom, Expression, Product
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.pricing.macs import macs_terms

NOTHING = AxisMap({}, {}, {})


def _shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Output shapes for a batch of one, by running the graph."""
    shapes: dict[str, tuple[int, ...]] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor):
                shapes[n.name] = tuple(value.shape)
            return value

    with torch.no_grad():
        Recorder(graph.module).run(*(x[:1] for x in graph.example))
    return shapes


def _hooked(module: nn.Module, inputs: torch.Tensor) -> int:
    """An independent count: what each layer of a module does, from the module's own attributes."""
    count = 0

    def hook(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal count
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            count += out.numel() * layer.in_channels // layer.groups * kernel
        elif isinstance(layer, nn.Linear):
            count += out.numel() * layer.in_features

    handles = [layer.register_forward_hook(hook) for layer in module.modules()]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return count


def total(costs: list[NodeCost], widths: dict[str, int]) -> float:
    return sum(cost.at(widths) for cost in costs)


@pytest.mark.parametrize(
    ("name", "giga"), [("resnet18", 1.81), pytest.param("mobilenet_v2", 0.30, marks=pytest.mark.slow)]
)
def test_known_networks(name: str, giga: float) -> None:
    module = getattr(torchvision.models, name)(weights=None).eval()
    graph = capture(module, (torch.zeros(2, 3, 224, 224),))
    costs = macs_terms(graph, NOTHING, _shapes(graph))
    assert total(costs, {}) == _hooked(module, torch.zeros(1, 3, 224, 224))
    assert round(total(costs, {}) / 1e9, 2) == giga


class Inverted(nn.Module):
    """Expansion, depthwise, projection, classifier: the dims are their widths."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, wide, 1)
        self.depth = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project = nn.Conv2d(wide, narrow, 1, stride=2)
        self.head = nn.Linear(narrow * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depth(self.expand(x)))
        return self.head(self.project(x).flatten(1))


def _inverted_axes(graph: Graph, *, depthwise: bool = True) -> AxisMap:
    """What the analysis finds for ``Inverted(16, 8)``, by hand."""
    wide, narrow, one, batch = Atom("w", 16), Atom("n", 8), Atom(None, 1), Atom(None, 2)
    eight, four, three = Atom(None, 8), Atom(None, 4), Atom(None, 3)
    flat = Product((narrow, Atom(None, 16)))
    layers: dict[str, tuple[tuple[Expression, ...], tuple[Expression, ...]]] = {
        "expand.weight": ((wide, three, one, one), (batch, wide, eight, eight)),
        "depth.weight": (
            (wide if depthwise else Atom(None, 16), one, three, three),
            (batch, wide, eight, eight),
        ),
        "project.weight": ((narrow, wide, one, one), (batch, narrow, four, four)),
        "head.weight": ((Atom(None, 5), flat), (batch, Atom(None, 5))),
    }
    values = {
        node.name: (layers[str(weight.target)][1],)
        for node in graph.module.graph.nodes
        for weight in node.all_input_nodes[1:2]
        if str(weight.target) in layers
    }
    dims = {"w": Dim("w", 16, ()), "n": Dim("n", 8, ())}
    return AxisMap(dims, values, {name: axes for name, (axes, _) in layers.items()})


@pytest.mark.parametrize(("wide", "narrow"), [(16, 8), (8, 8), (16, 4), (12, 1), (1, 5)])
def test_narrower_networks(wide: int, narrow: int) -> None:
    graph = capture(Inverted(16, 8).eval(), (torch.zeros(2, 3, 8, 8),))
    costs = macs_terms(graph, _inverted_axes(graph), _shapes(graph))
    small = _hooked(Inverted(wide, narrow), torch.zeros(1, 3, 8, 8))
    assert total(costs, {"w": wide, "n": narrow}) == small


def test_a_depthwise_layer_counts_its_channels_once() -> None:
    graph = capture(Inverted(16, 8).eval(), (torch.zeros(2, 3, 8, 8),))
    costs = macs_terms(graph, _inverted_axes(graph), _shapes(graph))
    assert [[(t.coefficient, t.dims) for t in cost.terms] for cost in costs] == [
        [(64 * 3, ("w",))],
        [(64 * 9, ("w",))],
        [(16, ("n", "w"))],
        [(16 * 5, ("n",))],
    ]
    wrong = macs_terms(graph, _inverted_axes(graph, depthwise=False), _shapes(graph))
    assert total(wrong, {"w": 8, "n": 8}) != _hooked(Inverted(8, 8), torch.zeros(1, 3, 8, 8))


def test_a_blocked_dim_is_a_constant() -> None:
    graph = capture(Inverted(16, 8).eval(), (torch.zeros(2, 3, 8, 8),))
    axes = _inverted_axes(graph)
    blocked = AxisMap(
        {**axes.dims, "w": Dim("w", 16, (), blocked="runs into the output")}, axes.values, axes.tensors
    )
    costs = macs_terms(graph, blocked, _shapes(graph))
    assert {name for cost in costs for term in cost.terms for name in term.dims} == {"n"}
    constant = [term.coefficient for cost in costs for term in cost.terms if not term.dims]
    assert sum(constant) == 64 * 16 * 3 + 64 * 9 * 16
    assert total(costs, {"n": 4}) == _hooked(Inverted(16, 4), torch.zeros(1, 3, 8, 8))


class Products(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        attended = nn.functional.scaled_dot_product_attention(q, k, k)
        return attended @ k.transpose(-1, -2)


def test_products_of_activations_and_attention() -> None:
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    graph = capture(Products(), (q, k))
    costs = macs_terms(graph, NOTHING, _shapes(graph))
    attention, product = 3 * 5 * 7 * (8 + 8), 3 * 5 * 7 * 8
    assert [cost.at({}) for cost in costs] == [attention, product]
    heads = {"h": Dim("h", 3, ()), "d": Dim("d", 8, ())}
    value = (Atom(None, 2), Atom("h", 3), Atom(None, 5), Atom("d", 8))
    other = (Atom(None, 2), Atom("h", 3), Atom(None, 7), Atom("d", 8))
    nodes = list(graph.module.graph.nodes)
    attend = next(node for node in nodes if "scaled_dot" in node.name)
    values = {nodes[0].name: (value,), nodes[1].name: (other,), attend.name: (value,)}
    costs = macs_terms(graph, AxisMap(heads, values, {}), _shapes(graph))
    assert costs[0].at({"h": 2, "d": 4}) == 2 * 5 * 7 * (4 + 4)


def test_transposed_convolution() -> None:
    graph = capture(nn.ConvTranspose2d(4, 6, 3, stride=2).eval(), (torch.zeros(2, 4, 5, 5),))
    (cost,) = macs_terms(graph, NOTHING, _shapes(graph))
    assert cost.at({}) == 25 * 4 * 6 * 9


class Computed(nn.Module):
    """A convolution and a product by weights that are made of others, as dequantized ones are."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 4, 3, 3))
        self.matrix = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.conv2d(x, self.kernel * 2).mean((2, 3))
        return nn.functional.linear(pooled, self.matrix * 2)


def test_computed_weights_are_counted_as_stored_ones_are() -> None:
    graph = capture(Computed().eval(), (torch.zeros(2, 4, 5, 5),))
    costs = macs_terms(graph, NOTHING, _shapes(graph))
    assert [cost.at({}) for cost in costs] == [9 * 6 * 4 * 9, 6 * 5]
    axes = analyze(graph)
    assert [cost.at({"kernel": 3}) for cost in macs_terms(graph, axes, _shapes(graph))] == [9 * 3 * 4 * 9, 15]


@pytest.mark.parametrize(("wide", "narrow"), [(16, 8), (8, 4), (12, 1)])
def test_narrower_networks_by_the_analysis(wide: int, narrow: int) -> None:
    graph = capture(Inverted(16, 8).eval(), (torch.zeros(2, 3, 8, 8),))
    axes = analyze(graph)
    widths = {dim.name: {16: wide, 8: narrow}[dim.size] for dim in axes.prunable()}
    assert len(widths) == 2
    costs = macs_terms(graph, axes, _shapes(graph))
    assert total(costs, widths) == _hooked(Inverted(wide, narrow), torch.zeros(1, 3, 8, 8))
