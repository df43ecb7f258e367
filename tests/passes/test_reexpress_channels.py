"""``reexpress-channels``: exact where removed channels are sums of kept ones, whatever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.masking import relative_error
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.transport.coupling import Coupling

KEPT = np.array([0, 1, 4, 6, 7])
MIXED = {2: (0.5, -1.0), 3: (2.0, 0.25), 5: (-1.0, 1.0)}
"""Removed channel → its factors of channels 0 and 1: no one kept channel can stand for it."""
NOTHING = Coupling(KEPT, np.array([0, 1, -1, -1, 4, -1, 6, 7]))
PASSES = "reexpress-channels,prune-channels"


def mix(*tensors: torch.Tensor) -> None:
    with torch.no_grad():
        for tensor in tensors:
            for removed, (first, second) in MIXED.items():
                tensor[removed] = first * tensor[0] + second * tensor[1]


class Net(nn.Module):
    """A dim that a padded convolution, a product behind a flattening, and a norm behind a concatenation
    read."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.other = nn.Conv2d(9, 8, 1), nn.Conv2d(9, 5, 1)
        self.conv, self.flat = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(8 * 25, 4)
        self.wide, self.norm = nn.Conv2d(13, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4)
        with torch.no_grad():
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.make(x)
        return self.conv(y), self.flat(y.flatten(1)), self.norm(self.wide(torch.cat([self.other(x), y], 1)))


def aten_net(*, offset: float = 0.0) -> Graph:
    torch.manual_seed(0)
    net = Net().eval()
    mix(net.make.weight, net.make.bias)
    with torch.no_grad():
        net.make.bias[2] += offset
    return capture(net, (torch.randn(2, 9, 5, 5),))


ONNX = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6] x) => (float[N,4] y, float[N,4] z) {
    a = MatMul (x, w)
    y = MatMul (a, u)
    z = Gemm <transB = 1> (a, v, b)
}"""


def onnx_net() -> Graph:
    rng = np.random.default_rng(0)
    model = parser.parse_model(ONNX)
    for name, shape in {"w": (6, 8), "u": (8, 4), "v": (4, 8), "b": (4,)}.items():
        values = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        if name == "w":
            mix(values.T)
        model.graph.initializer.append(numpy_helper.from_array(values.numpy(), name))
    return import_model(model)


NETS = {"aten": (aten_net, (9, 5, 5)), "onnx": (onnx_net, (6,))}


def inputs(graph: Graph, shape: tuple[int, ...], count: int = 64) -> Data:
    values = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    return Data.from_arrays({graph.signature.inputs[0].name: values})


def run(graph: Graph, data: Data | None, text: str = PASSES) -> Result:
    (dim,) = (dim.name for dim in analyze(graph).prunable() if dim.size == 8)
    context = Context(data=data, original=graph, couplings={dim: NOTHING})
    return PassManager(parse_pipeline(text)).run(graph, context)


@pytest.mark.parametrize("dialect", NETS)
def test_sums_of_kept_channels_are_removed_almost_without_a_trace(dialect: str, tmp_path: Path) -> None:
    build, shape = NETS[dialect]
    graph = build()
    data = inputs(graph, shape)
    small, cut = run(graph, data).graph, run(graph, data, "prune-channels").graph
    small.save(tmp_path / "small.onnx")
    session = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(4, *shape)
    missed = relative_error(graph(x), cut(x))
    assert missed > 0.1 and relative_error(graph(x), small(x)) < 0.02 * missed
    ran = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert relative_error(small(x), tuple(map(torch.from_numpy, ran))) <= 1e-5


def test_one_channel_cannot_stand_for_a_sum() -> None:
    graph = aten_net()
    data = inputs(graph, (9, 5, 5))
    x = torch.randn(4, 9, 5, 5)
    one = run(graph, data, "reroute-channels,prune-channels").graph
    assert relative_error(graph(x), one(x)) > 10 * relative_error(graph(x), run(graph, data).graph(x))


def test_a_constant_goes_into_the_bias_or_the_norm() -> None:
    graph = aten_net(offset=5.0)
    result = run(graph, inputs(graph, (9, 5, 5)))
    assert any("re-expressed channels=3 readers=3 constants=3" in str(remark) for remark in result.remarks)
    x = torch.randn(4, 9, 5, 5)
    wanted, got = graph(x), result.graph(x)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert relative_error((wanted[0][inside],), (got[0][inside],)) < 0.01
    assert relative_error(wanted[1:], got[1:]) < 0.01
    assert relative_error((wanted[0],), (got[0],)) > 0.05  # the border, where fewer taps read the constant


def test_a_dim_that_is_not_cut_after_all_is_not_counted_twice() -> None:
    graph = aten_net()
    kept = run(graph, inputs(graph, (9, 5, 5)), "reexpress-channels").graph
    x = torch.randn(4, 9, 5, 5)
    assert relative_error(graph(x), kept(x)) < 0.02


BIASES = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,9] x, float[N,9] u) => (float[N,4] y, float[N,4] z) {
    a = Gemm <transB = 1> (x, w, o)
    b = Gemm <transB = 1> (u, v, p)
    c = Concat <axis = 1> (a, b)
    y = Gemm <transB = 1> (c, r, s)
    z = Gemm <transB = 1> (x, t, s)
}"""


