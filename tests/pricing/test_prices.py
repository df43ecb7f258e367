"""Prices against what changes really do, on networks that are linear behind them, where they are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.probing import Probing, probing
from otgraph.calibrate.span_fit import SpanFit, fit_collapses
from otgraph.calibrate.width import Width, analyze_width
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import find_spans
from otgraph.pricing.prices import Prices, edges_of, price
from otgraph.rewrite.collapse import collapse_span
from otgraph.rewrite.rewriter import Rewriter
from otgraph.transport.cost import Reading

INPUTS = 24


class Net(nn.Module):
    """A span with a nonlinearity, behind it nothing but linear layers, one dim between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.wide, self.head = nn.Conv2d(8, 12, 3), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        y = y + self.b(torch.relu(self.a(y)))
        return self.head(self.wide(y).mean((2, 3)))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(Net().eval(), (torch.randn(2, 3, 10, 10),))


@pytest.fixture(scope="module")
def axes(graph: Graph) -> AxisMap:
    return analyze(graph)


@pytest.fixture(scope="module")
def data() -> Data:
    random = np.random.default_rng(0)
    x = random.normal(size=(INPUTS, 3, 10, 10)) + random.normal(size=(INPUTS, 3, 1, 1))
    return Data.from_arrays({"x": x.astype(np.float32)})


@pytest.fixture(scope="module")
def widths(graph: Graph, axes: AxisMap, data: Data) -> dict[str, Width]:
    return dict(analyze_width(graph, axes, data).widths)


@pytest.fixture(scope="module")
def fits(graph: Graph, axes: AxisMap, data: Data) -> list[SpanFit]:
    found = find_collapses(graph, axes, find_spans(graph, axes))
    wanted = [c for c in found if c.map != "affine"]
    return list(fit_collapses(graph, data, wanted, axes=axes).values())


def inputs(graph: Graph, axes: AxisMap, data: Data, widths: dict[str, Width], fits: list[SpanFit]) -> Probing:
    return probing(graph, axes, data, "values", edges_of(widths, fits))


@pytest.fixture(scope="module")
def prices(graph: Graph, axes: AxisMap, data: Data, widths: dict[str, Width], fits: list[SpanFit]) -> Prices:
    candidates = {name: range(width.size, 0, -1) for name, width in widths.items()}
    found = inputs(graph, axes, data, widths, fits)
    return price(graph, widths, candidates, fits, found, probes=200)


def relative(graph: Graph, data: Data, outputs: torch.Tensor) -> float:
    wanted = graph(torch.from_numpy(data.chunks[0].arrays["x"]))[0]
    return float((outputs - wanted).square().sum() / wanted.square().sum())


def best(reading: Reading, kept: np.ndarray) -> torch.Tensor:
    """T (n, n) with x̂ = T x, by least squares on the moments, ridge as the prices have it."""
    moment = reading.second_moment()
    moment = moment + 1e-3 * np.diagonal(moment).mean() * np.eye(len(moment))
    routing = np.zeros_like(moment)
    routing[:, kept] = np.linalg.solve(moment[np.ix_(kept, kept)], moment[kept]).T
    routing[kept] = np.eye(len(moment))[kept]
    return torch.from_numpy(routing).float()


@pytest.mark.parametrize("k", [3, 7, 11])
def test_every_width_costs_what_its_re_expression_does(
    graph: Graph, data: Data, widths: dict[str, Width], prices: Prices, k: int
) -> None:
    name = next(name for name, width in widths.items() if width.size == 12)
    width = widths[name]
    (reading,) = width.readings
    module = Net().eval()
    module.load_state_dict({name: graph.tensor(name) for name in graph.tensors()})
    x = torch.from_numpy(data.chunks[0].arrays["x"])
    mean = torch.from_numpy(np.asarray(reading.mean)).float()
    with torch.no_grad():
        y = torch.relu(module.stem(x))
        y = y + module.b(torch.relu(module.a(y)))
        pooled = module.wide(y).mean((2, 3))
        changed = mean + (pooled - mean) @ best(reading, width.curve.kept(k)).T
        truth = relative(graph, data, module.head(changed))
    assert prices.of((name, k)) == pytest.approx(truth, rel=0.12)


def collapsed(graph: Graph, fit: SpanFit) -> Graph:
    rewriter = Rewriter(graph.copy(), "test")
    assert not isinstance(collapse_span(rewriter, fit.collapse, fit), str)
    return rewriter.finish()


def test_every_map_costs_what_it_does_in_the_place_of_its_span(
    graph: Graph, data: Data, fits: list[SpanFit], prices: Prices
) -> None:
    x = torch.from_numpy(data.chunks[0].arrays["x"])
    nodes = {node.name: node for node in graph.module.graph.nodes}
    kinds: set[str] = set()
    for fit in fits:
        if any("relu" in user.name for user in nodes[fit.collapse.span.exit].users):
            continue  # what is behind it is not linear
        truth = relative(graph, data, collapsed(graph, fit)(x)[0])
        assert prices.of(fit.collapse.name) == pytest.approx(truth, rel=0.15), fit.collapse.name
        kinds.add(fit.collapse.map)
    assert kinds == {"identity", "linear", "conv"}


def test_the_square_of_a_sum_is_what_both_do(
    graph: Graph, axes: AxisMap, data: Data, widths: dict[str, Width], prices: Prices
) -> None:
    """Two widths of one network, priced together, against one candidate that is both."""
    name = next(name for name, width in widths.items() if width.size == 12)
    both = prices.effects[name, 4] + prices.effects[name, 4]
    assert float(both @ both) == pytest.approx(4 * prices.of((name, 4)))
    assert len(prices.units) == len(prices.effects[name, 4]) and set(prices.units) == set(range(INPUTS))


def test_the_error_is_that_of_the_mean(prices: Prices) -> None:
    for key in list(prices.effects)[::7]:
        squares = np.square(prices.effects[key]) * len(prices.units)
        assert prices.error(key) == pytest.approx(squares.std(ddof=1) / np.sqrt(len(squares)))


def test_samples_that_cannot_be_told_apart_are_priced_by_the_call(
    graph: Graph, axes: AxisMap, data: Data, widths: dict[str, Width]
) -> None:
    """Probes of different samples are independent, so the price is the same but for chance."""
    found = inputs(graph, axes, data, widths, [])
    candidates = {name: (width.size, width.size // 2) for name, width in widths.items()}
    apart, joined = (
        price(graph, widths, candidates, [], replace(found, lead=lead), probes=300) for lead in (True, False)
    )
    assert len(joined.units) < len(apart.units)
    for key in apart.effects:
        assert joined.of(key) == pytest.approx(apart.of(key), rel=0.25)


def test_a_map_of_another_shape_is_left_unpriced(
    graph: Graph, axes: AxisMap, data: Data, widths: dict[str, Width], fits: list[SpanFit]
) -> None:
    fit = next(fit for fit in fits if fit.collapse.map == "linear")
    assert fit.weight is not None and fit.bias is not None
    bad = replace(
        fit,
        weight=fit.weight[:-1],
        bias=fit.bias[:-1],
        collapse=Collapse(fit.collapse.span, "linear", (), "moments"),
    )
    found = price(graph, {}, {}, [fit, bad], inputs(graph, axes, data, {}, [fit, bad]))
    assert fit.collapse.name in found.effects
    assert "is wanted" in found.unpriced[bad.collapse.name]
    assert len(found.remarks) == 1 and "1 candidates cannot be priced" in found.remarks[0].message
