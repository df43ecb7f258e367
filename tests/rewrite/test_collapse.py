"""Spans that give way to maps, in both dialects, held against direct computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import nn
from torch.nn import functional as F

from otgraph.calibrate.span_fit import SpanFit
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.span import Collapse, Span
from otgraph.rewrite.collapse import collapse_span, collapse_spans
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.program_text import program_text
from otgraph.rewrite.rewriter import Rewriter
from otgraph.window import Window


class Residual(nn.Module):
    """stem → relu → (+ b ∘ relu ∘ a) → relu → down, strided → head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.down, self.head = nn.Conv2d(6, 5, 3, padding=1, stride=2), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        z = torch.relu(y + self.b(torch.relu(self.a(y))))
        return self.head(torch.relu(self.down(z)).mean((2, 3)))


ONNX_RESIDUAL = """<ir_version: 8, opset_import: ["" : 17]>
m (float[N,3,8,8] x) => (float[N,2] y) {
    stem = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0, b0)
    relu = Relu (stem)
    first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (relu, w1, b1)
    relu_1 = Relu (first)
    second = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (relu_1, w2, b2)
    sum = Add (relu, second)
    relu_2 = Relu (sum)
    down = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (relu_2, w3, b3)
    relu_3 = Relu (down)
    mean = GlobalAveragePool (relu_3)
    flat = Flatten (mean)
    y = Gemm <transB = 1> (flat, w4, b4)
}"""


def aten() -> Graph:
    return capture(net(), torch.randn(2, 3, 8, 8))


def onnx_graph() -> Graph:
    model = parser.parse_model(ONNX_RESIDUAL)
    module = net()
    for number, layer in enumerate((module.stem, module.a, module.b, module.down, module.head)):
        for name, tensor in (("w", layer.weight), ("b", layer.bias)):
            array = tensor.detach().numpy()  # pyright: ignore[reportOptionalMemberAccess]
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}{number}"))
    return import_model(model)


def net() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


ATEN_SPAN = Span("relu", "add", ("conv2d_1", "relu_1", "conv2d_2", "add"), "conv2d_2")
ONNX_SPAN = Span("relu", "sum", ("first", "relu_1", "second", "sum"), "second")
DIALECTS: dict[str, tuple[Callable[[], Graph], Span]] = {
    "aten": (aten, ATEN_SPAN),
    "onnx": (onnx_graph, ONNX_SPAN),
}


def residual(dialect: str) -> tuple[Graph, Span]:
    make, span = DIALECTS[dialect]
    graph = make()
    found = next(n.name for n in graph.module.graph.nodes if n.name.startswith(("add", "sum")))
    nodes = (*span.nodes[:-1], found)
    return graph, Span(span.entry, found, nodes, span.branch)


def whole(dialect: str) -> tuple[Graph, Span]:
    """From the stem's activation to that of the strided convolution."""
    graph, span = residual(dialect)
    rest = ("relu_2", "conv2d_3" if dialect == "aten" else "down", "relu_3")
    return graph, Span(span.entry, "relu_3", (*span.nodes, *rest))


def fit(
    collapse: Collapse,
    weight: torch.Tensor,
    stride: tuple[int, ...] = (),
    padding: tuple[int, ...] = (),
    groups: int = 1,
) -> SpanFit:
    """``padding`` as ONNX writes it, or one number per axis."""
    n, out = len(stride), len(weight)
    pairs = tuple(zip(padding[:n], padding[n:] or padding, strict=True))
    groups = out if weight.dim() == 1 else groups
    columns = weight.shape[1] if weight.dim() > 1 else 1
    window = Window(columns * groups, out, groups, tuple(weight.shape[2:]), stride, pairs, (1,) * n)
    return SpanFit(collapse, weight, torch.randn(out, dtype=torch.float64), window, 0.1, 0.1, 0.5, 0.0)


def edited(graph: Graph, collapse: Collapse, found: SpanFit | None) -> Graph:
    rewriter = Rewriter(graph.copy(), "test")
    result = collapse_span(rewriter, collapse, found)
    assert not isinstance(result, str), result
    return rewriter.finish()