def test_a_bias_that_others_have_too_takes_the_constants_of_two_dims() -> None:
    rng = np.random.default_rng(3)
    model = parser.parse_model(BIASES)
    shapes = {"w": (8, 9), "v": (8, 9), "o": (8,), "p": (8,), "r": (4, 16), "s": (4,), "t": (4, 9)}
    for name, shape in shapes.items():
        values = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        if name in "wv":
            mix(values)
        model.graph.initializer.append(numpy_helper.from_array(values.numpy(), name))
    graph = import_model(model)
    arrays = {name: rng.normal(size=(64, 9)).astype(np.float32) for name in ("x", "u")}
    couplings = {dim.name: NOTHING for dim in analyze(graph).prunable() if dim.size == 8}
    assert len(couplings) == 2
    context = Context(data=Data.from_arrays(arrays), original=graph, couplings=couplings)
    small = PassManager(parse_pipeline(PASSES)).run(graph, context).graph
    x, u = torch.randn(5, 9), torch.randn(5, 9)
    wanted, got = graph(x, u), small(x, u)
    assert relative_error(wanted[1:], got[1:]) < 1e-6  # the other reader of the bias
    assert relative_error(wanted[:1], got[:1]) < 0.02


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make, self.read, self.last = nn.Linear(9, 8), nn.Linear(8, 6), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.make(x)
        return self.read(y).sum(1) + self.read(y.flip(0)).sum(1) + self.last(y).sum(1)


def test_a_weight_that_two_nodes_read_is_left_alone_and_it_is_said() -> None:
    torch.manual_seed(0)
    graph = capture(Shared().eval(), torch.randn(2, 9))
    result = run(graph, inputs(graph, (9,)), "reexpress-channels")
    said = [str(remark) for remark in result.remarks]
    shared = "missed: reexpress-channels: read.weight: shared with another node: what it loses is dropped"
    assert said.count(shared) == 2 and any("readers=1" in line for line in said)
    assert torch.equal(result.graph.tensor("read.weight"), graph.tensor("read.weight"))
    assert not torch.equal(result.graph.tensor("last.weight"), graph.tensor("last.weight"))


@pytest.mark.parametrize("planned", [True, False])
def test_without_inputs_or_a_plan_nothing_happens_and_it_is_said(planned: bool) -> None:
    graph = aten_net()
    if planned:
        result = run(graph, None, "reexpress-channels")
        why = "no calibration inputs: removed channels are dropped; give --calib"
    else:
        result = PassManager(parse_pipeline("reexpress-channels")).run(graph, Context(original=graph))
        why = "no plan that removes channels was given; see otgraph plan"
    assert [str(remark) for remark in result.remarks] == [f"missed: reexpress-channels: {graph.name}: {why}"]
    assert result.records[0].edits == 0
