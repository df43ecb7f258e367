"""The masking law on random programs, written down as operators without a module or an export in between.

A program costs milliseconds, so thousands are tried, and a counterexample shrinks to a few lines of text."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from otgraph.graph import literals
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.call import Call
from otgraph.graph.axes.legal import legalize
from otgraph.graph.axes.rule import AxisRule
from otgraph.graph.axes.rules import RULES, joining, normalization
from otgraph.graph.graph import Graph, Port, Signature
from otgraph.rewrite import cut
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.kept_statistics import keep_statistics
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.program_text import program_text
from otgraph.rewrite.rewriter import Rewriter

aten = torch.ops.aten
Pick = Callable[[str, Sequence[Any]], Any]
SIDE = 4


@dataclass
class Value:
    """A node with the shape it has on a batch of 2."""

    node: fx.Node
    shape: tuple[int, ...]

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 4

    @property
    def width(self) -> int:
        return self.shape[1] if self.is_map else self.shape[2]


@dataclass
class Program:
    """A program under construction: maps ``[2, c, 4, 4]`` and tokens ``[2, 16, c]``."""

    generator: torch.Generator
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    count: int = 0

    def weight(self, *shape: int, positive: bool = False) -> fx.Node:
        name = f"w{self.count}"
        self.count += 1
        value = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        value = value.abs() + 0.5 if positive else value / math.sqrt(max(1, math.prod(shape[1:])))
        self.root.register_parameter(name, nn.Parameter(value, requires_grad=False))
        return self.graph.get_attr(name)

    def call(self, function: Any, *args: Any, shape: tuple[int, ...], **kwargs: Any) -> Value:
        nodes = tuple(a.node if isinstance(a, Value) else a for a in args)
        return Value(self.graph.call_function(function, nodes, kwargs), shape)

    def linear(self, x: Value, width: int) -> Value:
        weight, bias = self.weight(width, x.width), self.weight(width)
        return self.call(aten.linear.default, x, weight, bias, shape=(*x.shape[:2], width))

    def tokens(self, x: Value) -> Value:
        if not x.is_map:
            return x
        flat = self.call(aten.view.default, x, [2, x.width, SIDE * SIDE], shape=(2, x.width, SIDE * SIDE))
        return self.call(aten.transpose.int, flat, 1, 2, shape=(2, SIDE * SIDE, x.width))

    def map(self, x: Value) -> Value:
        if x.is_map:
            return x
        turned = self.call(aten.transpose.int, x, 1, 2, shape=(2, x.width, SIDE * SIDE))
        shape = (2, x.width, SIDE, SIDE)
        return self.call(aten.reshape.default, turned, list(shape), shape=shape)


def convolution(p: Program, x: Value, pick: Pick) -> Value:
    x = p.map(x)
    groups = pick("groups", [g for g in (1, 2, 3, 4) if x.width % g == 0])
    out, kernel = groups * pick("width per group", [1, 2, 3, 4]), pick("kernel", [1, 3])
    weight = p.weight(out, x.width // groups, kernel, kernel)
    bias = p.weight(out) if pick("bias", [True, False]) else None
    pad = [kernel // 2] * 2
    args = (x, weight, bias, [1, 1], pad, [1, 1], groups)
    return p.call(aten.conv2d.default, *args, shape=(2, out, SIDE, SIDE))


def transposed(p: Program, x: Value, pick: Pick) -> Value:
    x = p.map(x)
    groups = pick("groups", [g for g in (1, 2, 4) if x.width % g == 0])
    each = pick("width per group", [1, 2, 3])
    weight, bias = p.weight(x.width, each, 3, 3), p.weight(groups * each)
    args = (x, weight, bias, [1, 1], [1, 1], [0, 0], groups)
    return p.call(aten.conv_transpose2d.input, *args, shape=(2, groups * each, SIDE, SIDE))


def linear(p: Program, x: Value, pick: Pick) -> Value:
    return p.linear(p.tokens(x), pick("width", [4, 6, 8]))


def batch_norm(p: Program, x: Value, pick: Pick) -> Value:
    x, c = p.map(x), x.width
    vectors = (p.weight(c), p.weight(c), p.weight(c), p.weight(c, positive=True))
    return p.call(aten.batch_norm.default, x, *vectors, False, 0.1, 1e-5, False, shape=x.shape)


def layer_norm(p: Program, x: Value, pick: Pick) -> Value:
    x = p.tokens(x)
    return p.call(
        aten.layer_norm.default, x, [x.width], p.weight(x.width), p.weight(x.width), 1e-5, shape=x.shape
    )


def rms_norm(p: Program, x: Value, pick: Pick) -> Value:
    x = p.tokens(x)
    return p.call(aten.rms_norm.default, x, [x.width], p.weight(x.width), 1e-5, shape=x.shape)


def group_norm(p: Program, x: Value, pick: Pick) -> Value:
    x = p.map(x)
    groups = pick("groups", [g for g in (1, 2, 3, 4) if x.width % g == 0])
    args = (x, groups, p.weight(x.width), p.weight(x.width), 1e-5)
    return p.call(aten.group_norm.default, *args, shape=x.shape)


def activation(p: Program, x: Value, pick: Pick) -> Value:
    names = ["relu", "tanh", "gelu", "silu", "sigmoid", "cos", "exp"]
    function = getattr(aten, pick("function", names)).default
    y = p.call(aten.tanh.default, x, shape=x.shape)  # so that nothing explodes
    return p.call(function, y, shape=x.shape)


def residual(p: Program, x: Value, pick: Pick) -> Value:
    inner = pick("inner", [3, 4, 6])
    x = p.tokens(x)
    y = p.call(aten.relu.default, p.linear(x, inner), shape=(*x.shape[:2], inner))
    return p.call(aten.add.Tensor, x, p.linear(y, x.width), shape=x.shape)


def gate(p: Program, x: Value, pick: Pick) -> Value:
    """Squeeze and excite."""
    x = p.map(x)
    pooled = p.call(aten.mean.dim, x, [2, 3], True, shape=(2, x.width, 1, 1))
    weight, bias = p.weight(x.width, x.width, 1, 1), p.weight(x.width)
    scale = p.call(aten.conv2d.default, pooled, weight, bias, shape=pooled.shape)
    scale = p.call(aten.sigmoid.default, scale, shape=pooled.shape)
    return p.call(aten.mul.Tensor, x, scale, shape=x.shape)


def dense(p: Program, x: Value, pick: Pick) -> Value:
    y = convolution(p, x, pick)
    x = p.map(x)
    parts = [x, y] if pick("input first", [True, False]) else [y, x]
    nodes = [part.node for part in parts]
    return p.call(aten.cat.default, nodes, 1, shape=(2, x.width + y.width, SIDE, SIDE))


def part(p: Program, x: Value, pick: Pick) -> Value:
    x = p.map(x)
    at = pick("at", [k for k in (1, 2, 3, 4) if k < x.width] or [1])
    if at >= x.width:
        return x
    split = p.call(aten.split_with_sizes.default, x, [at, x.width - at], 1, shape=())
    halves = [
        Value(p.graph.call_function(operator.getitem, (split.node, k)), (2, size, SIDE, SIDE))
        for k, size in enumerate((at, x.width - at))
    ]
    left, right = halves
    right = p.call(aten.relu.default, right, shape=right.shape)
    return p.call(aten.cat.default, [right.node, left.node], 1, shape=x.shape)


def sliced(p: Program, x: Value, pick: Pick) -> Value:
    x = p.map(x)
    start, step = pick("start", [0, 1]), pick("step", [1, 2])
    if x.width % 2 or x.width < 4:
        return x
    end = x.width if step == 2 else x.width - 1
    width = (end - start + step - 1) // step
    return p.call(aten.slice.Tensor, x, 1, start, end, step, shape=(2, width, SIDE, SIDE))


def shuffle(p: Program, x: Value, pick: Pick) -> Value:
    x = p.map(x)
    groups = pick("groups", [g for g in (1, 2, 3, 4) if x.width % g == 0])
    each = x.width // groups
    shape = (2, groups, each, SIDE, SIDE)
    y = p.call(aten.view.default, x, list(shape), shape=shape)
    y = p.call(aten.transpose.int, y, 1, 2, shape=(2, each, groups, SIDE, SIDE))
    return p.call(aten.reshape.default, y, list(x.shape), shape=x.shape)


def rotation(p: Program, x: Value, pick: Pick) -> Value:
    """Pairs of channels turned by an angle, as rotary embeddings do."""
    x = p.tokens(x)
    if x.width % 2:
        return x
    half = (*x.shape[:2], x.width // 2)
    even, odd = (p.call(aten.slice.Tensor, x, 2, k, 2**63 - 1, 2, shape=half) for k in (0, 1))
    minus = p.call(aten.neg.default, odd, shape=half)
    pairs = p.call(aten.stack.default, [minus.node, even.node], -1, shape=(*half, 2))
    turned = p.call(aten.reshape.default, pairs, list(x.shape), shape=x.shape)
    cosine = p.call(aten.mul.Tensor, x, 0.6, shape=x.shape)
    sine = p.call(aten.mul.Tensor, turned, 0.8, shape=x.shape)
    return p.call(aten.add.Tensor, cosine, sine, shape=x.shape)


def response_norm(p: Program, x: Value, pick: Pick) -> Value:
    """Each channel by its norm over places, relative to the mean of those norms: statistics over channels."""
    x = p.tokens(x)
    norm = p.call(aten.linalg_vector_norm.default, x, 2, [1], True, shape=(2, 1, x.width))
    mean = p.call(aten.mean.dim, norm, [-1], True, shape=(2, 1, 1))
    share = p.call(aten.div.Tensor, norm, mean, shape=norm.shape)
    scaled = p.call(aten.mul.Tensor, x, share, shape=x.shape)
    return p.call(aten.add.Tensor, x, scaled, shape=x.shape)


def attention(p: Program, x: Value, pick: Pick) -> Value:
    x = p.tokens(x)
    n, t, _ = x.shape
    heads, width, shared = pick("heads", [2, 4]), pick("head width", [2, 3]), pick("query groups", [1, 2])
    keys = heads // shared
    q = _heads(p, p.linear(x, heads * width), heads)
    k, v = (_heads(p, p.linear(x, keys * width), keys) for _ in range(2))
    shape = (n, heads, t, width)
    if pick("fused", [True, False]):
        more = {"enable_gqa": True} if shared > 1 else {}
        y = p.call(aten.scaled_dot_product_attention.default, q, k, v, shape=shape, **more)
    else:
        if shared > 1:
            k, v = (p.call(aten.repeat_interleave.self_int, m, shared, 1, shape=shape) for m in (k, v))
        turned = p.call(aten.transpose.int, k, 2, 3, shape=(n, heads, width, t))
        scores = p.call(aten.matmul.default, q, turned, shape=(n, heads, t, t))
        scores = p.call(aten.softmax.int, scores, -1, shape=scores.shape)
        y = p.call(aten.matmul.default, scores, v, shape=shape)
    y = p.call(aten.transpose.int, y, 1, 2, shape=(n, t, heads, width))
    y = p.call(aten.reshape.default, y, [n, t, heads * width], shape=(n, t, heads * width))
    return p.call(aten.add.Tensor, x, p.linear(y, x.width), shape=x.shape)


def _heads(p: Program, x: Value, heads: int) -> Value:
    n, t, width = x.shape
    shape = (n, t, heads, width // heads)
    y = p.call(aten.view.default, x, list(shape), shape=shape)
    return p.call(aten.transpose.int, y, 1, 2, shape=(n, heads, t, width // heads))


def gated(p: Program, x: Value, pick: Pick) -> Value:
    x = p.tokens(x)
    wide = p.linear(x, 2 * x.width)
    return p.call(aten.glu.default, wide, -1, shape=x.shape)


def recurrent(p: Program, x: Value, pick: Pick) -> Value:
    """A layer that begins at zero, in one direction or both."""
    x = p.tokens(x)
    width, both = pick("hidden size", [2, 4]), pick("both directions", [False, True])
    kind, gates = pick("kind", [(aten.gru.input, 3), (aten.lstm.input, 4), (aten.rnn_tanh.input, 1)])
    weights: list[fx.Node] = []
    for _ in range(1 + both):
        weights += [p.weight(gates * width, x.width), p.weight(gates * width, width)]
        weights += [p.weight(gates * width), p.weight(gates * width)]
    size = (1 + both, 2, width)
    state = p.call(aten.zeros.default, list(size), shape=size, dtype=torch.float64).node
    args = (x, [state, state] if gates == 4 else state, weights, True, 1, 0.0, False, both, True)
    made = p.call(kind, *args, shape=())
    return p.call(operator.getitem, made, 0, shape=(*x.shape[:2], width * (1 + both)))


def mixed_tokens(p: Program, x: Value, pick: Pick) -> Value:
    """A linear map over places."""
    x = p.tokens(x)
    turned = p.call(aten.transpose.int, x, 1, 2, shape=(2, x.width, SIDE * SIDE))
    inner = pick("inner", [4, 6])
    y = p.call(aten.linear.default, turned, p.weight(inner, 16), p.weight(inner), shape=(2, x.width, inner))
    y = p.call(aten.gelu.default, y, shape=y.shape)
    y = p.call(aten.linear.default, y, p.weight(16, inner), p.weight(16), shape=turned.shape)
    y = p.call(aten.transpose.int, y, 1, 2, shape=x.shape)
    return p.call(aten.add.Tensor, x, y, shape=x.shape)


STEPS = (
    convolution, convolution, transposed, linear, batch_norm, layer_norm, rms_norm, group_norm, activation,
    residual, gate, dense, part, sliced, shuffle, rotation, response_norm, attention, gated, recurrent,
    mixed_tokens,
)  # fmt: skip


def build(
    steps: Sequence[Callable[[Program, Value, Pick], Value]], pick_of: Callable[[str], Pick], seed: int
) -> Graph:
    program = Program(torch.Generator().manual_seed(seed))
    x = Value(program.graph.placeholder("x"), (2, 3, SIDE, SIDE))
    weight, bias = program.weight(8, 3, 1, 1), program.weight(8)
    y = program.call(aten.conv2d.default, x, weight, bias, shape=(2, 8, SIDE, SIDE))
    for number, step in enumerate(steps):
        y = step(program, y, pick_of(f"{number} {step.__name__}"))
    y = program.tokens(y)
    pooled = program.call(aten.mean.dim, y, [1], shape=(2, y.width))
    head = program.call(
        aten.linear.default, pooled, program.weight(5, y.width), program.weight(5), shape=(2, 5)
    )
    program.graph.output((head.node,))
    module = fx.GraphModule(program.root, program.graph)
    example = torch.randn(2, 3, SIDE, SIDE, generator=program.generator, dtype=torch.float64)
    signature = Signature(
        (Port("x", torch.float64, tuple(example.shape)),), (Port("output", torch.float64, (2, 5)),)
    )
    return Graph(module, signature, "aten", (example,))


@st.composite
def programs(draw: st.DrawFn) -> tuple[Graph, int]:
    seed = draw(st.integers(0, 2**16), label="seed")
    steps = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6), label="steps")

    def pick_of(where: str) -> Pick:
        return lambda what, values: draw(st.sampled_from(list(values)), label=f"{where}: {what}")

    return build(steps, pick_of, seed), seed


@dataclass
class Tally:
    """How much the programs of a run have said: an example that cuts nothing, or only what is dead, says
    nothing."""

    programs: int = 0
    with_power: int = 0
    dims: int = 0


def check(graph: Graph, seed: int, tally: Tally | None = None) -> None:
    axes = analyze(graph)
    assert not axes.remarks, [str(remark) for remark in axes.remarks]
    keep = halves(axes, seed)
    rewriter = Rewriter(graph.copy())
    cut_channels(rewriter, axes, keep)
    before = graph(*graph.example)
    after = rewriter.finish()(*graph.example)
    masked = mask_graph(graph, axes, keep)
    if any(axes.dims[name].normalized for name, mask in keep.items() if not mask.all()):
        masked = keep_statistics(masked, axes, keep)
    error = relative_error(masked(*graph.example), after)
    names = {name: f"{int(mask.sum())} of {len(mask)}" for name, mask in keep.items()}
    assert error <= 1e-9, f"the law is broken by {error:.2g}\n{program_text(graph)}\ncut: {names}"
    if tally is not None:
        tally.programs += 1
        tally.with_power += relative_error(before, after) >= 1e-3
        tally.dims += len(keep)


def halves(axes: AxisMap, seed: int) -> Keep:
    random = np.random.default_rng(seed)
    keep: dict[str, np.ndarray] = {}
    for dim in axes.prunable():
        mask = np.zeros(dim.size, bool)
        mask[random.permutation(dim.size)[: (dim.size + 1) // 2]] = True
        keep[dim.name] = mask
    return legalize(axes, keep)


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def run(count: int, **more: Any) -> Tally:
    tally = Tally()

    @settings(max_examples=count, **QUIET, **more)
    @given(programs())
    def each(example: tuple[Graph, int]) -> None:
        check(*example, tally)

    each()
    return tally


def test_random_programs_obey_the_masking_law() -> None:
    tally = run(60, derandomize=True)
    assert tally.with_power > tally.programs / 2 and tally.dims > 2 * tally.programs


@pytest.mark.slow
def test_thousands_of_random_programs_obey_the_masking_law() -> None:
    tally = run(2000)
    assert tally.programs >= 2000
    assert tally.with_power > tally.programs / 2 and tally.dims > 2 * tally.programs


# planted errors: each is found, and shrinks to a program that can be read


def _cat_reversed(call: Call) -> AxisRule | None:
    if call.operands[0].dim() != 4 or len(call.operands) != 2:
        return joining.cat(call)
    sizes = {"a": int(call.operands[0].shape[1]), "b": int(call.operands[1].shape[1])}
    return call.rule("n a h w, n b h w -> n b+a h w", sizes=sizes)


def _norm_of_each(call: Call) -> AxisRule | None:
    right = normalization.layer_norm(call)
    return AxisRule(
        right.name, right.operands, right.results, right.sizes, combine="product", added=right.added
    )


def _view_inside_out(call: Call) -> AxisRule | None:
    x, y = call.operands[0], call.results[0]
    if x.dim() == 4 and y.dim() == 5:
        sizes = {"a": int(y.shape[1]), "b": int(y.shape[2])}
        return call.rule("n b*a h w -> n a b h w", sizes=sizes)
    return RULES_BEFORE["view"](call)


def _gates_inside(call: Call) -> AxisRule | None:
    right = RULES_BEFORE["gru"](call)
    if right is None or call.args[7] or int(call.args[4]) > 1:
        return right
    text = "n t! i, 1 n h, h*q! i, h*q! h, h*q!, h*q! -> n t! h, 1 n h"
    sizes = {"h": int(call.args[1].shape[-1]), "q": 3}
    return call.rule(text, sizes=sizes, reduce=("i", "h"), combine="weights")


RULES_BEFORE = dict(RULES)
PLANTED: dict[str, tuple[str, Callable[[Call], AxisRule | None]]] = {
    "concatenation in the wrong order": ("cat", _cat_reversed),
    "a layer norm without statistics": ("native_layer_norm", _norm_of_each),
    "a view with its factors exchanged": ("view", _view_inside_out),
    "gates dealt out in turn": ("gru", _gates_inside),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wrong_rule_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, wrong = PLANTED[name]
    monkeypatch.setitem(RULES, op, wrong)
    assert_caught()


def test_a_forgotten_literal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over fewer channels that nobody scales back."""
    monkeypatch.setattr(cut, "ATEN_RULES", {k: v for k, v in literals.RULES.items() if k != "aten.mean"})
    assert_caught()


def assert_caught() -> None:
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        run(300, derandomize=True, report_multiple_bugs=False)
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "steps: " in said or "law is broken" in said
    assert isinstance(caught.value, RuntimeError) or said.count(" = aten.") <= 40
