"""The whole files that the fuzzer damages: small models of many forms, their inputs, and a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from otgraph.cli.main import run_command

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] image) => (float[N,4] logits) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1)
    b = BatchNormalization <epsilon = 0.001> (a, scale, bias, mean, var)
    c = Relu (b)
    d = Conv <group = 2, pads = [1, 1, 1, 1]> (c, w2)
    e = Add (d, c)
    f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
    g = GlobalAveragePool (f)
    h = Flatten <axis = 1> (g)
    logits = Gemm <transB = 1> (h, w3, b3)
}"""
"""What is cut and planned: every weight is stored as raw bytes."""

FORMS = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
forms (float[N,4,8] x, bool[1] flag) => (float[N,4,8] y, float[3] apart) {
    shape = Shape (x)
    first = Constant <value_ints = [0]> ()
    n = Gather <axis = 0> (shape, first)
    tail = Constant <value = int64[1] {-1}> ()
    wide = Concat <axis = 0> (n, tail)
    flat = Reshape (x, wide)
    heads = MatMul (flat, w)
    size = Constant <value = int64[1] {32}> ()
    zeros = ConstantOfShape <value = float[1] {0.5}> (size)
    sum = Add (heads, zeros)
    q = QuantizeLinear (sum, s, z)
    back = DequantizeLinear (q, s, z)
    either = If (flag) <
        then_branch = then () => (float[N,32] kept) { kept = Relu (back) },
        else_branch = other () => (float[N,32] gone) { gone = local.twice (back) }
    >
    deep = Reshape (either, back_shape)
    left, right = Split <axis = 2> (deep)
    joined = Concat <axis = 2> (right, left)
    moved = Transpose <perm = [0, 2, 1]> (joined)
    norm = LayerNormalization <axis = -1> (moved, ln, lb)
    resized = Transpose <perm = [0, 2, 1]> (norm)
    cut = Slice (resized, starts, ends)
    y = Softmax <axis = -1> (cut)
    spread = Expand (rare, three)
    apart = Exp (spread)
}
<domain: "local", opset_import: ["" : 17]>
twice (a) => (b) { b = Add (a, a) }"""
"""Many forms at once: constants, shape arithmetic, a branch, a function, quantization, a sparse weight,
weights in typed fields, and an output that hangs on no input."""


def make_subjects(folder: Path) -> None:
    """Write the models ``net``, ``outside`` (its weights beside it) and ``forms``, the inputs ``net.npz`` and
    ``forms.npz``, and ``plan.json`` for ``net`` into ``folder``."""
    rng = np.random.default_rng(0)
    net = _net(rng)
    onnx.save(net, folder / "net.onnx")
    onnx.save(
        net, folder / "outside.onnx", save_as_external_data=True, location="outside.data", size_threshold=64
    )
    onnx.save(_forms(rng), folder / "forms.onnx")
    np.savez(folder / "net.npz", image=_noise(rng, 12, 3, 6, 6), labels=np.arange(12) % 4)
    np.savez_compressed(folder / "forms.npz", x=_noise(rng, 12, 4, 8), flag=np.ones(12, bool))
    plan = ["plan", f"{folder}/net.onnx", "--calib", f"{folder}/net.npz", "--keep", "0.5", "--multiple", "1"]
    if run_command([*plan, "-o", f"{folder}/plan.json"]):
        raise SystemExit("the undamaged files cannot be planned with; mend that first")


def _net(rng: np.random.Generator) -> onnx.ModelProto:
    model = parser.parse_model(NET)
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 4, 3, 3), "w3": (4, 8), "b3": (4,)}
    weights = {name: _noise(rng, *shape) for name, shape in shapes.items()}
    weights |= {name: _noise(rng, 8) for name in ("scale", "bias", "mean")}
    weights["var"] = np.ones(8, np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in weights.items())
    return model


def _forms(rng: np.random.Generator) -> onnx.ModelProto:
    model = parser.parse_model(FORMS)
    floats = {"w": _noise(rng, 32, 32), "ln": np.ones(4, np.float32), "lb": np.zeros(4, np.float32)}
    floats |= {"s": np.array(0.1, np.float32), "rare": _noise(rng, 1)}
    ints = {"back_shape": [-1, 4, 8], "starts": [0], "ends": [2**31], "three": [3]}
    stored = model.graph.initializer
    stored.extend(
        helper.make_tensor(name, onnx.TensorProto.FLOAT, v.shape, v.ravel()) for name, v in floats.items()
    )
    stored.extend(helper.make_tensor(name, onnx.TensorProto.INT64, [len(v)], v) for name, v in ints.items())
    stored.append(helper.make_tensor("z", onnx.TensorProto.INT8, [], [3]))
    values = helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("places", onnx.TensorProto.INT64, [2], [1, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8]))
    model.graph.node.append(helper.make_node("Add", ["y", "sparse"], ["z_out"]))
    model.graph.output.append(helper.make_tensor_value_info("z_out", onnx.TensorProto.FLOAT, ["N", 4, 8]))
    return model


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)