def refusal(graph: Graph, collapse: Collapse, found: SpanFit | None = None) -> str:
    """The reason; and the graph is as it was."""
    rewriter = Rewriter(graph.copy(), "test")
    result = collapse_span(rewriter, collapse, found)
    assert isinstance(result, str) and rewriter.edits == 0
    assert program_text(rewriter.graph) == program_text(graph)
    return result


def value(graph: Graph, name: str, x: torch.Tensor) -> torch.Tensor:
    interpreter = torch.fx.Interpreter(graph.module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(x)
    return next(v for node, v in interpreter.env.items() if node.name == name)


def direct(dialect: str, update: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network with its residual update computed by ``update``, by hand."""
    module = net()
    with torch.no_grad():
        y = torch.relu(module.stem(x))
        z = torch.relu(y + update(y))
        return module.head(torch.relu(module.down(z)).mean((2, 3)))


def in_onnxruntime(graph: Graph, x: torch.Tensor, folder: Path) -> torch.Tensor:
    graph.save(folder / "m.onnx")
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_identity_deletes_a_residual_branch_and_its_addition(dialect: str, tmp_path: Path) -> None:
    graph, span = residual(dialect)
    new = edited(graph, Collapse(span, "identity"), None)
    x = torch.randn(3, 3, 8, 8)
    expected = direct(dialect, torch.zeros_like, x)
    torch.testing.assert_close(new(x)[0], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(graph(x)[0], expected, atol=1e-3)
    assert not set(span.nodes) & set(names(new))
    assert len(new.tensors()) == 6  # the weights of the branch are gone
    if dialect == "onnx":
        torch.testing.assert_close(in_onnxruntime(new, x, tmp_path), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("kind", "shape", "groups", "padding"),
    [("affine", (6, 1, 1, 1), 6, 0), ("linear", (6, 6, 1, 1), 1, 0), ("conv", (6, 6, 5, 5), 1, 2)],
)
def test_a_map_takes_the_place_of_the_branch(
    dialect: str, kind: str, shape: tuple[int, ...], groups: int, padding: int, tmp_path: Path
) -> None:
    graph, span = residual(dialect)
    collapse = Collapse(span, kind, shape[2:] if kind == "conv" else ())  # type: ignore[arg-type]
    found = fit(collapse, torch.randn(shape), stride=(1, 1), padding=(padding,) * 2, groups=groups)
    new = edited(graph, collapse, found)
    x = torch.randn(3, 3, 8, 8)
    assert found.weight is not None and found.bias is not None
    weight, bias = found.weight, found.bias.float()
    expected = direct(dialect, lambda y: F.conv2d(y, weight, bias, 1, padding, 1, groups), x)
    torch.testing.assert_close(new(x)[0], expected, rtol=1e-5, atol=1e-5)
    assert span.branch not in names(new) and span.exit in names(new)
    (stand_in,) = [n for n in new.module.graph.nodes if "stands_for" in n.meta.get("otgraph", {})]
    assert stand_in.meta["otgraph"]["stands_for"] == span.branch
    if dialect == "onnx":
        torch.testing.assert_close(in_onnxruntime(new, x, tmp_path), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("padding", [(1, 1), (1, 1, 0, 0), (0, 1, 1, 0)])
def test_a_strided_convolution_takes_the_place_of_a_whole_region(
    dialect: str, padding: tuple[int, ...], tmp_path: Path
) -> None:
    graph, span = whole(dialect)
    collapse = Collapse(span, "conv", (3, 3))
    kernel = torch.randn(5, 6, 3, 3)
    new = edited(graph, collapse, fit(collapse, kernel, stride=(2, 2), padding=padding))
    before, after = padding[:2], padding[-2:]
    x = torch.randn(3, 3, 8, 8)
    y = F.pad(value(graph, "relu", x), (before[1], after[1], before[0], after[0]))
    module = net()
    (stand_in,) = [n for n in new.module.graph.nodes if "stands_for" in n.meta.get("otgraph", {})]
    assert stand_in.meta["otgraph"] == {"stands_for": "relu_3", "fitted_on": "relu"}
    bias = new.tensor("relu_3_map.bias").detach()
    with torch.no_grad():
        expected = module.head(F.conv2d(y, kernel, bias, 2).mean((2, 3)))
    torch.testing.assert_close(new(x)[0], expected, rtol=1e-5, atol=1e-5)
    assert len(names(new)) == len(names(graph)) - 7 + 1 + (dialect == "aten" and before != after)
    if dialect == "onnx":
        torch.testing.assert_close(in_onnxruntime(new, x, tmp_path), expected, rtol=1e-4, atol=1e-5)


def sequence(dialect: str) -> tuple[Graph, Span]:
    """A residual half on [N, T, C]: x + second(gelu(first(x)))."""
    torch.manual_seed(0)
    module = Mixer().eval()
    if dialect == "aten":
        graph = capture(module, torch.randn(2, 5, 4))
        return graph, Span("tanh", "add", ("linear_1", "gelu", "linear_2", "add"), "linear_2")
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> m (float[N,5,4] x) => (float[N,5,4] y) {
            m0 = MatMul (x, w0)
            tanh = Tanh (m0)
            m1 = MatMul (tanh, w1)
            r = Relu (m1)
            m2 = MatMul (r, w2)
            y = Add (m2, tanh)
        }"""
    )
    for number, layer in enumerate((module.stem, module.first, module.second)):
        array = layer.weight.detach().t().numpy().copy()
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"w{number}"))
    return import_model(model), Span("tanh", "y", ("m1", "r", "m2", "y"), "m2")


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4, bias=False)
        self.first, self.second = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.stem(x))
        return y + self.second(F.gelu(self.first(y)))


