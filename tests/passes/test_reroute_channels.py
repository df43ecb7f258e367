"""``reroute-channels``: exact where removed channels are copies of kept ones, whatever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from otgraph.calibrate.width import analyze_width
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

COPIES = {0: [3], 1: [2, 5]}
"""Kept channel → channels that are multiples of it; the last of eight is free."""
FACTOR = {3: 2.0, 2: 0.5, 5: 3.0}
KEPT = np.array([0, 1, 4, 6, 7])


def multiply_rows(*tensors: torch.Tensor) -> None:
    with torch.no_grad():
        for tensor in tensors:
            for kept, copies in COPIES.items():
                for copy in copies:
                    tensor[copy] = FACTOR[copy] * tensor[kept]


class TwoReaders(nn.Module):
    """A dim read by a 3x3 convolution, by a product behind a flattening, and through a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 8, 1)
        self.conv, self.other = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.flat, self.wide = nn.Linear(8 * 25, 4), nn.Conv2d(13, 4, 3, stride=2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu(self.make(x))
        return self.conv(y), self.flat(y.flatten(1)), self.wide(torch.cat([self.other(x), y], 1))


def aten_net() -> Graph:
    torch.manual_seed(0)
    net = TwoReaders().eval()
    multiply_rows(net.make.weight, net.make.bias)
    return capture(net, (torch.randn(2, 3, 5, 5),))


ONNX = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6] x) => (float[N,4] y, float[N,4] z) {
    a = MatMul (x, w)
    r = Relu (a)
    y = MatMul (r, u)
    z = Gemm <transB = 1> (r, v, b)
}"""


def onnx_net() -> Graph:
    rng = np.random.default_rng(0)
    model = parser.parse_model(ONNX)
    for name, shape in {"w": (6, 8), "u": (8, 4), "v": (4, 8), "b": (4,)}.items():
        values = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        if name == "w":
            multiply_rows(values.T)
        model.graph.initializer.append(numpy_helper.from_array(values.numpy(), name))
    return import_model(model)


NETS = {"aten": (aten_net, (3, 5, 5)), "onnx": (onnx_net, (6,))}


def run(
    graph: Graph, couplings: dict[str, Coupling], text: str = "reroute-channels,prune-channels"
) -> Result:
    return PassManager(parse_pipeline(text)).run(graph, Context(original=graph, couplings=couplings))


def coupling(graph: Graph, shape: tuple[int, ...]) -> dict[str, Coupling]:
    name = graph.signature.inputs[0].name
    inputs = np.random.default_rng(1).normal(size=(16, *shape)).astype(np.float32)
    found = analyze_width(graph, analyze(graph), Data.from_arrays({name: inputs}))
    (width,) = (width for width in found.widths.values() if width.size == 8)
    made = width.coupling(KEPT)
    assert made.target.tolist() == [0, 1, 1, 0, 4, 1, 6, 7]
    return {width.dim: made}


@pytest.mark.parametrize("dialect", NETS)
def test_copies_are_removed_without_a_trace(dialect: str, tmp_path: Path) -> None:
    build, shape = NETS[dialect]
    graph = build()
    small = run(graph, coupling(graph, shape)).graph
    assert 8 not in [dim.size for dim in analyze(small).prunable()]
    small.save(tmp_path / "small.onnx")
    session = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        x = torch.randn(batch, *shape)
        assert relative_error(graph(x), small(x)) <= 1e-5
        ran = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert relative_error(graph(x), tuple(map(torch.from_numpy, ran))) <= 1e-5


@pytest.mark.parametrize("dialect", NETS)
def test_without_it_they_are_missed(dialect: str) -> None:
    build, shape = NETS[dialect]
    graph = build()
    cut = run(graph, coupling(graph, shape), "prune-channels").graph
    assert relative_error(graph(*graph.example), cut(*graph.example)) > 0.05


def test_wrong_factors_are_seen() -> None:
    graph = aten_net()
    ((name, right),) = coupling(graph, (3, 5, 5)).items()
    wrong = {reader: scales / 2 for reader, scales in right.scales.items()}
    small = run(graph, {name: Coupling(right.kept, right.target, scales=wrong)}).graph
    assert relative_error(graph(*graph.example), small(*graph.example)) > 0.01


def test_remarks_count_what_is_routed_and_dropped() -> None:
    graph = aten_net()
    target = np.array([0, 1, 1, 0, 4, -1, 6, 7])
    ones = dict.fromkeys(("conv.weight", "flat.weight"), np.ones(8))
    said = [
        str(r) for r in run(graph, {"make": Coupling(KEPT, target, scales=ones)}, "reroute-channels").remarks
    ]
    assert "applied: reroute-channels: make: re-routed channels=2 dropped=1 readers=2 constants=0" in said
    assert [line for line in said if line.startswith("missed")] == [
        "missed: reroute-channels: wide.weight: the plan has no factors for it: what it loses is dropped",
        f"missed: reroute-channels: {graph.name}: no calibration inputs: means are lost; give --calib",
    ]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Linear(3, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.make(x))
        return torch.relu(self.read(y)) + self.read(y.flip(0))


def test_a_weight_that_two_nodes_read_is_left_alone() -> None:
    torch.manual_seed(0)
    graph = capture(Shared().eval(), torch.randn(2, 3))
    dim = next(d.name for d in analyze(graph).prunable() if any(p.tensor == "make.weight" for p in d.ports))
    target = np.array([0, 1, 1, 0, 4, 1, 6, 7])
    given = {dim: Coupling(KEPT, target, scales={"read.weight": np.ones(8)})}
    result = run(graph, given, "reroute-channels")
    said = [str(remark) for remark in result.remarks]
    shared = "missed: reroute-channels: read.weight: shared with another node: what it loses is dropped"
    alone = f"{dim}: no reader can take part: the removed channels are dropped dropped=3"
    assert said == [shared, shared, f"missed: reroute-channels: {alone}"] and result.records[0].edits == 0
    assert torch.equal(result.graph.tensor("read.weight"), graph.tensor("read.weight"))


def test_a_dim_whose_channels_are_all_dropped_is_not_called_re_routed() -> None:
    graph = aten_net()
    target = np.array([0, 1, -1, -1, 4, -1, 6, 7])
    scales = dict.fromkeys(("conv.weight", "flat.weight", "wide.weight"), np.ones(8))
    result = run(graph, {"make": Coupling(KEPT, target, scales=scales)}, "reroute-channels")
    said = [str(remark) for remark in result.remarks]
    expected = "make: the plan routes none of them: the removed channels are dropped dropped=3"
    assert f"missed: reroute-channels: {expected}" in said
    assert not any(line.startswith("applied") for line in said) and result.records[0].edits == 0


def test_without_a_plan_nothing_happens_and_it_is_said() -> None:
    graph = aten_net()
    result = run(graph, {}, "reroute-channels")
    (said,) = map(str, result.remarks)
    assert said == (
        f"missed: reroute-channels: {graph.name}: no plan that removes channels was given; see otgraph plan"
    )
    assert result.records[0].edits == 0


class Offsets(nn.Module):
    """Removed channels are multiples of kept ones plus a constant; the last is nothing but a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 8, 1)
        self.plain, self.padded = nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3, padding=1)
        self.bare, self.norm = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)
        with torch.no_grad():
            self.make.bias.uniform_(1, 3)
            self.norm.weight.uniform_(0.5, 2)
            self.norm.running_var.uniform_(0.5, 2)
            multiply_rows(self.make.weight)
            self.make.weight[7] = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.make(x)
        return self.plain(y), self.norm(self.bare(y)), self.padded(y)


