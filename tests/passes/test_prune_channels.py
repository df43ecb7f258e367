"""``prune-channels``: the masking law through the pass manager and in ONNX Runtime, and what it chooses."""

from __future__ import annotations

from dataclasses import replace
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
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.transport.coupling import Coupling
from passes.prune_channels import PruneChannels, kept_count, selected

ONNX = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] x) => (float[N,4] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    n = BatchNormalization (a, g, b, m, v)
    r = Relu (n)
    d = Conv <group = 8> (r, k)
    s = Add (d, e)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, u, c)
}"""
WEIGHTS = {"w": (8, 3, 3, 3), "k": (8, 1, 3, 3), "e": (1, 8, 1, 1), "u": (4, 8), "c": (4,)}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8 * 36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.stem(x))
        return self.head((y + self.b(torch.relu(self.a(y)))).flatten(1))


def onnx_net() -> Graph:
    rng = np.random.default_rng(0)
    model = parser.parse_model(ONNX)
    for name, shape in {**WEIGHTS, **dict.fromkeys("gbmv", (8,))}.items():
        values = rng.normal(size=shape) if name in WEIGHTS else rng.uniform(0.5, 1.5, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return import_model(model)


def aten_net() -> Graph:
    torch.manual_seed(0)
    net = Residual().eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return capture(net, (torch.randn(2, 3, 6, 6),))


NETS = {"onnx": onnx_net, "aten": aten_net}


def run(graph: Graph, text: str, **context: object) -> Result:
    return PassManager(parse_pipeline(text)).run(graph, Context(original=graph, **context))  # type: ignore[arg-type]


def couplings(graph: Graph, seed: int) -> dict[str, Coupling]:
    random = np.random.default_rng(seed)
    found = {}
    for dim in analyze(graph).prunable():
        kept = np.sort(random.permutation(dim.size)[: dim.size // 2])
        target = np.full(dim.size, -1)
        target[kept] = kept
        found[dim.name] = Coupling(kept, target)
    return found


@pytest.mark.parametrize("dialect", NETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_masking_law_here_and_in_onnxruntime(dialect: str, seed: int, tmp_path: Path) -> None:
    graph = NETS[dialect]()
    axes, chosen = analyze(graph), couplings(graph, seed)
    assert chosen
    small = run(graph, "prune-channels", couplings=chosen).graph
    masked = mask_graph(graph, axes, {name: coupling.mask() for name, coupling in chosen.items()})
    small.save(tmp_path / "small.onnx")
    session = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.randn(batch, 3, 6, 6)
        wanted = masked(x)
        assert relative_error(wanted, small(x)) <= 1e-5
        ran = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert relative_error(wanted, tuple(torch.from_numpy(y) for y in ran)) <= 1e-5
        assert relative_error(graph(x), wanted) > 1e-3


def sizes(graph: Graph) -> dict[str, int]:
    return {dim.name: dim.size for dim in analyze(graph).prunable()}


def test_inner_leaves_residual_dims_whole() -> None:
    graph = aten_net()
    assert sizes(run(graph, "prune-channels{keep=0.5 dims=inner}").graph) == {"stem": 8, "a": 3}
    assert sizes(run(graph, "prune-channels{keep=0.5}").graph) == {"stem": 4, "a": 3}


def test_patterns_choose_and_spare() -> None:
    graph = aten_net()
    assert sizes(run(graph, "prune-channels{keep=0.5 include=[st*]}").graph) == {"stem": 4, "a": 6}
    assert sizes(run(graph, "prune-channels{keep=0.5 exclude=[st*]}").graph) == {"stem": 8, "a": 3}
    untouched = run(graph, "prune-channels{keep=0.5 include=[nothing]}")
    assert untouched.records[0].edits == 0 and sizes(untouched.graph) == sizes(graph)


def test_brackets_of_a_name_are_taken_literally() -> None:
    torch.manual_seed(0)
    graph = capture(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(2, 3))
    dim = replace(analyze(graph).prunable()[0], name="conv[1]")
    assert selected(dim, "all", ("conv[1]",), ()) and not selected(dim, "all", ("*",), ("*[1]",))
    assert not selected(replace(dim, name="conv1"), "all", ("conv[1]",), ())
    step = PruneChannels(include=("*[1]",))
    assert str(step) == 'prune-channels{include=["*[1]"]}' and parse_pipeline(str(step)) == (step,)


def test_the_largest_weights_stay_where_nothing_is_annotated() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        net[0].weight.div_(net[0].weight.norm(dim=1, keepdim=True)).mul_(
            torch.tensor([1.0, 9.0, 2.0, 8.0, 7.0, 3.0])[:, None]
        )
        net[2].weight.fill_(0.1)
    small = run(capture(net, torch.randn(2, 3)), "prune-channels{keep=0.5}").graph
    assert torch.equal(small.tensor("0.weight"), net[0].weight[[1, 3, 4]])


def test_annotated_curves_choose() -> None:
    graph = aten_net()
    data = Data.from_arrays({"x": np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)})
    result = run(graph, "annotate-width{criterion=random},prune-channels{keep=0.5}", data=data, seed=1)
    other = run(graph, "annotate-width{criterion=random},prune-channels{keep=0.5}", data=data, seed=2)
    assert sizes(result.graph) == sizes(other.graph)
    assert not torch.equal(result.graph.tensor("a.weight"), other.graph.tensor("a.weight"))


def test_remarks_say_what_was_cut_and_what_blocks() -> None:
    result = run(aten_net(), "prune-channels{keep=0.5}")
    said = [str(remark) for remark in result.remarks]
    assert any("applied: prune-channels: a: 6 → 3 channels" in line for line in said)
    assert any(
        line.startswith("missed: prune-channels: ") and "blocked by model output" in line for line in said
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("", "no plan was given, and keep=1 leaves every dim whole; see otgraph plan"),
        ("{keep=0.5 include=[nothing]}", "the options leave no dim to cut"),
    ],
)
def test_without_a_plan_or_a_fraction_it_says_so(options: str, why: str) -> None:
    graph = aten_net()
    result = run(graph, f"prune-channels{options}")
    assert f"missed: prune-channels: {graph.name}: {why}" in [str(r) for r in result.remarks]
    done = run(graph, "prune-channels{keep=0.5}").remarks
    assert not any(remark.where == graph.name for remark in done)


def test_a_plan_for_a_dim_that_is_not_there_says_so() -> None:
    result = run(aten_net(), "prune-channels", couplings={"ghost": Coupling(np.array([0]), np.array([0, 0]))})
    assert "missed: prune-channels: ghost: no such dim in this graph" in [str(r) for r in result.remarks]
    assert result.records[0].edits == 0


@pytest.mark.parametrize(
    ("size", "fraction", "multiple", "kept"),
    [
        (64, 0.5, 8, 32),
        (64, 0.3, 8, 16),
        (64, 0.01, 8, 8),
        (6, 0.5, 8, 3),
        (6, 0.01, 1, 1),
        (12, 0.99, 8, 12),
    ],
)
def test_how_many_are_kept(size: int, fraction: float, multiple: int, kept: int) -> None:
    assert kept_count(size, fraction, multiple) == kept


def test_it_is_a_masked_transform_and_reads_back() -> None:
    step = PruneChannels(keep=0.25, include=("a", "b*"))
    assert parse_pipeline(str(step)) == (step,)
    assert step.exactness.value == "masked"
