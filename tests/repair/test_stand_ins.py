"""Repairs of networks in which spans collapsed: a node that stands for another aims at that one's value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from otgraph.calibrate.divergence import output_divergence
from otgraph.calibrate.span_fit import SpanFit
from otgraph.data import Chunk, Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.notes import is_stand_in
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.span import Collapse, Span
from otgraph.repair.least_squares import LeastSquaresOptions, repair_least_squares
from otgraph.repair.lockstep import run_with, same_nodes
from otgraph.repair.moments import MomentOptions, repair_moments
from otgraph.repair.trial import TrialRepair
from otgraph.rewrite.collapse import collapse_span
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.rewriter import Rewriter
from otgraph.window import Window


class Linear(nn.Module):
    """stem → (+ b ∘ a, which is a linear map) → head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 9, 1), nn.Conv2d(9, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.head(torch.tanh(y + self.norm(self.b(self.a(y)))))


class Mixer(nn.Module):
    """The same on (N, T, C), without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.head(torch.tanh(y + self.b(self.a(y))))


def mixer_onnx(net: Mixer) -> Graph:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> m (float[N,5,3] x) => (float[N,5,4] y) {
            m0 = MatMul (x, w0)
            linear = Add (m0, b0)
            m1 = MatMul (linear, w1)
            s1 = Add (m1, b1)
            m2 = MatMul (s1, w2)
            linear_2 = Add (m2, b2)
            add = Add (linear, linear_2)
            t = Tanh (add)
            m3 = MatMul (t, w3)
            y = Add (m3, b3)
        }"""
    )
    for number, layer in enumerate((net.stem, net.a, net.b, net.head)):
        for name, tensor in ((f"w{number}", layer.weight.t()), (f"b{number}", layer.bias)):
            array = tensor.detach().numpy().copy()
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return import_model(model)


def conv_case() -> tuple[Graph, Collapse, SpanFit]:
    net = Linear().eval()
    net.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    net.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    graph = capture(net, torch.randn(2, 3, 7, 7))
    add = next(n.name for n in graph.module.graph.nodes if n.name.startswith("add"))
    span = Span("conv2d", add, ("conv2d_1", "conv2d_2", "batch_norm_default", add), "batch_norm_default")
    gain = (net.norm.running_var + net.norm.eps).rsqrt()  # type: ignore[operator]
    weight = net.b.weight[:, :, 0, 0] @ net.a.weight[:, :, 0, 0] * gain[:, None]
    assert net.a.bias is not None and net.b.bias is not None and net.norm.running_mean is not None
    bias = (net.b.weight[:, :, 0, 0] @ net.a.bias + net.b.bias - net.norm.running_mean) * gain
    return graph, *numbers(span, weight[:, :, None, None], bias, 1)


def mixer_case(dialect: str) -> tuple[Graph, Collapse, SpanFit]:
    net = Mixer().eval()
    graph = capture(net, torch.randn(2, 5, 3)) if dialect == "aten" else mixer_onnx(net)
    add = next(n.name for n in graph.module.graph.nodes if n.name.startswith("add"))
    inside = ("linear_1",) if dialect == "aten" else ("m1", "s1", "m2")
    entry = "linear"
    span = Span(entry, add, (*inside, "linear_2", add), "linear_2")
    return graph, *numbers(span, net.b.weight @ net.a.weight, net.b.weight @ net.a.bias + net.b.bias, -1)


def numbers(span: Span, weight: torch.Tensor, bias: torch.Tensor, axis: int) -> tuple[Collapse, SpanFit]:
    collapse = Collapse(span, "linear")
    window = Window(weight.shape[1], len(weight), 1, *POINT if axis == 1 else ())
    return collapse, SpanFit(collapse, weight.detach(), bias.detach(), window, 0.0, 0.0, 0.1, 0.0)


POINT = (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)
"""Of one position: kernel, stride, padding, dilation."""


CASES: dict[str, Callable[[], tuple[Graph, Collapse, SpanFit]]] = {
    "conv": conv_case,
    "linear": lambda: mixer_case("aten"),
    "onnx linear": lambda: mixer_case("onnx"),
}


def collapsed(graph: Graph, collapse: Collapse, fit: SpanFit | None, *, drift: bool) -> Graph:
    """``graph`` with its span collapsed; with ``drift`` what enters the span is no longer the original's."""
    rewriter = Rewriter(graph.copy(), "test")
    found = collapse_span(rewriter, collapse, fit)
    assert not isinstance(found, str), found
    if drift:
        stem = next(name for name in graph.tensors() if name in ("stem.weight", "w0"))
        bias = {"stem.weight": "stem.bias", "w0": "b0"}[stem]
        scale = torch.linspace(0.5, 2, 6)
        weight = graph.tensor(stem).detach()
        rewriter.set_tensor(
            stem, weight * (scale if stem == "w0" else scale.view(-1, *[1] * (weight.dim() - 1)))
        )
        rewriter.set_tensor(bias, graph.tensor(bias).detach() * scale)
    return rewriter.finish()