@pytest.mark.parametrize("dialect", ["aten", "onnx"])
@pytest.mark.parametrize("kind", ["affine", "linear", "identity"])
def test_products_over_the_last_axis_and_an_exit_that_is_the_output(
    dialect: str, kind: str, tmp_path: Path
) -> None:
    graph, span = sequence(dialect)
    exit_ = next(n.name for n in reversed(graph.module.graph.nodes) if n.op == "call_function")
    span = Span(span.entry, exit_, (*span.nodes[:-1], exit_), span.branch)
    collapse = Collapse(span, kind)  # type: ignore[arg-type]
    weight = {"affine": torch.randn(4), "linear": torch.randn(4, 4), "identity": None}[kind]
    found = SpanFit(collapse, None, None, Window(4, 4, 1), 0.1, 0.1, None, 0.0)
    if weight is not None:
        found = fit(collapse, weight)
    new = edited(graph, collapse, found)
    x = torch.randn(3, 5, 4)
    y = value(graph, "tanh", x)
    expected = y
    if weight is not None and found.bias is not None:
        update = y * weight if kind == "affine" else y @ weight.T
        expected = y + update + found.bias.float()
    torch.testing.assert_close(new(x)[0], expected, rtol=1e-5, atol=1e-6)
    assert new.signature == graph.signature
    if dialect == "onnx":
        torch.testing.assert_close(in_onnxruntime(new, x, tmp_path), expected, rtol=1e-5, atol=1e-5)
        assert [o.name for o in onnx.load(tmp_path / "m.onnx").graph.output] == ["y"]


