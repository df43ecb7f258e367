"""``cleanup``: what is provably nothing goes, bit for bit; what only looks like nothing stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph, Port, Signature, op_name
from otgraph.rewrite.manager import PassManager, Result
from passes.cleanup import Cleanup

aten = torch.ops.aten


def clean(graph: Graph) -> Result:
    return PassManager([Cleanup()]).run(graph)


def ops(graph: Graph) -> list[str]:
    return [op_name(node) for node in graph.module.graph.nodes if node.op == "call_function"]


def chain(shape: tuple[int, ...], *calls: tuple) -> Graph:
    """A graph that applies the calls (operator, further arguments …) one after the other."""
    program = fx.Graph()
    value = program.placeholder("x")
    for operator, *args in calls:
        value = program.call_function(operator, (value, *args))
    program.output((value,))
    module = fx.GraphModule(nn.Module(), program)
    x = torch.randn(*shape)
    signature = Signature(
        (Port("x", x.dtype, ("batch", *shape[1:])),),
        (Port("y", x.dtype, ("batch", *module(x)[0].shape[1:])),),
    )
    return Graph(module, signature, "aten", (x,))


def test_what_does_nothing_goes() -> None:
    graph = chain(
        (2, 6),
        (aten.dropout.default, 0.5, False),
        (aten.alias.default,),
        (aten.relu.default,),
        (aten.to.dtype, torch.float32),
        (aten.constant_pad_nd.default, [0, 0]),
        (aten.detach.default,),
    )
    assert ops(clean(graph).graph) == ["aten.relu"]


def test_what_does_something_stays() -> None:
    graph = chain(
        (2, 6),
        (aten.to.dtype, torch.float64),
        (aten.constant_pad_nd.default, [0, 1]),
        (aten.permute.default, [1, 0]),
        (aten.relu.default,),
        (aten.reshape.default, [2, 7]),
    )
    result = clean(graph)
    assert ops(result.graph) == ops(graph)
    assert result.records[0].edits == 0


def test_a_reshape_goes_only_where_its_sizes_are_proved() -> None:
    """[6, 2] of an input of any batch looks like nothing for a batch of 6; for 3 it is an error."""

    def left(sizes: list[int], shape: tuple[int | str, ...]) -> list[str]:
        graph = chain((6, 2), (aten.view.default, sizes), (aten.relu.default,))
        signature = Signature((Port("x", torch.float32, shape),), graph.signature.outputs)
        return ops(clean(Graph(graph.module, signature, "aten", graph.example)).graph)

    assert left([-1, 2], ("batch", 2)) == ["aten.relu"]  # the size that is left follows from the elements
    assert left([6, 2], ("batch", 2)) == ["aten.relu"]
    assert left([6, 2], ("batch", "width")) == ["aten.view", "aten.relu"]
    assert left([6, -1], ("batch", "width")) == ["aten.view", "aten.relu"]
    assert left([2, 6], (6, 2)) == ["aten.view", "aten.relu"]


@pytest.mark.parametrize(
    ("calls", "left"),
    [
        ([(aten.relu.default,), (aten.relu.default,)], ["aten.relu"]),
        ([(aten.relu6.default,), (aten.relu.default,)], ["aten.relu6"]),
        ([(aten.relu.default,), (aten.relu6.default,)], ["aten.relu6"]),
        ([(aten.clamp.default, -1.0, 2.0), (aten.hardtanh.default,)], ["aten.hardtanh"]),
        ([(aten.clamp.default, 0.5), (aten.relu.default,), (aten.relu_.default,)], ["aten.clamp"]),
        ([(aten.relu.default,), (aten.clamp.default, -1.0, 2.0)], ["aten.relu", "aten.clamp"]),
        ([(aten.relu.default,), (aten.clamp.default, 3.0, 2.0)], ["aten.relu", "aten.clamp"]),
        ([(aten.relu.default,), (aten.neg.default,)], ["aten.relu", "aten.neg"]),
    ],
)  # fmt: skip
def test_bounds_that_cut_off_nothing_go(calls: list[tuple], left: list[str]) -> None:
    graph = chain((4, 6), *calls)
    result = clean(graph)
    assert ops(result.graph) == left
    x = torch.randn(9, 6) * 5
    assert torch.equal(result.graph(x)[0], graph(x)[0])


def test_a_relu_that_others_read_stays() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = x.relu()
            return y.clamp(0, 1) + 1, y.relu() - 1

    assert ops(clean(capture(Net(), (torch.randn(2, 3),))).graph) == [
        *("aten.relu", "aten.clamp", "aten.add", "aten.sub")
    ]


def test_dead_nodes_and_unused_weights_go() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    graph = capture(net, (torch.randn(2, 3),)).copy()
    program = graph.module.graph
    output = next(node for node in program.nodes if node.op == "output")
    output.args = ((next(node for node in program.nodes if node.name == "relu"),),)
    graph.module.recompile()
    result = clean(graph)
    assert list(result.graph.tensors()) == ["0.weight", "0.bias"]
    assert "2.weight" not in dict(result.graph.module.named_parameters())
    assert "dead nodes removed" in str(result.remarks[-2]) and "unused weights" in str(result.remarks[-1])


def test_weights_alone_can_be_unused() -> None:
    graph = capture(nn.ReLU(), (torch.randn(2, 3),)).copy()
    graph.module.register_buffer("left_over", torch.ones(3))
    result = clean(graph)
    assert result.records[0].edits == 1
    assert not dict(result.graph.module.named_buffers())


@given(st.lists(st.permutations([0, 1, 2, 3]), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_chains_of_transpositions(orders: list[list[int]]) -> None:
    graph = chain((2, 3, 4, 5), *((aten.permute.default, order) for order in orders), (aten.relu.default,))
    result = clean(graph)
    total = torch.arange(4)
    for order in orders:
        total = total[order]
    identity = total.tolist() == [0, 1, 2, 3]
    assert ops(result.graph) == (["aten.relu"] if identity else ["aten.permute", "aten.relu"])
    assert torch.equal(result.graph(*graph.example)[0], graph(*graph.example)[0])


def test_a_transposition_that_others_read_is_not_joined() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = x.permute(0, 2, 3, 1)
            return y + 1, y.permute(0, 1, 3, 2) + 1

    graph = capture(Net(), (torch.randn(2, 3, 4, 5),))
    assert ops(clean(graph).graph).count("aten.permute") == 2