def offsets() -> tuple[Graph, Data, dict[str, Coupling]]:
    torch.manual_seed(0)
    graph = capture(Offsets().eval(), (torch.randn(2, 3, 6, 6),))
    inputs = np.random.default_rng(1).normal(size=(16, 3, 6, 6)).astype(np.float32)
    data = Data.from_arrays({graph.signature.inputs[0].name: inputs})
    found = analyze_width(graph, analyze(graph), data)
    return graph, data, {"make": found.widths["make"].coupling(KEPT[:-1])}


def test_means_go_into_the_bias_or_the_batch_norm() -> None:
    graph, data, couplings = offsets()
    context = Context(data=data, original=graph, couplings=couplings)
    result = PassManager(parse_pipeline("reroute-channels,prune-channels")).run(graph, context)
    x = torch.randn(3, 3, 6, 6)
    wanted, got = graph(x), result.graph(x)
    assert relative_error(wanted[:2], got[:2]) <= 1e-5
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert relative_error((wanted[2][inside],), (got[2][inside],)) <= 1e-5
    assert (
        relative_error((wanted[2],), (got[2],)) > 1e-3
    )  # the border, where fewer taps had read the constant
    assert any("readers=3 constants=3" in str(remark) for remark in result.remarks)


def test_without_inputs_the_means_are_missed() -> None:
    graph, _, couplings = offsets()
    small = run(graph, couplings).graph
    x = torch.randn(3, 3, 6, 6)
    wanted, got = graph(x), small(x)
    assert all(relative_error((a,), (b,)) > 0.1 for a, b in zip(wanted, got, strict=True))


SHARED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6] x) => (float[N,4] y, float[N,4] z, float[N,4] p, float[N,4] q) {
    a = Gemm (x, w, o)
    y = Gemm (a, u, c)
    z = Gemm (a, v, c)
    f = MatMul (a, s)
    p = BatchNormalization (f, g, b, m, k)
    h = MatMul (a, t)
    q = BatchNormalization (h, g, b, m, k)
}"""


def test_a_shared_bias_becomes_two_and_shared_statistics_stay() -> None:
    rng = np.random.default_rng(0)
    model = parser.parse_model(SHARED)
    shapes = {
        "w": (6, 8),
        "o": (8,),
        "c": (4,),
        **dict.fromkeys("uvst", (8, 4)),
        **dict.fromkeys("gbmk", (4,)),
    }
    for name, shape in shapes.items():
        values = torch.from_numpy(rng.uniform(0.5, 2, size=shape).astype(np.float32))
        if name == "w":
            multiply_rows(values.T)
        model.graph.initializer.append(numpy_helper.from_array(values.numpy(), name))
    graph = import_model(model)
    data = Data.from_arrays({"x": rng.normal(size=(16, 6)).astype(np.float32)})
    found = analyze_width(graph, analyze(graph), data)
    (width,) = found.widths.values()
    context = Context(data=data, original=graph, couplings={width.dim: width.coupling(KEPT)})
    result = PassManager(parse_pipeline("reroute-channels,prune-channels")).run(graph, context)
    assert any("readers=4 constants=2" in str(remark) for remark in result.remarks)
    x = torch.randn(5, 6)
    wanted, got = graph(x), result.graph(x)
    assert relative_error(wanted[:2], got[:2]) <= 1e-5
    assert relative_error(wanted[2:], got[2:]) > 1e-2
