"""Times of nodes as tables over the widths; the kernels of a graph; when a budget counts as missed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from otgraph.allocate.cost import TimeTable, TimeTerm, evaluate
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.expression import Atom, Concatenation, Expression
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.latency.kernel import Kernel
from otgraph.latency.kernel_table import KernelTable
from otgraph.latency.kernels import Grid
from otgraph.optimize import run
from otgraph.plan.budget import Budget
from otgraph.pricing import timing
from otgraph.pricing.timed_node import Candidates, TimedNode, timed_nodes
from otgraph.pricing.timing import OVERHEAD, TimingOptions, affine_times, node_times
from otgraph.pricing.widths import candidate_widths
from otgraph.window import Window

WHOLE = 10.0


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, groups=16, padding=(1, 0)), nn.Conv2d(16, 24, 1, dilation=1), nn.ReLU()),
        *(nn.Conv2d(24, 24, 1, groups=2), nn.Flatten(), nn.Linear(24 * 4 * 2, 5)),
    )
    return capture(net.eval(), (torch.randn(2, 3, 8, 8),))


@pytest.fixture(scope="module")
def axes(graph: Graph) -> AxisMap:
    return analyze(graph)


def kernels(graph: Graph, axes: AxisMap) -> list[Kernel]:
    return [node.kernel for node in timed_nodes(graph, axes)]


def test_every_node_is_seen_as_the_kernel_it_is(graph: Graph, axes: AxisMap) -> None:
    first, depthwise, pointwise, grouped, linear = kernels(graph, axes)
    ones, none = (1, 1), ((0, 0), (0, 0))
    strided = Window(3, 16, 1, (3, 3), (2, 2), ((1, 1), (1, 1)), ones)
    assert first == Kernel("conv", strided, (8, 8), "Relu")
    uneven = Window(16, 16, 16, (3, 3), ones, ((1, 1), (0, 0)), ones)
    assert depthwise == Kernel("depthwise", uneven, (4, 4)) and depthwise.groups == 1
    assert pointwise == Kernel("conv", Window(16, 24, 1, ones, ones, none, ones), (4, 2), "Relu")
    assert grouped == Kernel("conv", Window(24, 24, 2, ones, ones, none, ones), (4, 2))
    assert linear == Kernel("linear", Window(192, 5, 1), (1,))


def steps(kernel: Kernel, inputs: int, outputs: int) -> float:
    """An engine that computes blocks of 16 channels, in milliseconds."""
    return 0.01 + 0.02 * -(-inputs // 16) * -(-outputs // 16) * (2 if kernel.kind == "conv" else 1)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> dict[Kernel, Grid]:
    """The grids that were asked for, of an engine that obeys ``steps`` and cannot run the unrunnable."""
    asked: dict[Kernel, Grid] = {}

    def timed(_: Any, grids: dict[Kernel, Grid], **__: Any) -> dict[Kernel, KernelTable]:
        asked.update(grids)
        return {
            kernel: KernelTable.of({point: steps(kernel, *point) for point in grid.points(kernel)})
            for kernel, grid in grids.items()
            if kernel != UNRUNNABLE
        }

    monkeypatch.setattr(timing, "time_kernels", timed)
    return asked


def candidates(axes: AxisMap) -> dict[str, tuple[int, ...]]:
    return {dim.name: candidate_widths(dim.size, 8) for dim in axes.prunable()}


def by_node(graph: Graph, axes: AxisMap, whole: float = WHOLE) -> tuple[dict[str, TimeTerm], float]:
    nodes, rest = node_times(graph, axes, ENGINE, whole, OPTIONS, candidates(axes))
    return {node.node: node for node in nodes}, evaluate(rest, {})


def dim_of(axes: AxisMap, tensor: str) -> str:
    return next(d.name for d in axes.prunable() if any((p.tensor, p.axis) == (tensor, 0) for p in d.ports))


@pytest.fixture(scope="module")
def plain() -> Graph:
    """The same without groups."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, groups=16, padding=(1, 0)), nn.Conv2d(16, 24, 1, dilation=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24 * 4 * 2, 5)),
    )
    return capture(net.eval(), (torch.randn(2, 3, 8, 8),))