def inputs(graph: Graph, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *graph.example[0].shape[1:], generator=torch.Generator().manual_seed(seed))


def data(graph: Graph, n: int, seed: int = 0) -> Data:
    return Data((Chunk({graph.signature.inputs[0].name: inputs(graph, n, seed).numpy()}),))


def error(graph: Graph, new: Graph, updates: dict[str, torch.Tensor]) -> float:
    fresh = inputs(graph, 9, seed=7)
    return output_divergence([graph(fresh)], run_with(new, updates, [(fresh,)])).relative_l2


def forget(graph: Graph) -> Graph:
    """The same graph, its nodes no longer knowing what they stand for."""
    other = graph.copy()
    for node in other.module.graph.nodes:
        if "otgraph" in node.meta:
            node.meta["otgraph"] = {k: v for k, v in node.meta["otgraph"].items() if k != "stands_for"}
    return other


EXACT = LeastSquaresOptions(ridges=(1e-8,), common=())


@pytest.mark.parametrize("case", CASES)
def test_a_stand_in_mends_what_drifted_before_it(case: str) -> None:
    """What enters is the original's times a factor per channel, so a map that gives the original's sum less
    the drifted stream exists; only who knows the branch and the sum finds it."""
    torch.manual_seed(0)
    graph, collapse, fit = CASES[case]()
    same = collapsed(graph, collapse, fit, drift=False)
    assert error(graph, same, {}) < 1e-5
    new = collapsed(graph, collapse, fit, drift=True)
    repair = repair_least_squares(new, graph, data(graph, 60), EXACT)
    assert error(graph, new, {}) > 0.1 and error(graph, new, dict(repair.updates)) < 1e-4
    said = [str(remark) for remark in repair.remarks]
    assert any("_map" in remark and "target=stream" in remark for remark in said), said
    blind = repair_least_squares(forget(new), graph, data(graph, 60), EXACT)
    assert error(graph, new, dict(blind.updates)) > 0.01
    assert any("the original has no node of this name" in str(remark) for remark in blind.remarks)


@pytest.mark.parametrize("case", CASES)
def test_trials_of_collapsed_networks(case: str) -> None:
    torch.manual_seed(0)
    graph, collapse, fit = CASES[case]()
    new = collapsed(graph, collapse, fit, drift=True)
    options = LeastSquaresOptions.quick(ridge=1e-6, inputs=60)
    extra = {name for name in (collapse.span.exit, collapse.span.branch) if name is not None}
    for judged in (None, data(graph, 12, seed=1)):
        found = TrialRepair(graph, data(graph, 60), options, judged=judged, extra=extra).damage(new)
        assert found.relative_l2 < 1e-3 < 0.1 < error(graph, new, {})
    if case == "conv":  # a branch that is a layer of the original is sampled anyway
        without = TrialRepair(graph, data(graph, 60), options)
        assert without.damage(new).relative_l2 > 0.01
    gone = collapsed(graph, Collapse(collapse.span, "identity"), None, drift=False)
    trial = TrialRepair(graph, data(graph, 60), options, extra=extra)
    assert trial.damage(gone).relative_l2 > 0.01
    assert trial.damage(graph.copy()).relative_l2 == 0


@pytest.mark.parametrize("case", CASES)
def test_after_a_cut_a_stand_in_aims_at_the_channels_that_are_left(case: str) -> None:
    """Channel 4 of the stream is a copy of channel 1, so nothing is lost when it goes."""
    torch.manual_seed(0)
    graph, collapse, fit = CASES[case]()
    for weight in (n for n in graph.tensors() if n in ("stem.weight", "stem.bias", "b.weight", "b.bias")):
        graph.tensor(weight).data[4] = graph.tensor(weight).data[1]
    for weight in (n for n in graph.tensors() if n in ("w0", "b0", "w2", "b2")):
        graph.tensor(weight).data[..., 4] = graph.tensor(weight).data[..., 1]
    for name, tensor in graph.tensors().items():
        if name.startswith("norm."):
            tensor.data[4] = tensor.data[1]
    stream = next(name for name in analyze(graph).dims if name in ("stem", "w0"))
    rewriter = Rewriter(graph.copy(), "test")
    cut_channels(rewriter, analyze(graph), {stream: np.array([True, True, True, True, False, True])})
    pruned = rewriter.finish()
    wrong = replace(fit, weight=torch.randn_like(fit.weight))
    new = collapsed(pruned, collapse, wrong, drift=False)
    repair = repair_least_squares(new, graph, data(graph, 60), EXACT)
    assert error(graph, new, {}) > 0.1 and error(graph, new, dict(repair.updates)) < 1e-4


