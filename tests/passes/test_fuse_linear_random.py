"""``fuse-linear`` on random networks of affine nodes, in both dialects: fused is equal, border and all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from torch import fx, nn

from otgraph.graph.graph import Graph, Port, Signature
from otgraph.graph.onnx.importer import import_model
from otgraph.rewrite.contract import Context
from otgraph.rewrite.rewriter import Rewriter
from passes.fuse_linear import FuseLinear

aten = torch.ops.aten
LIMIT = 1e-10
"""Relative, in float64; the claim is 1e-5 in float32."""


def fuse(graph: Graph, growth: float) -> tuple[Graph, Rewriter]:
    rewriter = Rewriter(graph.copy(), "fuse-linear")
    FuseLinear(growth).run(rewriter, Context())
    return rewriter.finish(), rewriter


def compute_nodes(graph: Graph) -> int:
    return sum(node.op == "call_function" for node in graph.module.graph.nodes)


def worst(before: Graph, after: Graph, shape: tuple[int, ...], axes: int) -> float:
    """The largest error relative to the largest value, over sizes that leave every remainder of a stride."""
    found = 0.0
    for more in range(4):
        x = torch.randn(*shape[: len(shape) - axes], *(size + more for size in shape[len(shape) - axes :]))
        (a,), (b,) = before(x.double()), after(x.double())
        assert a.shape == b.shape
        found = max(found, float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)))
    return found


class Aten:
    """Builds a float64 program of plain operators."""

    def __init__(self, axes: int) -> None:
        self.axes, self.program, self.root = axes, fx.Graph(), nn.Module()
        self.entry = self.program.placeholder("x")

    def store(self, value: torch.Tensor) -> fx.Node:
        name = f"t{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, value.double())
        return self.program.get_attr(name)

    def call(self, function: Any, *args: Any) -> fx.Node:
        return self.program.call_function(function, args)

    def conv(self, x: Any, weight: torch.Tensor, bias: torch.Tensor | None, o: dict[str, Any]) -> Any:
        function = {1: aten.conv1d, 2: aten.conv2d, 3: aten.conv3d}[self.axes].default
        stored = None if bias is None else self.store(bias)
        pads = [p for p, _ in o["pads"]]
        if any(a != b for a, b in o["pads"]):
            x, pads = self.pad(x, o["pads"], 0.0), [0] * self.axes
        return self.call(
            function, x, self.store(weight), stored, o["stride"], pads, o["dilation"], o["groups"]
        )

    def pad(self, x: Any, pads: list[tuple[int, int]], value: float) -> Any:
        return self.call(aten.constant_pad_nd.default, x, [a for p in reversed(pads) for a in p], value)

    def pool(self, x: Any, o: dict[str, Any]) -> Any:
        function = {1: aten.avg_pool1d, 2: aten.avg_pool2d, 3: aten.avg_pool3d}[self.axes].default
        return self.call(function, x, o["kernel"], o["stride"], [0] * self.axes, o["ceil"], True)

    def norm(self, x: Any, tensors: list[torch.Tensor]) -> Any:
        stored = [self.store(tensor) for tensor in tensors]
        return self.call(aten.batch_norm.default, x, *stored, False, 0.1, 1e-3, False)

    def scale(self, x: Any, value: torch.Tensor) -> Any:
        return self.call(aten.mul.Tensor, x, self.store(value))

    def shift(self, x: Any, value: torch.Tensor) -> Any:
        return self.call(aten.sub.Tensor, x, self.store(value))

    def add(self, a: Any, b: Any) -> Any:
        return self.call(aten.add.Tensor, a, b)

    def relu(self, x: Any) -> Any:
        return self.call(aten.relu.default, x)

    def finish(self, value: Any, shape: tuple[int, ...]) -> Graph:
        self.program.output((value,))
        module = fx.GraphModule(self.root, self.program)
        ports = (Port("x", torch.float64, ("batch", *shape[1:])),)
        return Graph(module, Signature(ports, ports), "aten", (torch.randn(*shape).double(),))


class Onnx:
    """Builds the same as an ONNX model of doubles."""

    def __init__(self, axes: int) -> None:
        self.axes, self.nodes, self.tensors = axes, [], []
        self.entry = "x"

    def store(self, value: torch.Tensor) -> str:
        name = f"t{len(self.tensors)}"
        array = value.numpy() if value.dtype == torch.int64 else value.double().numpy()
        self.tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def call(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def conv(self, x: Any, weight: torch.Tensor, bias: torch.Tensor | None, o: dict[str, Any]) -> Any:
        stored = [] if bias is None else [self.store(bias)]
        pads = [p for p, _ in o["pads"]] + [p for _, p in o["pads"]]
        return self.call(
            "Conv", x, self.store(weight), *stored, pads=pads, strides=o["stride"], dilations=o["dilation"],
            group=o["groups"],
        )  # fmt: skip

    def pad(self, x: Any, pads: list[tuple[int, int]], value: float) -> Any:
        amounts = torch.tensor([0, 0, *(a for a, _ in pads), 0, 0, *(b for _, b in pads)])
        return self.call("Pad", x, self.store(amounts), self.store(torch.tensor(value)))

    def pool(self, x: Any, o: dict[str, Any]) -> Any:
        return self.call(
            "AveragePool", x, kernel_shape=o["kernel"], strides=o["stride"], ceil_mode=int(o["ceil"])
        )

    def norm(self, x: Any, tensors: list[torch.Tensor]) -> Any:
        return self.call("BatchNormalization", x, *map(self.store, tensors), epsilon=1e-3)

    def scale(self, x: Any, value: torch.Tensor) -> Any:
        return self.call("Mul", self.store(value), x)

    def shift(self, x: Any, value: torch.Tensor) -> Any:
        return self.call("Sub", x, self.store(value))

    def add(self, a: Any, b: Any) -> Any:
        return self.call("Add", a, b)

    def relu(self, x: Any) -> Any:
        return self.call("Relu", x)

    def finish(self, value: Any, shape: tuple[int, ...]) -> Graph:
        sizes = ["N", shape[1], *(f"d{a}" for a in range(self.axes))]
        ends = [
            helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, s)
            for n, s in ((self.entry, sizes), (value, ["N", None, *sizes[2:]]))
        ]
        model = helper.make_model(
            helper.make_graph(self.nodes, "net", ends[:1], ends[1:], self.tensors),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        graph = import_model(model)
        return graph.with_example((torch.randn(*shape).double(),))


def conv_options(draw: Callable[..., Any], axes: int, inputs: int, outputs: int) -> dict[str, Any]:
    depthwise = draw(st.integers(0, 3)) == 0 and outputs % inputs == 0
    groups = (
        inputs
        if depthwise
        else draw(st.sampled_from([g for g in (1, 1, 2) if inputs % g == outputs % g == 0]))
    )
    kernel = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(axes)]
    if draw(st.booleans()):
        kernel = [kernel[0]] * axes
    pad = draw(st.sampled_from([0, 0, 1, 2]))
    uneven = draw(st.integers(0, 4)) == 0
    return {
        "kernel": kernel,
        "stride": [draw(st.sampled_from([1, 1, 1, 2]))] * axes,
        "dilation": [draw(st.sampled_from([1, 1, 1, 2, 3]))] * axes,
        "groups": groups,
        "pads": [(pad, draw(st.integers(0, 2)) if uneven else pad) for _ in range(axes)],
        "bias": draw(st.booleans()),
    }


def append(draw: Callable[..., Any], net: Any, x: Any, channels: int) -> tuple[Any, int]:
    """One random affine node (or a branching pair) behind ``x``."""
    axes = net.axes
    what = draw(
        st.sampled_from(["conv"] * 6 + ["norm", "scale", "shift", "pad", "pool", "residual", "sum", "relu"])
    )
    spread = (channels, *[1] * axes)
    if what == "conv":
        outputs = draw(st.sampled_from([2, 4]))
        o = conv_options(draw, axes, channels, outputs)
        weight = torch.randn(outputs, channels // o["groups"], *o["kernel"])
        return net.conv(x, weight, torch.randn(outputs) if o["bias"] else None, o), outputs
    if what == "norm":
        still = draw(st.integers(0, 2)) == 0  # nothing is shifted: it may go through a padding
        mean, beta = (torch.zeros(channels) if still else torch.randn(channels) for _ in range(2))
        return net.norm(x, [torch.randn(channels), beta, mean, torch.rand(channels) + 0.1]), channels
    if what == "scale":
        return net.scale(x, torch.randn(spread)), channels
    if what == "shift":
        return net.shift(x, torch.randn(spread)), channels
    if what == "pad":
        pads = [(draw(st.integers(-1, 2)), draw(st.integers(0, 2))) for _ in range(axes)]
        return net.pad(x, pads, draw(st.sampled_from([0.0, 0.0, 0.5]))), channels
    if what == "pool":
        kernel = draw(st.sampled_from([2, 3]))
        o = {"kernel": [kernel] * axes, "stride": [draw(st.sampled_from([1, 2]))] * axes}
        return net.pool(x, o | {"ceil": draw(st.integers(0, 3)) == 0}), channels
    if what == "relu":
        return net.relu(x), channels
    kernel, dilation = draw(st.sampled_from([(3, 1), (5, 1), (3, 2)]))
    extent = (kernel - 1) * dilation
    before = extent // 2 if isinstance(net, Aten) else draw(st.integers(0, extent))
    o = {
        "stride": [1] * axes,
        "dilation": [dilation] * axes,
        "groups": draw(st.sampled_from([1, 2, channels])),
    }
    weight = torch.randn(channels, channels // o["groups"], *[kernel] * axes)
    wide = net.conv(x, weight, torch.randn(channels), o | {"pads": [(before, extent - before)] * axes})
    if what == "residual":
        return net.add(x, wide) if draw(st.booleans()) else net.add(wide, x), channels
    small = net.conv(
        x,
        torch.randn(channels, channels, *[1] * axes),
        torch.randn(channels),
        {"pads": [(0, 0)] * axes, "stride": [1] * axes, "dilation": [1] * axes, "groups": 1},
    )
    return net.add(small, wide), channels


@st.composite
def networks(draw: st.DrawFn, kind: type[Aten] | type[Onnx]) -> tuple[Graph, int]:
    axes = draw(st.sampled_from([1, 1, 2]))
    torch.manual_seed(draw(st.integers(0, 999)))
    net = kind(axes)
    channels = draw(st.sampled_from([2, 4]))
    shape = (2, channels, *[draw(st.integers(18, 21)) for _ in range(axes)])
    value: Any = net.entry
    for _ in range(draw(st.integers(2, 5))):
        value, channels = append(draw, net, value, channels)
    return net.finish(value, shape), axes


def holds(case: tuple[Graph, int], growth: float, tally: dict[str, int]) -> None:
    graph, axes = case
    try:
        graph(*graph.example)
    except RuntimeError:  # the sizes ran out
        assume(False)
    after, rewriter = fuse(graph, growth)
    applied = sum(remark.kind == "applied" for remark in rewriter.remarks)
    said = [str(remark) for remark in rewriter.remarks]
    assert len(set(said)) == len(said)
    assert worst(graph, after, tuple(graph.example[0].shape), axes) < LIMIT
    assert compute_nodes(after) <= compute_nodes(graph) - applied
    assert fuse(after, growth)[1].edits == 0, "it stopped before there was nothing left to do"
    tally["cases"] += 1
    tally["fused"] += applied > 0
    tally["refused"] += any(remark.kind == "missed" for remark in rewriter.remarks)


def run_random(kind: type[Aten] | type[Onnx], examples: int, growth: float) -> dict[str, int]:
    tally = {"cases": 0, "fused": 0, "refused": 0}

    @given(networks(kind))
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: tuple[Graph, int]) -> None:
        holds(case, growth, tally)

    check()
    return tally


@pytest.mark.parametrize(("kind", "growth"), [(Aten, 1.0), (Aten, math.inf), (Onnx, math.inf)])
def test_random_networks(kind: type[Aten] | type[Onnx], growth: float) -> None:
    tally = run_random(kind, 60, growth)
    assert tally["fused"] > tally["cases"] / 4 and tally["refused"] > tally["cases"] / 6


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "growth"), [(Aten, 1.0), (Aten, math.inf), (Onnx, 1.0), (Onnx, math.inf)])
def test_many_random_networks(kind: type[Aten] | type[Onnx], growth: float) -> None:
    """Over a thousand in all, of which enough are fused and enough refused to mean something."""
    tally = run_random(kind, 400, growth)
    assert tally["cases"] >= 250
    assert tally["fused"] > tally["cases"] / 4 and tally["refused"] > tally["cases"] / 6
