"""Sizes in ONNX files after a cut: the masking law in torch and ONNX Runtime, at other batches and sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser
from torch import fx

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.legal import legalize
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.onnx.literals import RULES
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Case:
    """``text``: the model; ``weights``: name → shape of what is filled with random numbers. ``dims``: how
    many dims can be cut. ``other``: shapes of the input to run at."""

    text: str
    weights: dict[str, tuple[int, ...]]
    dims: int
    other: tuple[tuple[int, ...], ...]
    opset: int = 17


# sizes stored as constants

SHARED = Case(
    """m (float[N,3,2,2] x) => (float[N,4] y)
    <int64[3] split = {0, 8, -1}, int64[2] flat = {-1, 32}> {
        a = Conv (x, wa)
        b = Conv (x, wb)
        ra = Reshape (a, split)
        rb = Reshape (b, split)
        qa = Relu (ra)
        qb = Sigmoid (rb)
        fa = Reshape (qa, flat)
        fb = Reshape (qb, flat)
        ya = MatMul (fa, ua)
        yb = MatMul (fb, ub)
        y = Add (ya, yb)
    }""",
    {"wa": (8, 3, 1, 1), "wb": (8, 3, 1, 1), "ua": (32, 4), "ub": (32, 4)},
    2,
    ((1, 3, 2, 2), (5, 3, 2, 2)),
)
SPLIT_ATTRIBUTE = Case(
    """m (float[N,3,H,H] x) => (float[N,4,H,H] y) {
        a = Conv (x, w)
        p, q, r = Split <axis = 1, split = [2, 4, 6]> (a)
        b = Relu (q)
        j = Concat <axis = 1> (r, b, p)
        y = Conv (j, u)
    }""",
    {"w": (12, 3, 1, 1), "u": (4, 12, 1, 1)},
    3,
    ((1, 3, 5, 5), (3, 3, 2, 2)),
    opset=11,
)
SPLIT_INPUT = Case(
    SPLIT_ATTRIBUTE.text.replace(", split = [2, 4, 6]> (a)", "> (a, sizes)").replace(
        "y) {", "y) <int64[3] sizes = {2, 4, 6}> {"
    ),
    SPLIT_ATTRIBUTE.weights,
    SPLIT_ATTRIBUTE.dims,
    SPLIT_ATTRIBUTE.other,
    opset=13,
)
SPLIT_NUMBER = Case(
    """m (float[N,3,H,H] x) => (float[N,4,H,H] y) {
        a = Conv (x, w)
        p, q = Split <axis = 1, num_outputs = 2> (a)
        b = Sigmoid (q)
        g = Mul (p, b)
        y = Conv (g, u)
    }""",
    {"w": (12, 3, 1, 1), "u": (4, 6, 1, 1)},
    1,
    ((1, 3, 5, 5), (3, 3, 2, 2)),
    opset=18,
)
SPLIT_EQUAL = Case(
    SPLIT_NUMBER.text.replace(", num_outputs = 2", "").replace("g = Mul", "g = Concat <axis = 1>"),
    {"w": (12, 3, 1, 1), "u": (4, 12, 1, 1)},
    2,
    SPLIT_NUMBER.other,
    opset=13,
)
SLICE = Case(
    """m (float[N,3,H,H] x) => (float[N,4,H,H] y)
    <int64[2] s0 = {0, 0}, int64[2] e0 = {6, 999}, int64[2] ax = {1, 3}, int64[1] s1 = {-6},
     int64[1] e1 = {9223372036854775807}, int64[1] channel = {1}> {
        a = Conv (x, w)
        p = Slice (a, s0, e0, ax)
        q = Slice (a, s1, e1, channel)
        b = Sigmoid (q)
        j = Concat <axis = 1> (b, p)
        y = Conv (j, u)
    }""",
    {"w": (12, 3, 1, 1), "u": (4, 12, 1, 1)},
    2,
    ((1, 3, 5, 5), (3, 3, 2, 2)),
)
GROUPS = Case(
    """m (float[N,3,H,H] x) => (float[N,4,H,H] y) {
        a = Conv (x, w)
        b = Conv <group = 8, pads = [1,1,1,1]> (a, d, e)
        c = Conv <group = 2> (b, g)
        y = Conv (c, u)
    }""",
    {"w": (8, 3, 1, 1), "d": (8, 1, 3, 3), "e": (8,), "g": (12, 4, 1, 1), "u": (4, 12, 1, 1)},
    3,
    ((1, 3, 5, 5), (3, 3, 2, 2)),
)
EXPAND = Case(
    """m (float[N,3] x) => (float[N,4] y) <int64[3] like = {1, 8, 5}, int64[1] two = {2}> {
        a = MatMul (x, w)
        t = Unsqueeze (a, two)
        e = Expand (t, like)
        r = Sigmoid (e)
        m = ReduceMean <axes = [2], keepdims = 0> (r)
        y = MatMul (m, u)
    }""",
    {"w": (3, 8), "u": (8, 4)},
    1,
    ((1, 3), (5, 3)),
)

# sizes computed from shapes

CHAIN = Case(
    """m (float[N,3,H,W] x) => (float[N,T,4] y)
    <int64 zero = {0}, int64[1] first = {0}, int64[1] channels = {8}, int64[1] rest = {-1}> {
        a = Conv (x, w)
        s = Shape (a)
        n = Gather <axis = 0> (s, zero)
        n1 = Unsqueeze (n, first)
        shape = Concat <axis = 0> (n1, channels, rest)
        f = Reshape (a, shape)
        t = Transpose <perm = [0, 2, 1]> (f)
        r = Relu (t)
        y = MatMul (r, u)
    }""",
    {"w": (8, 3, 1, 1), "u": (8, 4)},
    1,
    ((1, 3, 2, 7), (3, 3, 5, 4)),
)
PRODUCT = Case(
    """m (float[N,3,2,2] x) => (float[N,4] y)
    <int64 zero = {0}, int64 one = {1}, int64 positions = {4}, int64[1] first = {0}> {
        a = Conv (x, w)
        s = Shape (a)
        n = Gather <axis = 0> (s, zero)
        c = Gather <axis = 0> (s, one)
        cp = Mul (c, positions)
        n1 = Unsqueeze (n, first)
        c1 = Unsqueeze (cp, first)
        shape = Concat <axis = 0> (n1, c1)
        f = Reshape (a, shape)
        y = MatMul (f, u)
    }""",
    {"w": (8, 3, 1, 1), "u": (32, 4)},
    1,
    ((1, 3, 2, 2), (5, 3, 2, 2)),
)
WRONG_SOURCE = Case(  # the channels of one value are computed from those of another, which is cut otherwise
    """m (float[N,3,2,2] x) => (float[N,4] y)
    <int64 zero = {0}, int64 one = {1}, int64 four = {4}, int64[1] first = {0}> {
        a = Conv (x, w)
        b = Conv (x, v)
        s = Shape (b)
        n = Gather <axis = 0> (s, zero)
        c = Gather <axis = 0> (s, one)
        c8 = Mul (c, four)
        n1 = Unsqueeze (n, first)
        c1 = Unsqueeze (c8, first)
        shape = Concat <axis = 0> (n1, c1)
        f = Reshape (a, shape)
        g = Flatten (b)
        ya = MatMul (f, u)
        yb = MatMul (g, z)
        y = Add (ya, yb)
    }""",
    {"w": (12, 3, 1, 1), "v": (12, 3, 1, 1), "u": (48, 4), "z": (48, 4)},
    2,
    ((1, 3, 2, 2), (5, 3, 2, 2)),
)
RESIZE = Case(
    """m (float[N,3,H,W] x) => (float[N,4,H,W] y)
    <int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}> {
        a = Conv <strides = [2, 2], kernel_shape = [2, 2]> (x, w)
        sa = Shape (a)
        sx = Shape (x)
        nc = Slice (sa, zero, two)
        hw = Slice (sx, two, four)
        sizes = Concat <axis = 0> (nc, hw)
        r = Resize <mode = "nearest"> (a, , , sizes)
        y = Conv (r, u)
    }""",
    {"w": (8, 3, 2, 2), "u": (4, 8, 1, 1)},
    1,
    ((1, 3, 6, 4), (3, 3, 4, 8)),
)
RESIZE_STORED = Case(
    """m (float[2,3,2,2] x) => (float[2,4,4,4] y) <int64[4] sizes = {2, 8, 4, 4}> {
        a = Conv (x, w)
        r = Resize <mode = "linear"> (a, , , sizes)
        y = Conv (r, u)
    }""",
    {"w": (8, 3, 1, 1), "u": (4, 8, 1, 1)},
    1,
    ((2, 3, 2, 2),),
)
ATTENTION = Case(
    """m (float[N,T,6] x) => (float[N,T,4] y)
    <int64[4] heads = {0, 0, 2, 8}, int64[3] flat = {0, 0, 16}, int64 last = {-1}, float one = {1}> {
        q0 = MatMul (x, wq)
        k0 = MatMul (x, wk)
        v0 = MatMul (x, wv)
        q1 = Reshape (q0, heads)
        k1 = Reshape (k0, heads)
        v1 = Reshape (v0, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q1)
        k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v = Transpose <perm = [0, 2, 1, 3]> (v1)
        s = Shape (q)
        d = Gather <axis = 0> (s, last)
        df = Cast <to = 1> (d)
        root = Sqrt (df)
        scale = Div (one, root)
        qs = Mul (q, scale)
        scores = MatMul (qs, k)
        p = Softmax <axis = -1> (scores)
        o = MatMul (p, v)
        ot = Transpose <perm = [0, 2, 1, 3]> (o)
        f = Reshape (ot, flat)
        y = MatMul (f, wo)
    }""",
    {"wq": (6, 16), "wk": (6, 16), "wv": (6, 16), "wo": (16, 4)},
    3,
    ((1, 5, 6), (3, 2, 6)),
)
EXPAND_LIKE = Case(
    """m (float[N,3,H,H] x) => (float[N,4,H,H] y)
    <int64[1] k1 = {1}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] chan = {8}> {
        a = Conv (x, w)
        m = GlobalAveragePool (a)
        s = Shape (a)
        n = Slice (s, zero, k1)
        hw = Slice (s, two, four)
        shape = Concat <axis = 0> (n, chan, hw)
        e = Expand (m, shape)
        j = Concat <axis = 1> (a, e)
        y = Conv (j, u)
    }""",
    {"w": (8, 3, 1, 1), "u": (4, 16, 1, 1)},
    1,
    ((1, 3, 5, 5), (3, 3, 2, 2)),
)

CASES = {
    "a constant that two nodes share": SHARED,
    "split sizes as an attribute": SPLIT_ATTRIBUTE,
    "split sizes as an input": SPLIT_INPUT,
    "a split by number": SPLIT_NUMBER,
    "a split in equal parts that become unequal": SPLIT_EQUAL,
    "such a split where sizes are an attribute": replace(SPLIT_EQUAL, opset=11),
    "such a split where the number is an attribute": replace(
        SPLIT_EQUAL,
        text=SPLIT_EQUAL.text.replace("axis = 1> (a)", "axis = 1, num_outputs = 2> (a)"),
        opset=18,
    ),
    "slices of channels": SLICE,
    "grouped and depthwise convolutions": GROUPS,
    "expand to a constant": EXPAND,
    "expand to a computed shape": EXPAND_LIKE,
    "reshape to a computed shape": CHAIN,
    "reshape to a product of sizes": PRODUCT,
    "reshape to sizes of another value": WRONG_SOURCE,
    "resize to a computed size": RESIZE,
    "resize to a constant": RESIZE_STORED,
    "attention scaled by its own size": ATTENTION,
}


def build(case: Case) -> Graph:
    opset = f'<ir_version: 8, opset_import: ["" : {case.opset}]> '
    model = parser.parse_model(opset + case.text)
    rng = np.random.default_rng(0)
    for name, shape in case.weights.items():
        model.graph.initializer.append(
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        )
    onnx.checker.check_model(model)
    torch.manual_seed(0)
    graph = import_model(model, example=(torch.randn(2, *case.other[0][1:]),))
    assert not graph.remarks, [str(remark) for remark in graph.remarks]
    return graph


def parts(axes: AxisMap, seed: int) -> Keep:
    """A random half of every dim; with another seed than 0 a random number of its indices."""
    random = np.random.default_rng(seed)
    keep = {}
    for dim in axes.prunable():
        count = dim.size // 2 if seed == 0 else int(random.integers(1, dim.size))
        keep[dim.name] = np.zeros(dim.size, bool)
        keep[dim.name][random.permutation(dim.size)[:count]] = True
    return legalize(axes, keep)


def cut(graph: Graph, axes: AxisMap, keep: Keep) -> Graph:
    rewriter = Rewriter(graph.copy())
    cut_channels(rewriter, axes, keep)
    rewriter.drop_unused_tensors()
    return rewriter.finish()


def floats(graph: Graph) -> int:
    return sum(t.numel() for t in graph.tensors().values() if t.is_floating_point() and t.dim())


def in_onnxruntime(graph: Graph, path: Path, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    graph.save(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return tuple(torch.from_numpy(y) for y in session.run(None, {"x": x.numpy()}))


@pytest.mark.parametrize("name", CASES)
def test_the_masking_law_in_torch_and_in_onnxruntime(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    graph = build(case)
    axes = analyze(graph)
    assert not axes.remarks, [str(remark) for remark in axes.remarks]
    assert len(axes.prunable()) == case.dims
    torch.manual_seed(0)
    for seed in range(4):
        keep = parts(axes, seed)
        small, masked = cut(graph, axes, keep), mask_graph(graph, axes, keep)
        assert floats(small) <= (0.55 if seed == 0 else 0.95) * floats(graph)
        for shape in case.other:
            x = torch.randn(shape)
            wanted = masked(x)
            assert relative_error(wanted, small(x)) <= 1e-5
            assert relative_error(wanted, in_onnxruntime(small, tmp_path / "small.onnx", x)) <= 1e-5
            assert relative_error(graph(x), wanted) > 1e-3  # what was removed mattered


RULED = {
    "onnx.Reshape": ["a constant that two nodes share", "reshape to a computed shape"],
    "onnx.Expand": ["expand to a constant", "expand to a computed shape"],
    "onnx.Resize": ["resize to a constant"],
    "onnx.Split": ["split sizes as an attribute", "split sizes as an input"],
    "onnx.Slice": ["slices of channels"],
    "onnx.Conv": ["grouped and depthwise convolutions"],
    "onnx.Cast": ["attention scaled by its own size"],
}


@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule, names in RULED.items() for name in names])
def test_without_its_rule_each_is_wrong(rule: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    graph = build(case)
    axes = analyze(graph)
    keep = parts(axes, 0)
    monkeypatch.delitem(RULES, rule)
    try:
        found = cut(graph, axes, keep)(*graph.example)
    except RuntimeError:
        return  # it does not even run
    assert relative_error(mask_graph(graph, axes, keep)(*graph.example), found) > 1e-5


def constants(graph: Graph) -> dict[str, list[int]]:
    return {
        name: tensor.reshape(-1).tolist()
        for name, tensor in graph.tensors().items()
        if not tensor.is_floating_point()
    }


def test_what_still_fits_is_left_alone() -> None:
    graph = build(PRODUCT)
    axes = analyze(graph)
    small = cut(graph, axes, parts(axes, 0))
    assert constants(small) == constants(graph)
    assert [op_name(n) for n in calls(small)] == [op_name(n) for n in calls(graph)]


def test_a_computed_size_is_scaled_exactly() -> None:
    graph = build(WRONG_SOURCE)
    axes = analyze(graph)
    one, other = (dim.name for dim in axes.prunable())
    thirds = {one: np.arange(12) < 4, other: np.arange(12) < 9}
    small, masked = cut(graph, axes, thirds), mask_graph(graph, axes, thirds)
    for batch in (1, 7):
        x = torch.randn(batch, 3, 2, 2)
        assert relative_error(masked(x), small(x)) <= 1e-5
    added = len(calls(small)) - len(calls(graph))
    assert added == 2  # times 4, divided by 9


def calls(graph: Graph) -> list[fx.Node]:
    return [node for node in graph.module.graph.nodes if node.op == "call_function"]
