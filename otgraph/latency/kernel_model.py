"""A kernel as an ONNX model of its own, in as many copies as one wants."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from otgraph.latency.kernel import Kernel

OPSET = 17

PICKED = 16
"""Channels that a pick makes: one block of the widest vector units, so that engines need not convert."""

_POOL = np.random.default_rng(1).standard_normal(4093).astype(np.float32) * np.float32(0.1)
"""Any ordinary numbers do: only zeros and denormals would change the time. Drawn once, since drawing takes
longer than timing."""


def kernel_model(kernel: Kernel, copies: int, picks: int) -> bytes:
    """``copies`` of ``kernel`` that all read the input ``x``, each with its own weights, and their results
    joined as cheaply as can be: ``picks`` nodes take one position each, of the copies in turn and then of the
    last one again, and are added up. So two models with equal ``picks`` differ by whole copies only, and each
    result is a buffer of its own as in a network (accumulated in place, results stay in the nearest cache,
    where a depthwise convolution takes half as long). A file's bytes; float32, batch 1."""
    nodes: list[onnx.NodeProto] = []
    stored = _bounds() if kernel.activation == "Clip" else []
    for copy in range(copies):
        stored += [
            _filled(f"w{copy}", _weight_shape(kernel), copy),
            _filled(f"b{copy}", (kernel.outputs,), copy),
        ]
        nodes += _copy(kernel, copy)
    last = ""
    for pick in range(picks):
        made, values = _pick(kernel, pick, min(pick, copies - 1))
        nodes.append(made)
        stored += values
        if last:
            nodes.append(helper.make_node("Add", [last, f"p{pick}"], [f"s{pick}"]))
        last = f"s{pick}" if last else f"p{pick}"
    graph = helper.make_graph(
        nodes,
        "kernel",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, kernel.input_shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        list({value.name: value for value in stored}.values()),
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def _copy(kernel: Kernel, copy: int) -> list[onnx.NodeProto]:
    inputs, made = ["x", f"w{copy}", f"b{copy}"], f"y{copy}"
    if kernel.kind == "linear":
        return [helper.make_node("Gemm", inputs, [made])]
    groups = kernel.outputs if kernel.kind == "depthwise" else kernel.groups
    before = f"c{copy}" if kernel.activation else made
    conv = helper.make_node(
        "Conv",
        inputs,
        [before],
        group=groups,
        kernel_shape=kernel.kernel,
        strides=kernel.stride,
        pads=kernel.pads,
        dilations=kernel.dilation,
    )
    if not kernel.activation:
        return [conv]
    bounds = ["low", "high"] if kernel.activation == "Clip" else []
    return [conv, helper.make_node(kernel.activation, [before, *bounds], [made])]


def _pick(kernel: Kernel, pick: int, copy: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """A node that reads one position of a copy's result. No two are the same, or engines would merge them."""
    if kernel.kind == "linear":
        at = pick % kernel.outputs
        ends = {f"from{at}": [0, at], f"to{at}": [1, at + 1]}
        node = helper.make_node("Slice", [f"y{copy}", *ends], [f"p{pick}"])
        return node, [numpy_helper.from_array(np.array(end), name) for name, end in ends.items()]
    rank = len(kernel.space)
    step = [max(kernel.space) + sum(kernel.pads)] * rank
    node = helper.make_node(
        "Conv", [f"y{copy}", "v", f"d{pick}"], [f"p{pick}"], kernel_shape=[1] * rank, strides=step
    )
    shape = (PICKED, kernel.outputs, *[1] * rank)
    return node, [_filled("v", shape, 0), _filled(f"d{pick}", (PICKED,), pick)]


def _weight_shape(kernel: Kernel) -> tuple[int, ...]:
    if kernel.kind == "linear":
        return (kernel.inputs, kernel.outputs)
    read = 1 if kernel.kind == "depthwise" else kernel.inputs // kernel.groups
    return (kernel.outputs, read, *kernel.kernel)


def _bounds() -> list[onnx.TensorProto]:
    bounds = (("low", 0), ("high", 6))
    return [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in bounds]


def _filled(name: str, shape: tuple[int, ...], roll: int) -> onnx.TensorProto:
    repeats = -(-math.prod(shape) // len(_POOL))
    values = np.tile(np.roll(_POOL, roll), repeats)[: math.prod(shape)]
    return numpy_helper.from_array(values.reshape(shape), name)
