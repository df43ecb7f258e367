"""Nodes that have no torch form run in ONNX Runtime: subgraphs, recurrent nets, functions, strings."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.onnx.emitter import emit_model
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.onnx.make_node import make_node
from otgraph.graph.onnx.opaque import OrtOp
from otgraph.graph.onnx.ops.activation import Relu

RNG = np.random.default_rng(1)


def parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def run_ort(model: onnx.ModelProto, graph: Graph) -> list[np.ndarray]:
    feed = {port.name: x.numpy() for port, x in zip(graph.signature.inputs, graph.example, strict=True)}
    return ort.InferenceSession(model.SerializeToString()).run(None, feed)


def agree(model: onnx.ModelProto, graph: Graph, atol: float = 1e-6) -> None:
    for mine, theirs in zip(graph(*graph.example), run_ort(model, graph), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-6, atol=atol)


def opaque_types(graph: Graph) -> list[str]:
    return [op_name(node) for node in graph.module.graph.nodes if node.op == "call_module"]


def branch_model() -> onnx.ModelProto:
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        branch (float[2, 3] x, bool[1] flag) => (float[2, 3] z)
        <float[3] w = {1.0, 2.0, 3.0}> {
            scaled = Mul(x, w)
            [choose] y = If (flag) <
                then_branch = yes () => (float[2, 3] a) { a = Add(scaled, w) },
                else_branch = no () => (float[2, 3] b) { half = Sub(scaled, x)  b = Mul(half, half) }
            >
            z = Relu(y)
        }"""
    )


def test_if_reads_outer_values_as_arguments() -> None:
    model = branch_model()
    graph = import_model(model)
    assert opaque_types(graph) == ["onnx.If"]
    call = next(node for node in graph.module.graph.nodes if node.op == "call_module")
    assert [argument.name for argument in call.args] == ["flag", "scaled", "w", "x"]
    for flag in (False, True):
        agree(model, graph.with_example((torch.randn(2, 3), torch.tensor([flag]))))
    assert emit_model(graph) == model


def test_renamed_outer_values_are_renamed_inside_the_branches() -> None:
    model = branch_model()
    graph = import_model(model)
    mul = next(node for node in graph.module.graph.nodes if op_name(node) == "onnx.Mul")
    with graph.module.graph.inserting_after(mul):
        relu = make_node(graph, Relu, (mul,), name="extra")
    mul.replace_all_uses_with(relu, delete_user_cb=lambda user: user is not relu)
    graph.module.recompile()
    emitted = emit_model(graph)
    onnx.checker.check_model(emitted)
    for flag in (False, True):
        agree(emitted, graph.with_example((torch.randn(2, 3), torch.tensor([flag]))))
    inner = emitted.graph.node[2].attribute[0].g.node[0]
    assert inner.input[0] == "extra" and model.graph.node[1].attribute[0].g.node[0].input[0] == "scaled"


def test_loop_carries_values_and_stacks_results() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        loop (float[2] x) => (float[2] last, float[n, 2] all)
        <int64 count = {3}, float[2] step = {0.5, 1.0}> {
            last, all = Loop (count, , x) <
                body = body (int64 i, bool c, float[2] v) => (bool keep, float[2] next, float[2] out)
                { keep = Identity(c)  next = Add(v, step)  out = Mul(next, next) }
            >
        }"""
    )
    graph = import_model(model)
    assert opaque_types(graph) == ["onnx.Loop"]
    agree(model, graph)
    assert emit_model(graph) == model


@pytest.mark.parametrize(("options", "opaque"), [({}, []), ({"clip": 0.2}, ["onnx.LSTM"])])
def test_lstm_returns_all_its_outputs(options: dict[str, float], opaque: list[str]) -> None:
    weights = {
        "w": RNG.standard_normal((1, 12, 4)).astype(np.float32),
        "r": RNG.standard_normal((1, 12, 3)).astype(np.float32),
    }
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y", "", "c"], hidden_size=3, **options)
    model = one_graph([node], [("x", [5, 2, 4])], ["c", "y"], weights)
    graph = import_model(model)
    assert opaque_types(graph) == opaque
    agree(model, graph)
    assert emit_model(graph) == model


def test_model_local_functions_stay_functions() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        main (float[2, 3] x) => (float[2, 3] y) { h = local.twice <k: float = 3.0> (x)  y = Relu(h) }
        <domain: "local", opset_import: ["" : 17]>
        twice <k> (a) => (b) { c = Constant <value_float: float = @k> ()  b = Mul(a, c) }"""
    )
    graph = import_model(model)
    assert opaque_types(graph) == ["local.twice"]
    agree(model, graph)
    emitted = emit_model(graph)
    assert emitted == model and emitted.functions


