"""What otgraph has no notion of survives: load → save is the identity, and a cut elsewhere leaves it byte for
byte as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper, parser

from otgraph.data_sources import load_data
from otgraph.errors import ModelError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.emitter import emit_model
from otgraph.graph.onnx.importer import import_model, load_onnx
from otgraph.graph.save import save_graph
from otgraph.precision.int8 import to_int8
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.masking import mask_graph
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.sample import calibration_path, model_path

PAIR = """
    hidden = Conv <pads = [1, 1, 1, 1]> (x, one)
    active = Relu (hidden)
    narrow = Conv (active, two)
"""
"""The convolutions that are cut: 12 channels between them."""


@dataclass(frozen=True)
class Rider:
    """What is to survive: nodes from ``narrow`` (n, 4, h, w), which ``PAIR`` makes, to ``y``."""

    nodes: str
    out: str = "n, 4, h, w"
    opsets: str = '"" : 20'
    after: str = ""
    weights: Callable[[onnx.ModelProto], None] = lambda model: None
    opaque: int = 0


RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.standard_normal(shape).astype(np.float32)


def store(**arrays: np.ndarray[Any, Any]) -> Callable[[onnx.ModelProto], None]:
    def add(model: onnx.ModelProto) -> None:
        model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())

    return add


def sparse(name: str, dense: np.ndarray[Any, Any], *, flat: bool) -> SparseTensorProto:
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    return SparseTensorProto(
        values=numpy_helper.from_array(dense[dense != 0], name),
        indices=numpy_helper.from_array(places.astype(np.int64), f"{name}_indices"),
        dims=dense.shape,
    )


def thinned(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return f32(*shape) * (RNG.random(shape) < 0.4)


def _two_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(sparse("thin", thinned(4, 4), flat=True))
    model.graph.sparse_initializer.append(sparse("fine", thinned(4, 5), flat=False))


def _noted(model: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version, model.model_version = "someone", "7.1", 3
    model.doc_string, model.graph.doc_string, model.domain = "a model", "a graph", "org.example"
    model.metadata_props.add(key="labels", value='{"0": "cat"}')
    model.graph.metadata_props.add(key="graph", value="yes")
    last = model.graph.node[-1]
    last.doc_string = "a node"
    last.metadata_props.add(key="node", value="yes")
    note = model.graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    store(scale=np.float32(0.1))(model)


RIDERS = {
    "a custom domain": Rider(
        "p = GlobalAveragePool (narrow)  f = Flatten (p)  y = com.microsoft.BiasGelu (f, bias)",
        "n, 4",
        '"" : 20, "com.microsoft" : 1',
        weights=store(bias=f32(4)),
        opaque=1,
    ),
    "functions": Rider(
        "h = local.twice <k: float = 3.0> (narrow)  y = local.shifted (h)",
        "n, 4, h, w",
        '"" : 20, "local" : 1',
        """<domain: "local", opset_import: ["" : 20], doc_string: "a function">
        twice <k> (a) => (b) { c = Constant <value_float: float = @k> ()  b = Mul (a, c) }
        <domain: "local", opset_import: ["" : 20, "local" : 1]>
        shifted (a) => (b) { d = local.twice <k: float = 0.5> (a)  b = Add (d, a) }""",
        opaque=2,
    ),
    "subgraphs": Rider(
        """limit = Constant <value_float: float = 0.0> ()  sum = ReduceSum <keepdims = 0> (narrow)
        much = Greater (sum, limit)
        picked = If (much) <
            then_branch = yes () => (a) { a = Mul (narrow, gain) },
            else_branch = no () => (b) {
                none = Less (sum, limit)
                b = If (none) <
                    then_branch = deep () => (d) { d = Neg (narrow) },
                    else_branch = flat () => (e) { e = Identity (narrow) }
                >
            }
        >
        y = Relu (picked)""",
        weights=store(gain=f32(4, 1, 1)),
        opaque=1,
    ),
    "QDQ nodes": Rider(
        """q = QuantizeLinear (narrow, s, z)  d = DequantizeLinear (q, s, z)
        k = DequantizeLinear <axis = 0> (kernel, ks, kz)  y = Conv (d, k)""",
        weights=store(
            s=np.float32(0.05),
            z=np.uint8(128),
            kernel=RNG.integers(-127, 127, (4, 4, 1, 1)).astype(np.int8),
            ks=np.abs(f32(4)) / 50,
            kz=np.zeros(4, np.int8),
        ),
    ),
    "sparse initializers": Rider(
        "p = GlobalAveragePool (narrow)  f = Flatten (p)  m = MatMul (f, thin)  y = MatMul (m, fine)",
        "n, 5",
        weights=_two_sparse,
    ),
    "dynamic axes": Rider(
        """u = Shape <start = 2> (narrow)  r = Resize <mode = "nearest"> (narrow, , doubled)
        v = Slice (r, zero, u, spatial)  y = Concat <axis = 1> (v, narrow)""",
        "n, 8, h, w",
        weights=store(
            doubled=np.array([1, 1, 2, 2], np.float32), zero=np.zeros(2, np.int64), spatial=np.array([2, 3])
        ),
    ),
    "notes of every kind": Rider("y = Relu (narrow)", weights=_noted),
}


def build(rider: Rider) -> onnx.ModelProto:
    model = parser.parse_model(
        f"<ir_version: 10, opset_import: [{rider.opsets}]> "
        f"net (float[n, 3, h, w] x) => (float[{rider.out}] y) {{ {PAIR} {rider.nodes} }} {rider.after}"
    )
    store(one=f32(12, 3, 3, 3), two=f32(4, 12, 1, 1))(model)
    rider.weights(model)
    onnx.checker.check_model(model)
    return model


def load(model: onnx.ModelProto) -> Graph:
    return import_model(model, example=(torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)),))


def in_onnxruntime(model: onnx.ModelProto, x: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x.numpy()})


def bits(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", RIDERS)
def test_load_and_save_is_the_identity(name: str, tmp_path: Path) -> None:
    model = build(RIDERS[name])
    graph = load(model)
    assert sum(node.op == "call_module" for node in graph.module.graph.nodes) == RIDERS[name].opaque
    assert bits(emit_model(graph.copy())) == bits(model)
    onnx.save(model, tmp_path / "model.onnx")
    save_graph(load_onnx(tmp_path / "model.onnx", graph.example), tmp_path / "saved.onnx")
    assert bits(onnx.load(tmp_path / "saved.onnx")) == bits(model)
    for mine, theirs in zip(graph(*graph.example), in_onnxruntime(model, *graph.example), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RIDERS)
def test_a_cut_elsewhere_leaves_it_byte_for_byte(name: str) -> None:
    model = build(RIDERS[name])
    graph = load(model)
    axes = analyze(graph)
    (dim,) = (dim for dim in axes.prunable() if dim.size == 12)
    text = f'prune-channels{{keep=0.5 include=["{dim.name}"]}}'
    result = PassManager(parse_pipeline(text)).run(graph, Context(original=graph))
    assert not result.undone and not result.spared
    small = emit_model(result.graph)
    onnx.checker.check_model(small)
    assert untouched(small) == untouched(model)
    kept = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    assert kept["one"] == (6, 3, 3, 3) and kept["two"] == (4, 6, 1, 1)
    # the masked original, itself written as ONNX, in ONNX Runtime; at another size of every free axis
    masked = emit_model(mask_graph(graph, axes, {dim.name: stays(model, small)}))
    for x in (*graph.example, torch.randn(3, 3, 7, 4, generator=torch.Generator().manual_seed(1))):
        wanted, whole = in_onnxruntime(masked, x), in_onnxruntime(model, x)
        for one, other in zip(wanted, in_onnxruntime(small, x), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
        assert max(float(np.abs(a - b).max()) for a, b in zip(wanted, whole, strict=True)) > 1e-3


def stays(model: onnx.ModelProto, small: onnx.ModelProto) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of the 12 channels the smaller kernel still has."""
    before, after = (
        next(numpy_helper.to_array(t) for t in m.graph.initializer if t.name == "one") for m in (model, small)
    )
    return np.array([any(np.array_equal(row, other) for other in after) for row in before])


