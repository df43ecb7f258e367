"""What a rewrite changed is written, what it left alone comes back as it was."""

from __future__ import annotations

import operator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import fx

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.onnx.emitter import emit_model
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.onnx.make_node import make_node
from otgraph.graph.onnx.ops.activation import Clip, Gelu, Relu
from otgraph.graph.onnx.ops.arithmetic import Add, Mul
from otgraph.graph.onnx.ops.convolution import Conv
from otgraph.graph.onnx.ops.indexing import TopK
from otgraph.graph.onnx.ops.reduce import ReduceMean
from otgraph.graph.onnx.ops.shape import Concat, Identity, Reshape, Split
from otgraph.graph.onnx.ops.table import meaning_of

RNG = np.random.default_rng(2)


def conv_net(opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """conv → batch norm → relu → mean → gemm, with everything a file may carry beside its nodes."""
    f32 = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in _SHAPES.items()}
    f32["bn.var"] = np.abs(f32["bn.var"]) + 0.5
    nodes = [
        helper.make_node(
            "Conv", ["x", "conv.weight"], ["h"], name="conv", pads=[1, 1, 1, 1], doc_string="first"
        ),
        helper.make_node("BatchNormalization", ["h", "bn.w", "bn.b", "bn.mean", "bn.var"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Constant", [], ["axes/0"], name="axes", value_ints=[0, -1]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Reshape", ["p", "axes/0"], ["f"], name="reshape"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]
    nodes[0].metadata_props.add(key="source", value="line 3")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8], "an image")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5], "scores")],
        [onnx.numpy_helper.from_array(array, name) for name, array in f32.items()],
        doc_string="a graph",
        value_info=[
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 6, 8, 8]),
            helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 6]),
        ],
    )
    if ir_version < 4:
        for name, array in f32.items():
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "7", "zoo", 3
    model.doc_string = "a model"
    helper.set_model_props(model, {"license": "free", "author": "me"})
    onnx.checker.check_model(model)
    return model


_SHAPES: dict[str, tuple[int, ...]] = {
    "conv.weight": (6, 3, 3, 3),
    "bn.w": (6,),
    "bn.b": (6,),
    "bn.mean": (6,),
    "bn.var": (6,),
    "fc.weight": (5, 6),
    "fc.bias": (5,),
}


def node_of(graph: Graph, name: str) -> fx.Node:
    return next(n for n in graph.module.graph.nodes if "onnx" in n.meta and n.meta["onnx"].name == name)


def emitted_outputs(graph: Graph) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """The emitted model, checked, and its outputs; they must be those of the graph."""
    model = emit_model(graph)
    onnx.checker.check_model(model)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    feed = {port.name: x.numpy() for port, x in zip(graph.signature.inputs, graph.example, strict=True)}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run([port.name for port in graph.signature.outputs], feed)
    for mine, theirs in zip(graph(*graph.example), results, strict=True):
        np.testing.assert_allclose(theirs, mine.numpy(), rtol=1e-5, atol=1e-5)
    return model, results


@pytest.mark.parametrize("ir_version", [3, 8])
def test_an_untouched_model_comes_back_whole(ir_version: int) -> None:
    model = conv_net(9 if ir_version == 3 else 17, 8) if ir_version == 8 else conv_net_without_constants()
    graph = import_model(model)
    assert emit_model(graph) == model
    assert emit_model(graph.copy()) == model


def conv_net_without_constants() -> onnx.ModelProto:
    model = conv_net(17, 8)
    del model.graph.node[3]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1]), "axes/0"))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 9))
    del model.graph.node[0].metadata_props[:]
    onnx.checker.check_model(model)
    return model