def test_tables_hold_what_was_measured(plain: Graph, wanted: dict[Kernel, Grid]) -> None:
    axes = analyze(plain)
    found, _ = by_node(plain, axes)
    nodes = timed_nodes(plain, axes)
    first, depthwise, pointwise, linear = (found[node.name] for node in nodes)
    name, second = dim_of(axes, "0.weight"), dim_of(axes, "3.weight")
    assert first.table == TimeTable((name,), {(w,): steps(nodes[0].kernel, 3, w) for w in (16, 8)})
    assert depthwise.table is not None
    assert depthwise.table.dims == (name,)
    assert depthwise.at({name: 8}) == pytest.approx(steps(nodes[1].kernel, 8, 8))
    assert pointwise.table is not None
    assert pointwise.table.dims == (name, second)
    assert set(pointwise.table.values) == {(i, o) for i in (16, 8) for o in (24, 16, 8)}
    assert pointwise.at({name: 16, second: 24}) > pointwise.at({name: 16, second: 16})
    assert pointwise.at({name: 16, second: 16}) == pointwise.at({name: 8, second: 8})
    assert wanted[nodes[0].kernel] == Grid(frozenset([3]), frozenset([8, 16]))
    values = {(w,): steps(nodes[3].kernel, 8 * w, 5) for w in (24, 16, 8)}
    assert linear.table == TimeTable((second,), values)  # eight positions of each channel, flattened


def test_a_grouped_node_goes_with_its_macs(graph: Graph, axes: AxisMap, wanted: dict[Kernel, Grid]) -> None:
    found, _ = by_node(graph, axes)
    node = timed_nodes(graph, axes)[3]
    full = {dim.name: dim.size for dim in axes.prunable()}
    assert found[node.name].table is None
    assert found[node.name].at(full) == pytest.approx(steps(node.kernel, 24, 24))
    assert wanted[node.kernel].points(node.kernel) == [(24, 24)]


CONV = Kernel.of(Window(32, 24, 1, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), (7, 7))
UNRUNNABLE = Kernel.of(Window(8, 8, 1, (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)), (3, 3))
ENGINE: Any = SimpleNamespace()
OPTIONS = TimingOptions()


def kernel_time(
    name: str, kernel: Kernel, reads: Expression, makes: Expression, widths: Candidates
) -> TimeTerm | None:
    return affine_times([TimedNode(name, kernel, reads, makes)], ENGINE, OPTIONS, widths).get(name)


A, B, C = Atom("a", 32), Atom("b", 24), Atom("c", 8)
WIDTHS = {"a": (32, 16), "b": (24, 16, 8), "c": (8, 4)}


def test_a_new_node_between_two_dims_has_a_table(wanted: dict[Kernel, Grid]) -> None:
    time = kernel_time("new", CONV, A, B, WIDTHS)
    assert time is not None
    values = {(i, o): steps(CONV, i, o) for i in WIDTHS["a"] for o in WIDTHS["b"]}
    assert time == TimeTerm("new", table=TimeTable(("a", "b"), values))
    assert kernel_time("new", UNRUNNABLE, A, B, WIDTHS) is None


def test_one_dim_on_both_sides_gives_a_table_over_it(wanted: dict[Kernel, Grid]) -> None:
    kernel = CONV.at(32, 32)
    time = kernel_time("new", kernel, A, A, WIDTHS)
    assert time == TimeTerm("new", table=TimeTable(("a",), {(w,): steps(kernel, w, w) for w in (32, 16)}))


def test_dims_without_candidates_are_constant(wanted: dict[Kernel, Grid]) -> None:
    time = kernel_time("new", CONV, A, B, {"b": (24, 8)})
    assert time == TimeTerm("new", table=TimeTable(("b",), {(w,): steps(CONV, 32, w) for w in (24, 8)}))
    time = kernel_time("new", CONV, A, B, {})
    assert time is not None
    assert time.at({}) == pytest.approx(steps(CONV, 32, 24))