def untouched(model: onnx.ModelProto) -> bytes:
    """The model without the two kernels, which alone are cut."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    others = [tensor for tensor in rest.graph.initializer if tensor.name not in ("one", "two")]
    del rest.graph.initializer[:]
    rest.graph.initializer.extend(others)
    return bits(rest)


def test_a_changed_rider_would_be_noticed() -> None:
    model = build(RIDERS["functions"])
    other = build(RIDERS["functions"])
    other.functions[0].node[0].doc_string = "touched"
    assert untouched(model) != untouched(other)


@pytest.mark.parametrize("flat", [True, False])
def test_a_sparse_kernel_is_cut_and_then_dense(*, flat: bool) -> None:
    model = build(Rider("y = Relu (narrow)"))
    dense = thinned(12, 3, 3, 3)
    del model.graph.initializer[0]
    model.graph.sparse_initializer.append(sparse("one", dense, flat=flat))
    onnx.checker.check_model(model)
    graph = load(model)
    np.testing.assert_array_equal(graph.tensor("one").numpy(), dense)
    assert bits(emit_model(graph)) == bits(model)
    result = PassManager(parse_pipeline("prune-channels{keep=0.5}")).run(graph, Context(original=graph))
    small = emit_model(result.graph)
    assert not small.graph.sparse_initializer and not result.undone
    assert {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}["one"] == (6, 3, 3, 3)
    (mine,) = result.graph(*graph.example)
    (theirs,) = in_onnxruntime(small, *graph.example)
    np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_a_sparse_tensor_of_strings_is_a_clear_error() -> None:
    model = build(Rider("y = Relu (narrow)"))
    names = SparseTensorProto(
        values=helper.make_tensor("names", TensorProto.STRING, [1], [b"a"]),
        indices=numpy_helper.from_array(np.array([0]), "at"),
        dims=[3],
    )
    model.graph.sparse_initializer.append(names)
    with pytest.raises(
        ModelError, match=r"net: 'names' is sparse, of a type that cannot be held; convert it"
    ):
        load(model)


def test_an_operator_that_nothing_can_run_is_named_with_its_domain() -> None:
    model = build(Rider("[odd] y = acme.Frobnicate (narrow)", opsets='"" : 20, "acme" : 1'))
    for output in model.graph.output:
        output.ClearField("type")  # declared, it is left as it is
    text = r"node 'odd': acme\.Frobnicate has no torch form and ONNX Runtime cannot run it \(.*\); replace"
    with pytest.raises(ModelError, match=text):
        load(model)


def test_a_quantized_sample_is_cut(tmp_path: Path) -> None:
    quantized, _ = to_int8(onnx.load(model_path()), load_data(str(calibration_path())).take(32, 0))
    onnx.save(quantized, tmp_path / "int8.onnx")
    graph = load_onnx(tmp_path / "int8.onnx")
    assert not [node for node in graph.module.graph.nodes if node.op == "call_module"]
    assert bits(emit_model(graph)) == bits(quantized)
    result = PassManager(parse_pipeline("prune-channels{keep=0.5}")).run(graph, Context(original=graph))
    assert not result.undone and not result.spared
    assert [remark.kind for remark in result.remarks] == [*["applied"] * 12, "missed"]
    weights = [sum(t.numel() for t in each.tensors().values()) for each in (graph, result.graph)]
    assert weights[1] < 0.3 * weights[0]
    images = torch.from_numpy(next(load_data(str(calibration_path())).batches(32)).arrays["image"])
    options = ort.SessionOptions()  # node by node, as the graph is: fused, it adds integers
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(quantized.SerializeToString(), options)
    small = ort.InferenceSession(emit_model(result.graph).SerializeToString(), options)
    (mine,), (theirs,) = graph(images), session.run(None, {"image": images.numpy()})
    (cut_mine,), (cut_theirs,) = result.graph(images), small.run(None, {"image": images.numpy()})
    # where a sum lies between two steps (-35.49999 or -35.5), its last bit decides which it becomes
    step = graph.tensor("logits_scale").item()
    for here, there in ((mine, theirs), (cut_mine, cut_theirs)):
        apart = np.abs(here.numpy() - there) / step
        assert np.quantile(apart, 0.9) < 1e-3 and apart.max() < 1.001