def test_a_graph_reads_as_the_file_does() -> None:
    graph = import_model(conv_net())
    assert [str(port) for port in graph.signature.inputs] == ["x: float32[N, 3, 8, 8]"]
    assert [str(port) for port in graph.signature.outputs] == ["logits: float32[N, 5]"]
    assert list(graph.tensors()) == [*list(_SHAPES)[:5], "axes/0", *list(_SHAPES)[5:]]
    assert graph.example[0].shape == (2, 3, 8, 8)
    conv = node_of(graph, "conv")
    assert op_name(conv) == "onnx.Conv" and conv.target is Conv and conv.kwargs == {"pads": [1, 1, 1, 1]}
    assert isinstance(graph.tensor("conv.weight"), torch.nn.Parameter)
    assert not graph.tensor("conv.weight").requires_grad and graph.tensor("axes/0").tolist() == [0, -1]


def test_gradients_flow_to_the_weights() -> None:
    graph = import_model(conv_net())
    graph.module.requires_grad_(True)
    graph.module(*graph.example)[0].square().sum().backward()
    assert graph.tensor("conv.weight").grad is not None


def test_a_changed_weight_is_written_and_nothing_else_changes() -> None:
    model = conv_net()
    graph = import_model(model)
    graph.tensor("fc.bias").data += 1
    emitted, _ = emitted_outputs(graph)
    changed = [
        a.name for a, b in zip(emitted.graph.initializer, model.graph.initializer, strict=True) if a != b
    ]
    assert changed == ["fc.bias"]
    emitted.graph.initializer[-1].CopyFrom(model.graph.initializer[-1])
    assert emitted == model


def test_a_changed_constant_becomes_an_initializer() -> None:
    graph = import_model(conv_net())
    graph.module.get_buffer("axes/0").data = torch.tensor([-1, 6])
    emitted, _ = emitted_outputs(graph)
    assert "Constant" not in {node.op_type for node in emitted.graph.node}
    assert [t.name for t in emitted.graph.initializer][-1] == "axes/0"
    assert [v.name for v in emitted.graph.value_info] == ["h"]


def test_narrower_weights_drop_the_shapes_that_are_no_longer_true() -> None:
    graph = import_model(conv_net())
    for name in ("conv.weight", "bn.w", "bn.b", "bn.mean", "bn.var"):
        graph.tensor(name).data = graph.tensor(name).data[:4].clone()
    graph.tensor("fc.weight").data = graph.tensor("fc.weight").data[:, :4].clone()
    emitted, _ = emitted_outputs(graph)
    assert list(emitted.graph.value_info) == []
    assert emitted.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_a_removed_node_is_absent_and_so_are_its_weights() -> None:
    graph = import_model(conv_net())
    norm, conv = node_of(graph, "bn"), node_of(graph, "conv")
    norm.replace_all_uses_with(conv)
    graph.module.graph.erase_node(norm)
    graph.module.graph.eliminate_dead_code()
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    assert [n.op_type for n in emitted.graph.node] == [
        "Conv",
        "Relu",
        "Constant",
        "GlobalAveragePool",
        "Reshape",
        "Gemm",
    ]
    assert {t.name for t in emitted.graph.initializer} == {"conv.weight", "fc.weight", "fc.bias"}


def test_changed_attributes_and_arguments_are_written() -> None:
    graph = import_model(conv_net())
    conv, norm = node_of(graph, "conv"), node_of(graph, "bn")
    conv.kwargs = {"pads": [0, 0, 0, 0], "strides": [2, 2]}
    norm.kwargs = {"epsilon": 0.25}
    graph.module.register_parameter("conv_bias", torch.nn.Parameter(torch.randn(6), requires_grad=False))
    with graph.module.graph.inserting_before(conv):
        conv.args = (*conv.args, graph.module.graph.get_attr("conv_bias"))
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    assert list(emitted.graph.node[0].input) == ["x", "conv.weight", "conv_bias"]
    assert emitted.graph.node[0].name == "conv" and emitted.graph.node[0].doc_string == "first"
    attributes = {a.name: helper.get_attribute_value(a) for n in emitted.graph.node[:2] for a in n.attribute}
    assert attributes == {"pads": [0, 0, 0, 0], "strides": [2, 2], "epsilon": 0.25}


