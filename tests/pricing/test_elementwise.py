"""What is fused into a convolution, and what the nodes that are no convolutions get of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph, op_name
from otgraph.pricing.elementwise import MS_PER_ELEMENT, element_times, fused_activations

REST = 8e-4


class Block(nn.Module):
    """Residual, with a batch norm; then a sigmoid that is read twice, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 4, 3, padding=1, bias=False)
        self.gate = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.clamp(x + self.second(torch.relu(self.norm(self.first(x)))), 0, 6)
        y = self.gate(x)
        y = y * torch.sigmoid(y)
        return torch.relu(self.head(y.mean((2, 3))))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(Block().eval(), (torch.randn(2, 4, 6, 6),))


def names(graph: Graph, op: str) -> list[str]:
    return [node.name for node in graph.module.graph.nodes if op_name(node) == op]


def test_activations_are_fused_where_nothing_else_reads_the_convolution(graph: Graph) -> None:
    first, second, _ = names(graph, "aten.conv2d")
    assert fused_activations(graph) == {first: "Relu", second: "Clip"}  # not the sigmoid, nor the linear's


def test_each_node_has_a_time_by_its_elements(graph: Graph) -> None:
    axes = analyze(graph)
    dims = {dim.name for dim in axes.prunable()}
    full = {dim.name: dim.size for dim in axes.prunable()}
    found = {time.node: time for time in element_times(graph, axes, REST, dims)}
    assert not {*names(graph, "aten.conv2d"), *names(graph, "aten.linear")} & found.keys()
    relu, head = names(graph, "aten.relu")
    (add,), (norm,), (sigmoid,) = (names(graph, f"aten.{op}") for op in ("add", "batch_norm", "sigmoid"))
    assert found[add].at(full) == pytest.approx(MS_PER_ELEMENT[0] * 4 * 36)
    assert found[relu].at(full) == found[norm].at(full) == 0  # the convolution's time holds them
    each = found[sigmoid].at(full) / (8 * 36)
    assert found[head].at(full) == pytest.approx(each * 3)
    assert MS_PER_ELEMENT[0] < each < MS_PER_ELEMENT[1]
    assert sum(time.at(full) for time in found.values()) == pytest.approx(REST)


def test_an_element_wise_node_shrinks_with_its_dims(graph: Graph) -> None:
    axes = analyze(graph)
    full = {dim.name: dim.size for dim in axes.dims.values()}
    (sigmoid,) = names(graph, "aten.sigmoid")
    (inner,) = {name for axis in axes.values[sigmoid][0] for name in axis.dims()} & {"gate"}
    found = {time.node: time for time in element_times(graph, axes, REST, {inner})}
    assert found[sigmoid].at({inner: 2}) == pytest.approx(found[sigmoid].at(full) / 4)


def test_the_rest_is_shared_as_far_as_memory_traffic_explains_it(graph: Graph) -> None:
    axes = analyze(graph)

    def whole(rest: float) -> float:
        return sum(time.at({}) for time in element_times(graph, axes, rest, set()))

    least, most = whole(-1.0), whole(100.0)
    added = MS_PER_ELEMENT[0] * 4 * 36
    assert (most - added) / (least - added) == pytest.approx(MS_PER_ELEMENT[1] / MS_PER_ELEMENT[0])
    assert whole((least + most) / 2) == pytest.approx((least + most) / 2)
