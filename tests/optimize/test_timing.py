"""Times of nodes as polynomials in the widths; the kernels of a graph; when a budget counts as missed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.analysis import analyse
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.latency.kernels import Kernel, KernelTime
from otgraph.latency.model import OVERHEAD
from otgraph.optimize import run, timing
from otgraph.optimize.settings import Settings
from otgraph.optimize.timing import kernel_of, time_terms
from otgraph.plan.budget import Budget
from otgraph.plan.terms import evaluate

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
    return analyse(graph)


def test_every_node_is_seen_as_the_kernel_it_is(graph: Graph, axes: AxisMap) -> None:
    first, depthwise, pointwise, grouped, linear = (kernel_of(graph, axes, v) for v in affine_nodes(graph))
    assert first == Kernel("conv", 3, 16, (8, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    assert depthwise == Kernel("depthwise", 16, 16, (4, 4), (3, 3), (1, 1), (1, 0, 1, 0), (1, 1))
    assert pointwise == Kernel("conv", 16, 24, (4, 2), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    assert grouped is None
    assert linear == Kernel("linear", 192, 5, (1,))


def terms(graph: Graph, axes: AxisMap, monkeypatch: pytest.MonkeyPatch) -> Any:
    times = {
        "conv": KernelTime(0.1, 1e-3, 2e-3, 3e-3),
        "depthwise": KernelTime(0.2, 0.0, 0.0, 1e-2),
        "linear": KernelTime(0.05, 1e-4, 0.0, 0.0),
    }
    monkeypatch.setattr(timing, "time_kernels", lambda _, known, **__: {k: times[k.kind] for k in known})
    return time_terms(graph, axes, SimpleNamespace(), WHOLE, Settings(Budget("ratio", 0.5)))  # type: ignore[arg-type]


def test_the_whole_is_what_was_measured(graph: Graph, axes: AxisMap, monkeypatch: pytest.MonkeyPatch) -> None:
    found = terms(graph, axes, monkeypatch)
    full = {dim.name: dim.size for dim in axes.prunable()}
    assert evaluate(found, full) == pytest.approx(WHOLE)


def test_a_cut_saves_what_its_nodes_and_elements_take(
    graph: Graph, axes: AxisMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = terms(graph, axes, monkeypatch)
    full = {dim.name: dim.size for dim in axes.prunable()}
    name = next(d.name for d in axes.prunable() if any(p.tensor == "0.weight" for p in d.ports))
    saved = evaluate(found, full) - evaluate(found, {**full, name: 8})
    nodes = 8 * (3 * 1e-3 + 3e-3) + 8 * 1e-2 + 8 * (24 * 1e-3 + 2e-3)
    assert saved > nodes  # the element-wise node after it makes less, too
    assert evaluate(found, dict.fromkeys(full, 1)) > WHOLE * OVERHEAD


# a budget that was missed


def audited(ratio: float, low: float, high: float, drift: float = 0.0) -> Any:
    latency = SimpleNamespace(a_ms=10.0, ratio=ratio, low=low, high=high)
    return SimpleNamespace(latency=latency, fidelity=SimpleNamespace(drift=drift, drift_name="KL"))


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