def test_new_nodes_get_new_names_and_literals_become_constants() -> None:
    graph = import_model(conv_net())
    relu = node_of(graph, "relu")
    with graph.module.graph.inserting_before(relu.next):
        split = make_node(graph, Split, (relu, [2, 4]), {"axis": 1}, name="conv")
        first = graph.module.graph.call_function(operator.getitem, (split, 0))
        second = graph.module.graph.call_function(operator.getitem, (split, 1))
        joined = make_node(graph, Concat, (second, first), {"axis": 1})
        clipped = make_node(graph, Clip, (joined, 0.0, 0.5), name="r")
    relu.replace_all_uses_with(clipped, delete_user_cb=lambda user: user is not split)
    graph.module.recompile()
    graph.module.graph.lint()
    emitted, _ = emitted_outputs(graph)
    names = [node.name for node in emitted.graph.node]
    assert names == ["conv", "bn", "relu", "conv_1", "Concat", "r", "axes", "pool", "reshape", "fc"]
    made = [name for node in emitted.graph.node for name in node.output]
    assert len(set(made)) == len(made) and "r" in emitted.graph.node[2].output


@pytest.mark.parametrize("opset", [9, 11, 17, 18])
def test_new_nodes_take_the_form_of_the_files_opset(opset: int) -> None:
    model = conv_net_without_constants() if opset == 9 else conv_net(opset if opset > 12 else 12)
    graph = import_model(model)
    relu = node_of(graph, "relu")
    with graph.module.graph.inserting_after(relu):
        mean = make_node(graph, ReduceMean, (relu, [2, 3]), {"keepdims": 1})
    with graph.module.graph.inserting_after(mean):
        clipped = make_node(graph, Clip, (mean,), {"min": 0.1, "max": 0.4})
    with graph.module.graph.inserting_after(clipped):
        flat = make_node(graph, Reshape, (clipped, [0, -1]))
    node_of(graph, "reshape").replace_all_uses_with(flat)
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    mean_node = next(node for node in emitted.graph.node if node.op_type == "ReduceMean")
    assert len(mean_node.input) == (2 if opset >= 18 else 1)


def test_an_output_keeps_its_name_whatever_makes_it() -> None:
    graph = import_model(conv_net())
    last = node_of(graph, "fc")
    with graph.module.graph.inserting_after(last):
        relu = make_node(graph, Relu, (last,))
    last.replace_all_uses_with(relu, delete_user_cb=lambda user: user is not relu)
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    assert emitted.graph.node[-1].op_type == "Relu" and list(emitted.graph.node[-1].output) == ["logits"]
    assert emitted.graph.output[0].name == "logits" and emitted.graph.output[0].doc_string == "scores"