@pytest.mark.parametrize("dialect", ["aten", "onnx"])
def test_the_run_of_blocks_that_ends_in_the_output_becomes_one_linear_map(dialect: str) -> None:
    graph, span = sequence(dialect)
    exit_ = next(n.name for n in reversed(graph.module.graph.nodes) if n.op == "call_function")
    span = Span(span.entry, exit_, (*span.nodes[:-1], exit_))
    collapse = Collapse(span, "linear")
    found = fit(collapse, torch.randn(4, 4))
    new = edited(graph, collapse, found)
    x = torch.randn(3, 5, 4)
    assert found.weight is not None and found.bias is not None
    expected = value(graph, "tanh", x) @ found.weight.T + found.bias.float()
    torch.testing.assert_close(new(x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["affine", "linear", "conv", "identity"])
def test_after_a_cut_the_numbers_are_those_of_the_channels_that_are_left(dialect: str, kind: str) -> None:
    """Collapse after the cut is the cut of the collapse: the map reads no removed channel and makes none."""
    graph, span = residual(dialect)
    shape = {"affine": (6, 1, 1, 1), "linear": (6, 6, 1, 1), "conv": (6, 6, 3, 3)}.get(kind)
    collapse = Collapse(span, kind, (3, 3) if kind == "conv" else ())  # type: ignore[arg-type]
    found = None
    if shape is not None:
        padding, groups = ((1, 1), 1) if kind == "conv" else ((0, 0), 6 if kind == "affine" else 1)
        found = fit(collapse, torch.randn(shape), stride=(1, 1), padding=padding, groups=groups)
    stem = "stem" if dialect == "aten" else "w0"
    keep = {stem: np.array([True, False, True, True, False, True])}
    other = {"a" if dialect == "aten" else "w1": np.array([True, False, True, False])}

    cut = Rewriter(graph.copy(), "test")
    cut_channels(cut, analyze(graph), keep | other)
    first = edited(cut.finish(), collapse, found)

    whole_ = edited(graph, collapse, found)
    rewriter = Rewriter(whole_.copy(), "test")
    axes = analyze(whole_)  # the map's weight may now give the dim its name
    weight = "stem.weight" if dialect == "aten" else "w0"
    dim = next(d.name for d in axes.dims.values() if (weight, 0) in [(p.tensor, p.axis) for p in d.ports])
    cut_channels(rewriter, axes, {dim: keep[stem]})
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(first(x)[0], rewriter.finish()(x)[0], rtol=1e-5, atol=1e-6)
    if found is not None:
        (stand_in,) = [n for n in first.module.graph.nodes if "stands_for" in n.meta.get("otgraph", {})]
        assert stand_in.meta["otgraph"]["kept"][1].tolist() == [0, 2, 3, 5]


def test_a_map_that_mixes_up_the_kept_channels_would_be_noticed() -> None:
    graph, span = residual("aten")
    collapse = Collapse(span, "linear")
    found = fit(collapse, torch.randn(6, 6, 1, 1), stride=(1, 1), padding=(0, 0))
    keep = {"stem": np.array([True, False, True, True, False, True])}
    cut = Rewriter(graph.copy(), "test")
    cut_channels(cut, analyze(graph), keep)
    pruned = cut.finish()
    right = edited(pruned, collapse, found)
    node = next(n for n in pruned.module.graph.nodes if n.name == "relu")
    node.meta["otgraph"]["kept"] = {1: np.array([0, 1, 2, 3])}
    wrong = edited(pruned, collapse, found)
    x = torch.randn(3, 3, 8, 8)
    assert not torch.allclose(right(x)[0], wrong(x)[0], atol=1e-3)


def test_spans_in_a_row_are_done_from_the_last() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(4, 4), nn.ReLU())]
    graph = capture(nn.Sequential(*layers), torch.randn(2, 4))
    first = Collapse(Span("relu", "relu_1", ("linear_1", "relu_1")), "identity")
    second = Collapse(Span("relu_1", "relu_2", ("linear_2", "relu_2")), "linear")
    third = Collapse(Span("relu_2", "relu_3", ("linear_3", "relu_3")), "affine")
    fits = {c.name: fit(c, torch.randn(*s)) for c, s in ((second, (4, 4)), (third, (4,)))}
    rewriter = Rewriter(graph.copy(), "test")
    done = collapse_spans(rewriter, [first, second, third], fits)
    new = rewriter.finish()
    assert done == (third, second, first)
    assert [str(r) for r in rewriter.remarks] == [
        "applied: test: relu_2..relu_3: became a factor and a shift per channel (least-squares) nodes=2 "
        "held_out_error=0.1",
        "applied: test: relu_1..relu_2: became a linear map per position (least-squares) nodes=2 "
        "held_out_error=0.1",
        "applied: test: relu..relu_1: deleted nodes=2",
    ]
    x = torch.randn(5, 4)
    y = value(graph, "relu", x)
    a, b = fits[second.name], fits[third.name]
    assert a.weight is not None and a.bias is not None and b.weight is not None and b.bias is not None
    expected = (y @ a.weight.T + a.bias.float()) * b.weight + b.bias.float()
    torch.testing.assert_close(new(x)[0], expected, rtol=1e-5, atol=1e-6)