def test_a_linearized_activation_is_refitted_though_it_is_depthwise() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)
    layers[0].bias.data += 9  # type: ignore[union-attr]  # the activation does nothing
    graph = capture(nn.Sequential(*layers), torch.randn(2, 3, 7, 7))
    collapse = Collapse(Span("conv2d", "relu", ("relu",)), "affine")
    window = Window(6, 6, 6, *POINT)
    fit = SpanFit(collapse, torch.ones(6, 1, 1, 1), torch.zeros(6), window, 0.0, 0.0, 0.1, 0.0)
    rewriter = Rewriter(graph.copy(), "test")
    assert not isinstance(collapse_span(rewriter, collapse, fit), str)
    rewriter.set_tensor(
        "0.weight", graph.tensor("0.weight").detach() * torch.linspace(0.5, 2, 6).view(-1, 1, 1, 1)
    )
    new = rewriter.finish()
    repair = repair_least_squares(new, graph, data(graph, 40), EXACT)
    assert "relu_map.weight" in repair.updates
    assert error(graph, new, {}) > 0.02 and error(graph, new, dict(repair.updates)) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_moments_of_a_stand_in_become_those_of_what_it_stands_for(case: str) -> None:
    torch.manual_seed(0)
    graph, collapse, fit = CASES[case]()
    assert fit.weight is not None and fit.bias is not None
    off = replace(fit, weight=fit.weight * 3, bias=fit.bias - 2)
    new = collapsed(graph, collapse, off, drift=False)
    options = MomentOptions(strengths=(1.0,))
    repair = repair_moments(new, graph, data(graph, 200), options)
    assert repair.strength == 1.0 and error(graph, new, {}) > 0.1
    assert error(graph, new, dict(repair.updates)) < 0.05
    assert repair_moments(forget(new), graph, data(graph, 200), options).strength == 0 or (
        error(graph, new, dict(repair_moments(forget(new), graph, data(graph, 200), options).updates)) > 0.05
    )


@pytest.mark.parametrize("case", CASES)
def test_only_what_comes_before_the_span_is_the_same(case: str) -> None:
    torch.manual_seed(0)
    graph, collapse, fit = CASES[case]()
    new = collapsed(graph, collapse, fit, drift=False)
    same = same_nodes(new, graph)
    assert collapse.span.entry in same
    stand_ins = {node.name for node in new.module.graph.nodes if is_stand_in(node)}
    assert len(stand_ins) == 1 and not same & (stand_ins | set(collapse.span.nodes))
    gone = collapsed(graph, Collapse(collapse.span, "identity"), None, drift=False)
    nodes = [node for node in gone.module.graph.nodes if node.op == "call_function"]
    after = nodes[[node.name for node in nodes].index(collapse.span.entry) + 1 :]
    assert after and not same_nodes(gone, graph) & {node.name for node in after}


def test_a_node_that_took_the_name_of_another_is_not_the_same() -> None:
    torch.manual_seed(0)
    graph, collapse, fit = mixer_case("aten")
    new = collapsed(graph, collapse, fit, drift=False)
    branch = collapse.span.branch
    stand_in = next(node for node in new.module.graph.nodes if is_stand_in(node))
    stand_in.name = branch
    assert branch not in same_nodes(new, graph) and collapse.span.exit not in same_nodes(new, graph)


class Stacked(nn.Module):
    """Two residual updates, the second of which reads the first's sum directly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.stem(x))
        z = y + self.a(y)
        return self.head(z + self.b(z))


@pytest.mark.parametrize("second", ["layer", "stand-in"])
def test_who_reads_past_a_deleted_span_is_refitted_though_it_reads_a_value_of_the_original(
    second: str,
) -> None:
    """The deleted update was linear, so the next one can make up for it."""
    torch.manual_seed(0)
    net = Stacked().eval()
    graph = capture(net, torch.randn(2, 3))
    sums = [node.name for node in graph.module.graph.nodes if node.name.startswith("add")]
    first = Collapse(Span("tanh", sums[0], ("linear_1", sums[0]), "linear_1"), "identity")
    rewriter = Rewriter(graph.copy(), "test")
    if second == "stand-in":
        span = Span(sums[0], sums[1], ("linear_2", sums[1]), "linear_2")
        assert net.b.bias is not None
        collapse, fit = numbers(span, net.b.weight, net.b.bias, -1)
        assert not isinstance(collapse_span(rewriter, collapse, fit), str)
    assert not isinstance(collapse_span(rewriter, first, None), str)
    new = rewriter.finish()
    repair = repair_least_squares(new, graph, data(graph, 60), EXACT)
    said = [str(remark) for remark in repair.remarks if remark.kind == "applied"]
    assert any("target=stream" in text for text in said), said
    assert error(graph, new, {}) > 0.1 and error(graph, new, dict(repair.updates)) < 1e-4
