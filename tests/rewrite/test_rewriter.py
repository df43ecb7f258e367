"""The rewriter: what counts as an edit, and what finish leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.notes import Note
from otgraph.rewrite.rewriter import Rewriter


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    return capture(net, (torch.randn(2, 4),))


def node(graph: Graph, name: str):
    return next(n for n in graph.module.graph.nodes if n.name == name)


def test_set_tensor_changes_shape_and_keeps_kind_and_dtype(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    rewriter.set_tensor("0.weight", torch.zeros(5, 4, dtype=torch.float64))
    rewriter.set_tensor("3.running_mean", torch.ones(2))
    assert rewriter.edits == 2
    weight, mean = rewriter.graph.tensor("0.weight"), rewriter.graph.tensor("3.running_mean")
    assert isinstance(weight, nn.Parameter) and weight.shape == (5, 4) and weight.dtype == torch.float32
    assert not isinstance(mean, nn.Parameter)
    assert "3.running_mean" in dict(rewriter.graph.module.named_buffers())
    assert graph.tensor("0.weight").shape == (3, 4)


def test_set_tensor_stores_a_copy(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    value = torch.zeros(3, 4)
    rewriter.set_tensor("0.weight", value)
    value.fill_(7)
    assert (rewriter.graph.tensor("0.weight") == 0).all()


def test_added_tensor_gets_a_free_name_and_runs(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    bias = rewriter.add_tensor("2.bias", torch.tensor([1.0, 2.0]))
    taken = rewriter.add_tensor("2.weight", torch.zeros(1))
    nested = rewriter.add_tensor("new.deep.mask", torch.tensor([True]))
    assert [bias.target, taken.target, nested.target] == ["2.bias", "2.weight_1", "new.deep.mask"]
    rewriter.set_argument(node(rewriter.graph, "linear_1"), 2, bias)
    result = rewriter.finish()
    assert "2.bias" in result.tensors()
    assert "2.weight_1" not in dict(result.module.named_parameters())  # nothing reads it, so it is gone
    assert not hasattr(result.module, "new")
    expected = graph.copy()
    expected.tensor("3.running_mean").sub_(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(result(*graph.example), expected(*graph.example))


def test_replace_erase_and_finish_drop_what_nothing_reads(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    norm = node(rewriter.graph, "batch_norm_default")
    with pytest.raises(ValueError, match=r"batch_norm_default: cannot be erased, output still uses it"):
        rewriter.erase(norm)
    rewriter.replace(norm, norm.args[0])
    rewriter.erase(norm)
    result = rewriter.finish()
    assert rewriter.edits == 2
    assert not any(name.startswith("3.") for name in result.tensors())
    assert not [name for name, _ in result.module.named_buffers()]
    assert len([name for name, _ in graph.module.named_buffers()]) == 2


def test_an_inserted_node_gets_the_name_that_is_wanted_or_one_like_it(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    relu = node(rewriter.graph, "relu")
    first, second = (
        rewriter.insert_after(relu, torch.ops.aten.neg.default, (relu,), name="mine") for _ in range(2)
    )
    plain = rewriter.insert_after(relu, torch.ops.aten.neg.default, (relu,))
    assert (first.name, second.name, plain.name) == ("mine", "mine_1", "neg_default")


def test_inputs_cannot_be_erased(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    source = next(n for n in rewriter.graph.module.graph.nodes if n.op == "placeholder")
    relu = node(rewriter.graph, "relu")
    rewriter.set_argument(node(rewriter.graph, "linear"), 0, relu)
    with pytest.raises(ValueError, match="the signature still uses it"):
        rewriter.erase(source)


def test_inserted_node_keeps_arguments_and_metadata(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    relu = node(rewriter.graph, "relu")
    neg = rewriter.insert_after(relu, torch.ops.aten.neg.default, (relu,), meta={"note": 1})
    rewriter.replace(relu, neg)
    assert neg.args == (relu,)  # replacing spares the new node's own use
    assert neg.meta == {"note": 1}
    result = rewriter.finish()
    assert not torch.equal(result(*graph.example)[0], graph(*graph.example)[0])


def test_annotations_are_no_edits_and_stay_off_the_original(graph: Graph) -> None:
    first = Rewriter(graph.copy())
    first.annotate(node(first.graph, "relu"), Note[int]("width"), 3)
    second = Rewriter(first.finish().copy())
    second.annotate(node(second.graph, "relu"), Note[int]("depth"), 4)
    assert first.edits == second.edits == 0
    assert "otgraph" not in node(graph, "relu").meta
    assert node(first.graph, "relu").meta["otgraph"] == {"width": 3}
    assert node(second.graph, "relu").meta["otgraph"] == {"width": 3, "depth": 4}


def test_remarks_carry_the_source(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy(), "some-pass")
    rewriter.remark("missed", "conv1", "is shared", users=2)
    assert str(rewriter.remarks[0]) == "missed: some-pass: conv1: is shared users=2"


def test_recorded_cuts_are_copied(graph: Graph) -> None:
    rewriter = Rewriter(graph.copy())
    keep = {"d": np.array([True, False])}
    rewriter.record_cut(keep, AxisMap({}, {}, {}))
    keep.clear()
    assert list(rewriter.cuts[0].keep) == ["d"]