class Awkward(nn.Module):
    """A region with a second reader, one with a second entry, an exit that scales its branch, a rank that
    changes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x)
        z = torch.relu(self.a(y))
        s = torch.add(y, self.b(z), alpha=2)
        t = torch.sigmoid(s * z)
        return t.reshape(-1, 2, 2)


def test_what_is_refused_and_why() -> None:
    torch.manual_seed(0)
    graph = capture(Awkward(), torch.randn(2, 4))
    add = next(name for name in names(graph) if name.startswith("add"))
    mul = next(name for name in names(graph) if name.startswith("mul"))
    shape = names(graph)[-1]
    plain = Span("tanh", add, ("linear", "relu", "linear_1", add))
    assert refusal(graph, Collapse(plain, "identity")) == f"relu is also read by {mul}, which is outside"
    branched = Span("tanh", add, plain.nodes, "linear_1")
    reason = refusal(graph, Collapse(branched, "identity"))
    assert reason == f"its exit {add} does not add its branch to its entry"
    late = Span(add, "sigmoid", (mul, "sigmoid"))
    assert refusal(graph, Collapse(late, "identity")) == (
        f"{mul} reads relu, which is neither inside nor the entry"
    )
    gone = Span("tanh", "relu", ("linear_7", "relu"))
    assert refusal(graph, Collapse(gone, "identity")) == "its node linear_7 is gone"
    nowhere = Span("cosh", "sigmoid", (mul, "sigmoid"))
    assert refusal(graph, Collapse(nowhere, "identity")) == "its entry cosh is gone"
    flat = Collapse(Span("sigmoid", shape, (shape,)), "identity")
    assert refusal(graph, flat) == "its entry has shape [2, 4] and its exit [2, 2, 2]"
    good = Collapse(Span("tanh", "relu", ("linear", "relu")), "linear")
    assert refusal(graph, good) == "its map was not fitted"
    assert refusal(graph, good, fit(good, torch.randn(4, 3))) == (
        "its map takes no entry of [2, 4], and [2, 4] is wanted"
    )
    assert refusal(graph, good, fit(good, torch.randn(3, 4))) == (
        "its map gives [2, 3] for an entry of [2, 4], and [2, 4] is wanted"
    )
    rank = Collapse(Span("sigmoid", shape, (shape,)), "linear")
    assert refusal(graph, rank, fit(rank, torch.randn(4, 4))) == "its entry has 2 axes and its exit 3"


def test_channels_that_were_cut_differently_are_not_joined() -> None:
    torch.manual_seed(0)
    graph = capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
                    torch.randn(2, 3))  # fmt: skip
    rewriter = Rewriter(graph.copy(), "test")
    keep = {"0": np.array([True, True, False, False]), "2": np.array([False, False, True, True])}
    cut_channels(rewriter, analyze(graph), keep)
    pruned = rewriter.finish()
    span = Span("relu", "relu_1", ("linear_1", "relu_1"))
    assert (
        refusal(pruned, Collapse(span, "identity")) == "its entry and its exit have kept different channels"
    )
    affine, linear = Collapse(span, "affine"), Collapse(span, "linear")
    assert refusal(pruned, affine, fit(affine, torch.randn(4))) == (
        "its entry and its exit have kept different channels, which one factor each cannot join"
    )
    found = fit(linear, torch.randn(4, 4))
    new = edited(pruned, linear, found)
    x = torch.randn(3, 3)
    assert found.weight is not None and found.bias is not None
    y = value(pruned, "relu", x) @ found.weight[2:, :2].T + found.bias[2:].float()
    expected = F.linear(y, pruned.tensor("4.weight"), pruned.tensor("4.bias")).detach()
    torch.testing.assert_close(new(x)[0], expected, rtol=1e-5, atol=1e-6)