def test_an_output_that_is_an_input_is_copied() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz"]
    graph = import_model(
        helper.make_model(
            helper.make_graph(nodes, "two", infos[:1], infos[1:]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
    )
    calls = [node for node in graph.module.graph.nodes if node.op == "call_function"]
    source = calls[0].args[0]
    assert isinstance(source, fx.Node)
    calls[0].replace_all_uses_with(source)
    calls[1].replace_all_uses_with(source)
    graph.module.recompile()
    emitted, results = emitted_outputs(graph)
    np.testing.assert_array_equal(results[0], results[1])
    assert [node.op_type for node in emitted.graph.node][-2:] == ["Identity", "Identity"]


def test_initializers_that_are_inputs_stay_inputs_with_their_new_shapes() -> None:
    graph = import_model(conv_net_without_constants())
    assert [port.name for port in graph.signature.inputs] == ["x"]
    for name in ("conv.weight", "bn.w", "bn.b", "bn.mean", "bn.var"):
        graph.tensor(name).data = graph.tensor(name).data[:3].clone()
    graph.tensor("fc.weight").data = graph.tensor("fc.weight").data[:, :3].clone()
    relu = node_of(graph, "relu")
    with graph.module.graph.inserting_after(relu):
        scaled = make_node(graph, Mul, (relu, 2.0))
    relu.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in emitted.graph.input}
    assert shapes["conv.weight"] == [3, 3, 3, 3] and shapes["bn.var"] == [3] and "constant" in shapes
    assert set(shapes) == {t.name for t in emitted.graph.initializer} | {"x"}


def test_a_weight_shared_by_many_nodes_is_one_tensor() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "w"], ["y"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.5, -2.0])
    model = helper.make_model(
        helper.make_graph(nodes, "shared", infos[:1], infos[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = import_model(model)
    reads = [node for node in graph.module.graph.nodes if node.op == "get_attr"]
    assert len(reads) == 1 and len(reads[0].users) == 2
    assert emit_model(graph) == model
    graph.tensor("w").data *= 2
    emitted, _ = emitted_outputs(graph)
    assert len(emitted.graph.initializer) == 1


NAMES = [
    "a",
    "a.b",
    "training",
    "x:0",
    "forward",
    "p/q.r",
    "..",
    'say "hi"',
    "\\",
    "state_dict",
    "graph",
    "é",
    "1",
]


def test_any_name_of_a_tensor_survives() -> None:
    nodes, last = [], "in"
    for i, name in enumerate(NAMES):
        nodes.append(helper.make_node("Add", [last, name], [f"h{i}"]))
        last = f"h{i}"
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("in", last)]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [2], [i, -i]) for i, name in enumerate(NAMES)]
    model = helper.make_model(
        helper.make_graph(nodes, "names", infos[:1], infos[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = import_model(model).copy()
    assert emit_model(graph) == model
    for name in graph.tensors():
        graph.tensor(name).data += 1
    emitted, _ = emitted_outputs(graph)
    assert [t.name for t in emitted.graph.initializer] == NAMES
    assert {"a", "x:0", "p/q.r"} <= set(graph.tensors())


def test_two_calls_with_one_origin_are_two_nodes() -> None:
    graph = import_model(conv_net())
    relu = node_of(graph, "relu")
    with graph.module.graph.inserting_after(relu):
        twin = graph.module.graph.node_copy(relu, lambda node: node)
        twin.args = (relu,)
    relu.replace_all_uses_with(twin, delete_user_cb=lambda user: user is not twin)
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    names = [node.name for node in emitted.graph.node]
    assert len(set(names)) == len(names) and names.count("relu") == 1


def test_topk_made_by_a_rewrite_has_both_outputs() -> None:
    graph = import_model(conv_net())
    last = node_of(graph, "fc")
    with graph.module.graph.inserting_after(last):
        top = make_node(graph, TopK, (last, [5]))
    with graph.module.graph.inserting_after(top):
        values = graph.module.graph.call_function(operator.getitem, (top, 0))
    last.replace_all_uses_with(values, delete_user_cb=lambda user: user is not top)
    graph.module.recompile()
    emitted, _ = emitted_outputs(graph)
    assert len(emitted.graph.node[-1].output) == 2


def test_stored_shapes_stay_with_the_nodes_that_fill_them() -> None:
    shape = onnx.numpy_helper.from_array(np.array([2, 3]), "shape")
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    model = helper.make_model(
        helper.make_graph(nodes, "fill", infos, outputs, [shape]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = import_model(model)
    assert graph.tensor("w").tolist() == [[0.5] * 3] * 2
    assert emit_model(graph) == model
    graph.tensor("w").data[0] = 2.0
    emitted, _ = emitted_outputs(graph)
    assert [t.name for t in emitted.graph.initializer] == ["w"] and len(emitted.graph.node) == 1


def test_a_function_that_is_no_operator_cannot_be_emitted() -> None:
    graph = import_model(conv_net())
    last = node_of(graph, "fc")
    with graph.module.graph.inserting_after(last):
        added = graph.module.graph.call_function(torch.tanh, (last,))
    last.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    with pytest.raises(ModelError, match=r"net: node 'tanh' calls tanh, which is no ONNX operator"):
        emit_model(graph)
    with pytest.raises(ValueError, match=r"tanh: is not the function of an ONNX operator"):
        make_node(graph, torch.tanh, (last,))


def test_an_operator_newer_than_the_opset_cannot_be_emitted() -> None:
    graph = import_model(conv_net())
    last = node_of(graph, "fc")
    with graph.module.graph.inserting_after(last):
        added = make_node(graph, Gelu, (last,), name="gelu")
    last.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    with pytest.raises(ModelError, match=r"net: node 'gelu': opset 17 has no such Gelu"):
        emit_model(graph)


def test_functions_know_their_operator() -> None:
    assert [meaning.op_type for f in (Add, Identity, Conv) if (meaning := meaning_of(f))] == [
        "Add",
        "Identity",
        "Conv",
    ]
    assert meaning_of(torch.relu) is None


def test_inputs_of_rank_zero_and_chains_of_identity() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "s"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
        for n, shape in (("x", ["n", 2]), ("s", []))
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])]
    model = helper.make_model(
        helper.make_graph(nodes, "scalars", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = import_model(model)
    assert [tuple(x.shape) for x in graph.example] == [(2, 2), ()]
    assert emitted_outputs(graph)[0] == model


def test_initializers_that_nothing_reads_stay() -> None:
    model = conv_net()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "spare"))
    graph = import_model(model)
    assert "spare" not in graph.tensors()
    assert emit_model(graph) == model


F32 = TensorProto.FLOAT
Values = list[tuple[str, int, list[int | str] | None]]


def tiny(
    nodes: list[onnx.NodeProto], outputs: Values, stored: tuple[onnx.TensorProto, ...] = (), opset: int = 17
):
    """A model with one input ``x`` of shape (b, 2, 6)."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", F32, ["b", 2, 6])],
        [helper.make_tensor_value_info(*value) for value in outputs],
        list(stored),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


PAIR = helper.make_tensor("s", F32, [2], [1, 2])
RELU = helper.make_node("Relu", ["x"], ["y"])
Y: Values = [("y", F32, None)]
ODD = {
    "unused second output": tiny([helper.make_node("Dropout", ["x"], ["y", "mask"])], Y),
    "used second output": tiny(
        [helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2])], [("i", 7, None)]
    ),
    "missing middle output": tiny(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y", "", "c"], hidden_size=1)],
        Y,
        (
            helper.make_tensor("w", F32, [1, 4, 6], [0.1] * 24),
            helper.make_tensor("r", F32, [1, 4, 1], [0.1] * 4),
        ),
    ),
    "old batch norm": tiny(
        [helper.make_node("BatchNormalization", ["x", *["s"] * 4], [*"ymvnw"])], Y, (PAIR,), 9
    ),
    "missing last inputs": tiny([helper.make_node("Clip", ["x", "", ""], ["y"])], Y),
    "output is an initializer": tiny([RELU], [*Y, ("s", F32, [2])], (PAIR,)),
    "output is the input": tiny([RELU], [*Y, ("x", F32, ["b", 2, 6])]),
    "output twice": tiny([RELU], [*Y, *Y]),
    "output is a constant": tiny(
        [RELU, helper.make_node("Constant", [], ["c"], value_float=2.0)], [*Y, ("c", F32, [])]
    ),
    "default domain by name": tiny([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")], Y),
    "sequence": tiny(
        [
            helper.make_node("SplitToSequence", ["x"], ["s"], axis=1),
            helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
        ],
        Y,
    ),
    "four-bit weight": tiny(
        [
            helper.make_node("DequantizeLinear", ["w", "k"], ["d"]),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ],
        Y,
        (
            helper.make_tensor("w", TensorProto.INT4, [6, 1], [1, 2, 3, -4, 5, 6]),
            helper.make_tensor("k", F32, [], [0.1]),
        ),
        21,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_run_and_come_back_whole(name: str) -> None:
    graph = import_model(ODD[name]).copy()
    assert emit_model(graph) == ODD[name]
    results = graph(*graph.example)
    if name == "output twice":  # ONNX Runtime refuses it
        assert len(results) == 2
        return
    if name == "old batch norm":  # with all its outputs it trains, and differs from run to run
        assert [op_name(node) for node in graph.module.graph.nodes if node.op == "call_module"]
        return
    options = ort.SessionOptions()  # it may fuse a four-bit weight into a product of eight-bit integers
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ODD[name].SerializeToString(), options)
    for mine, theirs in zip(results, session.run(None, {"x": graph.example[0].numpy()}), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-6)
