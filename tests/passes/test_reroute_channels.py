"""``reroute-channels``: exact where removed channels are copies of kept ones, whatever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from otgraph.calibrate.width import analyse_width
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyse
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
    found = analyse_width(graph, analyse(graph), Data.from_arrays({name: inputs}))
    (width,) = (width for width in found.widths.values() if width.size == 8)
    made = width.coupling(KEPT)
    assert made.target.tolist() == [0, 1, 1, 0, 4, 1, 6, 7]
    return {width.dim: made}


@pytest.mark.parametrize("dialect", NETS)
def test_copies_are_removed_without_a_trace(dialect: str, tmp_path: Path) -> None:
    build, shape = NETS[dialect]
    graph = build()
    small = run(graph, coupling(graph, shape)).graph
    assert 8 not in [dim.size for dim in analyse(small).prunable()]
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
    assert "applied: reroute-channels: make: re-routed channels=2 dropped=1" in said
    (missed,) = (line for line in said if line.startswith("missed"))
    assert "wide.weight" in missed and "what it loses is dropped" in missed


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
    dim = next(d.name for d in analyse(graph).prunable() if any(p.tensor == "make.weight" for p in d.ports))
    target = np.array([0, 1, 1, 0, 4, 1, 6, 7])
    given = {dim: Coupling(KEPT, target, scales={"read.weight": np.ones(8)})}
    result = run(graph, given, "reroute-channels")
    assert any("read.weight: shared with another node" in str(remark) for remark in result.remarks)
    assert torch.equal(result.graph.tensor("read.weight"), graph.tensor("read.weight"))


def test_without_a_plan_nothing_happens() -> None:
    result = run(aten_net(), {}, "reroute-channels")
    assert result.records[0].edits == 0 and not result.remarks