def test_strings_pass_between_opaque_nodes() -> None:
    keys = {"keys_int64s": [0, 1], "values_strings": ["no", "yes"], "default_string": "?"}
    back = {"keys_strings": ["no", "yes"], "values_floats": [0.25, 0.75], "default_float": -1.0}
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("LabelEncoder", ["i"], ["s"], domain="ai.onnx.ml", **keys),
        helper.make_node("LabelEncoder", ["s"], ["y"], domain="ai.onnx.ml", **back),
    ]
    model = one_graph(nodes, [("x", [2])], ["y"], {})
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    graph = import_model(model).with_example((torch.tensor([1.0, 7.0]),))
    assert opaque_types(graph) == ["ai.onnx.ml.LabelEncoder"] * 2
    agree(model, graph)
    assert emit_model(graph) == model


def test_stored_tensors_that_torch_cannot_hold_go_into_the_node() -> None:
    strings = helper.make_tensor("names", TensorProto.STRING, [2], [b"a", b"b"])
    nodes = [
        helper.make_node("Gather", ["names", "index"], ["picked"]),
        helper.make_node("Equal", ["picked", "names"], ["same"]),
        helper.make_node("Cast", ["same"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    model = one_graph(nodes, [("x", [2])], ["y"], {"index": np.array([1, 1])}, opset=19)
    model.graph.initializer.append(strings)
    graph = import_model(model)
    assert opaque_types(graph) == ["onnx.Gather", "onnx.Equal"]
    agree(model, graph)
    assert emit_model(graph) == model


def test_attributes_without_a_torch_form_make_a_node_opaque_at_import() -> None:
    x = RNG.standard_normal((1, 1, 8, 8)).astype(np.float32)
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])
    model = one_graph([node], [("x", list(x.shape))], ["y"], {}, opset=19)
    graph = import_model(model)
    assert opaque_types(graph) == ["onnx.AveragePool"]
    assert [str(r) for r in graph.remarks] == [
        "analysis: import: y: AveragePool runs in ONNX Runtime: dilated average pooling"
    ]
    agree(model, graph)
    assert emit_model(graph) == model


def test_sessions_are_not_copied_and_give_no_gradient() -> None:
    model = branch_model()
    graph = import_model(model)
    module = next(m for m in graph.module.modules() if isinstance(m, OrtOp))
    assert module._session is not None
    twin = next(m for m in copy.deepcopy(graph.module).modules() if isinstance(m, OrtOp))
    assert twin._session is None
    agree(model, graph.copy().with_example((torch.randn(2, 3), torch.tensor([True]))))
    x = torch.randn(2, 3, requires_grad=True)
    assert not graph.module(x, torch.tensor([True]))[0].requires_grad


def test_an_operator_nobody_knows_is_an_error() -> None:
    model = one_graph([helper.make_node("Frobnicate", ["x"], ["y"], domain="acme")], [("x", [2])], ["y"], {})
    model.opset_import.append(helper.make_opsetid("acme", 1))
    text = (
        r"the node that makes 'y': acme\.Frobnicate has no torch form and ONNX Runtime cannot run it \(.*\)"
    )
    with pytest.raises(ModelError, match=text):
        import_model(model)


def one_graph(
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, list[int]]],
    outputs: list[str],
    weights: dict[str, np.ndarray],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