def test_two_dims_end_to_end_have_a_table_and_three_dims_terms(wanted: dict[Kernel, Grid]) -> None:
    kernel = CONV.at(40, 24)
    both = Concatenation((A, C))
    time = kernel_time("new", kernel, both, Atom(None, 24), WIDTHS)
    assert time is not None
    assert time.table is not None
    assert time.table.dims == ("a", "c")
    assert time.at({"a": 16, "c": 8}) == pytest.approx(steps(kernel, 24, 24))
    assert wanted[kernel].inputs == {40, 36, 24, 20}
    three = kernel_time("three", kernel, both, B, WIDTHS)
    assert three is not None
    assert three.table is None
    assert {dim for term in three.terms for dim in term.dims} == {"a", "b", "c"}
    assert wanted[kernel] == Grid(frozenset([40, 32, 16, 8]), frozenset([24, 16, 8]))  # quarters


def test_nodes_of_the_same_kernel_share_a_grid(wanted: dict[Kernel, Grid]) -> None:
    nodes = [TimedNode("x", CONV, A, B), TimedNode("y", CONV, Atom(None, 32), Atom("d", 24))]
    found = affine_times(nodes, ENGINE, OPTIONS, {**WIDTHS, "d": (24, 12)})
    assert list(found) == ["x", "y"]
    assert wanted == {CONV: Grid(frozenset([32, 16]), frozenset([24, 16, 12, 8]))}


def test_what_no_node_saves_is_a_share_of_the_sum(
    graph: Graph, axes: AxisMap, wanted: dict[Kernel, Grid]
) -> None:
    full = {dim.name: dim.size for dim in axes.prunable()}
    found, rest = by_node(graph, axes)
    affine = {node.name for node in timed_nodes(graph, axes)}
    total = sum(time.at(full) for time in found.values()) + rest
    assert rest == pytest.approx(total * OVERHEAD)
    others = sum(time.at(full) for name, time in found.items() if name not in affine)
    assert others == 0  # batch norms and activations after a convolution are a part of its time
    assert found.keys() > affine


# a budget that was missed


def audited(ratio: float, low: float, high: float, drift: float = 0.0) -> Any:
    latency = SimpleNamespace(a_ms=10.0, ratio=ratio, low=low, high=high)
    fidelity = SimpleNamespace(drift=drift, drift_name="KL", drift_interval=None)
    side = SimpleNamespace(structure=SimpleNamespace(compute_depth=10))
    return SimpleNamespace(latency=latency, fidelity=fidelity, a=side, b=side)


@pytest.mark.parametrize(
    ("budget", "found", "said"),
    [
        (Budget("ratio", 0.6), audited(0.62, 0.61, 0.63), None),
        (Budget("ratio", 0.6), audited(0.66, 0.62, 0.70), None),
        (
            Budget("ratio", 0.6),
            audited(0.7, 0.68, 0.72),
            "latency 0.6x was asked for, 0.700x [0.680, 0.720] measured",
        ),
        (
            Budget("time", 6.0),
            audited(0.7, 0.68, 0.72),
            "latency 6ms was asked for, 0.700x [0.680, 0.720] measured",
        ),
        (Budget("damage", 0.01), audited(0.7, 0.6, 0.8, 0.009), None),
        (
            Budget("damage", 0.01),
            audited(0.7, 0.6, 0.8, 0.02),
            "max-drop 0.01 was asked for, KL 0.02 measured",
        ),
        (Budget("keep", 0.5), audited(2.0, 1.9, 2.1, 9.0), None),
    ],
)
def test_when_a_budget_counts_as_missed(budget: Budget, found: Any, said: str | None) -> None:
    assert run._missed(SimpleNamespace(budget=budget), found) == said  # type: ignore[arg-type]
