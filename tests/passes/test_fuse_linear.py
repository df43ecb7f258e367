"""``fuse-linear``: the facts that implementers get wrong, each a test; what is not exact stays, and says why.

Numbers in the names are those of the facts: m = merging two convolutions, a = removing an activation between
them, r = residuals. For random networks see ``test_fuse_linear_random.py``, for the mathematics
``tests/graph/test_compose.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from otgraph.errors import PassError, PipelineError
from otgraph.graph import compose as composition
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph, Port, Signature, op_name
from otgraph.graph.onnx.importer import import_model
from otgraph.rewrite.linear.fuse import fuse_linear
from otgraph.rewrite.linear.fusion import Fusion
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.masking import relative_error
from otgraph.rewrite.rewriter import Rewriter
from passes.fuse_linear import FuseLinear

aten = torch.ops.aten
MANY = 1e9
BORDER = "the padding between them is not what the first would give there"
BIAS = "the padding between them does not hold the bias of the first"


def shake(net: nn.Module) -> nn.Module:
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
            norm.running_mean.uniform_(-2, 2)
            norm.running_var.uniform_(0.05, 4)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -1, 1)
    return net.eval()


@dataclass(frozen=True)
class Fused:
    """The result for one network; checked: the same outputs, also for another batch."""

    result: Result
    ops: list[str]
    missed: list[str]

    @property
    def graph(self) -> Graph:
        return self.result.graph


def ops(graph: Graph) -> list[str]:
    return [op_name(node) for node in graph.module.graph.nodes if node.op == "call_function"]


def fuse(net: nn.Module | Graph, *shape: int, growth: float = MANY) -> Fused:
    graph = net if isinstance(net, Graph) else capture(shake(net).double(), (torch.randn(*shape).double(),))
    result = PassManager([FuseLinear(growth)]).run(graph)
    x = torch.randn(3, *graph.example[0].shape[1:], dtype=graph.example[0].dtype)
    assert relative_error(graph(x), result.graph(x)) < (1e-12 if x.dtype == torch.float64 else 1e-6)
    missed = [remark.message for remark in result.remarks if remark.kind == "missed"]
    return Fused(result, ops(result.graph), missed)


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


class Sum(nn.Module):
    """Adds what its branches make of one input; None is the input itself."""

    def __init__(self, *branches: nn.Module | None, combine: Callable[..., Any] = torch.add) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Identity() if b is None else b for b in branches)
        self.combine = combine

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.relu()
        first, second = (branch(x) for branch in self.branches)
        return self.combine(first, second)


# --- merging two convolutions


@pytest.mark.parametrize(
    ("k1", "p1", "bias", "k2", "p2"),
    list(itertools.product((1, 3), (0, 1, 2), (True, False), (1, 3), (0, 1))),
)
def test_m1_m2_padding_between(k1: int, p1: int, bias: bool, k2: int, p2: int) -> None:
    """Exact where the second has no padding; where the first is 1×1, or padded as far as its kernel reaches,
    and has no bias. Everything else is refused, with the reason."""
    text = f"""m (float[N,2,7,6] x) => (float[N,2,P,Q] y) {{
        first = Conv <pads = [{p1}, {p1}, {p1}, {p1}]> (x, u{", b" if bias else ""})
        y = Conv <pads = [{p2}, {p2}, {p2}, {p2}]> (first, v)
    }}"""
    found = fuse(of_onnx(text, u=[3, 2, k1, k1], v=[2, 3, k2, k2], **({"b": [3]} if bias else {})))
    reaches = p1 >= k1 - 1
    if p2 == 0 or (reaches and not bias):
        assert found.ops == ["onnx.Conv"] and not found.missed
    else:
        assert found.ops == ["onnx.Conv"] * 2
        assert found.missed == [f"not fused with first: {BIAS if reaches else BORDER}"]


def test_m1_the_border_would_be_wrong_even_without_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is needed: with it silenced, the manager finds the border ring."""
    monkeypatch.setattr("otgraph.rewrite.linear.composition.why_no_border", lambda *_: None)
    monkeypatch.setattr(composition, "why_not_composed", lambda *_: None)
    net = chain(nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(3, 2, 3, padding=1))
    graph = capture(net, (torch.randn(2, 2, 16, 16),))
    with pytest.raises(PassError, match=r"fuse-linear.*: claims the same outputs \(exact\)"):
        PassManager([FuseLinear(MANY)]).run(graph)


def test_m2_a_bias_that_the_padding_holds() -> None:
    """1×1 with a bias, an explicit padding with that value, then a convolution: one node."""
    first = nn.Conv2d(2, 3, 1)
    nn.init.constant_(first.bias, 0.25)
    found = fuse(chain(first, nn.ConstantPad2d(1, 0.25), nn.Conv2d(3, 2, 3)), 2, 2, 6, 6)
    assert found.ops == ["aten.conv2d"]
    other = fuse(chain(first, nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 2, 3)), 2, 2, 6, 6)
    assert other.missed == [f"not fused with 0: {BIAS}"] and len(other.ops) == 3


@pytest.mark.parametrize(
    ("s1", "s2", "d1", "d2"),
    [(2, 1, 1, 1), (1, 2, 1, 1), (2, 2, 1, 1), (3, 2, 2, 1), (1, 1, 2, 2), (2, 1, 2, 1), (1, 1, 2, 3)],
)
def test_m3_strides_and_dilations(s1: int, s2: int, d1: int, d2: int) -> None:
    net = chain(
        nn.Conv1d(2, 3, 3, stride=s1, dilation=d1, padding=1), nn.Conv1d(3, 2, 3, stride=s2, dilation=d2)
    )
    found = fuse(net, 2, 2, 40)
    assert found.ops == ["aten.conv1d"]
    weight = found.graph.tensor("1.weight")
    dilation = np.gcd(d1, s1 * d2)
    assert weight.shape[-1] == (2 * d1 + s1 * 2 * d2) // dilation + 1  # 3∘3 behind a stride of 2 is 7, not 5
    (node,) = (n for n in found.graph.module.graph.nodes if n.op == "call_function")
    assert node.args[3] == [s1 * s2]


def test_m4_kernels_that_are_even_and_paddings_that_are_uneven() -> None:
    net = chain(
        nn.ZeroPad2d((2, 0, 1, 3)),
        nn.Conv2d(2, 3, (2, 4)),
        nn.ZeroPad2d((-1, 0, 0, -2)),
        nn.Conv2d(3, 2, (4, 1)),
    )
    found = fuse(net, 2, 2, 9, 8)
    assert found.ops == ["aten.constant_pad_nd", "aten.conv2d"]
    same = fuse(chain(nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(3, 2, 2)), 2, 2, 6, 6)
    assert same.ops == ["aten.conv2d"]


def test_m5_biases_are_counted_once() -> None:
    first, second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3)
    found = fuse(chain(first, second), 2, 1, 8, 8)
    wanted = second.bias + second.weight.sum() * first.bias
    torch.testing.assert_close(found.graph.tensor("1.bias"), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("g1", "g2"), [(1, 4), (4, 1), (2, 4), (4, 4), (8, 1), (8, 8), (8, 4)])
def test_m6_groups(g1: int, g2: int) -> None:
    net = chain(nn.Conv2d(8, 8, 3, groups=g1), nn.Conv2d(8, 8, 3, groups=g2))
    found = fuse(net, 2, 8, 7, 7)
    assert found.ops == ["aten.conv2d"]
    assert tuple(found.graph.tensor("1.weight").shape) == (8, 8 // np.gcd(g1, g2), 5, 5)


def test_m6_a_channel_shuffle_between_is_a_barrier() -> None:
    net = chain(nn.Conv2d(4, 4, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(4, 4, 1, groups=2))
    assert fuse(net, 2, 4, 5, 5).ops.count("aten.conv2d") == 2


def test_m7_growth_is_refused_with_both_figures() -> None:
    """3×3∘3×3 → 5×5 costs 25/18 at equal widths (and at this size, where the inner result is larger)."""
    net = chain(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    refused = fuse(net, 2, 4, 20, 20, growth=1.0)
    assert len(refused.ops) == 2
    before, after = 2 * 16 * 9 * (18 * 18 + 16 * 16), 2 * 16 * 25 * 16 * 16
    figures = (
        f"{after} multiply–accumulates would take the place of {before}, {after / before:.2f} times as many"
    )
    assert refused.missed == [f"not fused with 0: {figures} (growth=1)"]
    assert len(fuse(net, 2, 4, 20, 20, growth=1.25).ops) == 1
    again = fuse(chain(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), 2, 4, 20, 20, growth=1.25)
    assert len(again.ops) == 2  # what is fused already does not count as what it was made of


def test_m7_an_inverted_residual_shrinks_though_no_pair_of_it_does() -> None:
    net = chain(
        nn.Conv2d(4, 24, 1, bias=False), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 4, 1)
    )
    found = fuse(Sum(net, None), 2, 4, 8, 8, growth=1.0)
    assert found.ops == ["aten.relu", "aten.conv2d"]
    pair = fuse(chain(*list(net)[:2]), 2, 4, 8, 8, growth=1.0)
    assert len(pair.ops) == 2 and "times as many" in pair.missed[0]


def test_m7_a_chain_is_cut_where_it_costs_least() -> None:
    """Two inverted residuals in a row: two 3×3 kernels, not one 5×5 that would pass too."""

    def block() -> list[nn.Module]:
        return [
            nn.Conv2d(4, 32, 1, bias=False),
            nn.Conv2d(32, 32, 3, groups=32, bias=False),
            nn.Conv2d(32, 4, 1, bias=False),
        ]

    found = fuse(chain(*block(), *block()), 2, 4, 12, 12, growth=1.0)
    assert [tuple(t.shape[2:]) for t in found.graph.tensors().values()] == [(3, 3), (3, 3)]


def test_m8_a_narrow_middle_stays_factored() -> None:
    assert len(fuse(chain(nn.Linear(16, 2), nn.Linear(2, 16)), 2, 16, growth=1.0).ops) == 2
    assert len(fuse(chain(nn.Linear(4, 16), nn.Linear(16, 4)), 2, 4, growth=1.0).ops) == 1


def test_m9_a_value_that_others_read_stays() -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.a(x)
            return self.b(y), y.relu()

    found = fuse(Tapped(), 2, 2, 6, 6)
    assert found.ops.count("aten.conv2d") == 2
    assert found.missed == ["not fused with a, which also feeds relu"]


def test_m10_composed_in_float64_and_rounded_once() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(32, 64), nn.Linear(64, 16)
    graph = capture(chain(first, second), (torch.randn(2, 32),))
    found = fuse(graph)
    wanted = (second.weight.double() @ first.weight.double()).float()
    assert torch.equal(found.graph.tensor("1.weight"), wanted)
    assert not torch.equal(wanted, second.weight @ first.weight)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 2, 3),
        nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2),
        nn.LayerNorm(4),
    ],
)
def test_m11_what_is_no_sliding_map_of_zeros_stays(layer: nn.Module) -> None:
    net = chain(nn.Conv2d(2, 3, 1), layer)
    assert ops(fuse(net, 2, 2, 4, 4).graph) == ops(capture(net, (torch.randn(2, 2, 4, 4).double(),)))


def test_m11_auto_pad_with_a_stride_depends_on_the_size() -> None:
    def net(auto: str, stride: int) -> Graph:
        return of_onnx(
            f"""m (float[N,2,H,W] x) => (float[N,2,P,Q] y) {{
                a = Conv <auto_pad = "{auto}", strides = [{stride}, {stride}]> (x, u)
                y = Conv (a, v, b)
            }}""",
            u=[3, 2, 2, 3], v=[2, 3, 2, 2], b=[2],
        )  # fmt: skip

    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        assert fuse(net(auto, 1)).ops == ["onnx.Conv"]
    assert fuse(net("VALID", 2)).ops == ["onnx.Conv"]
    refused = fuse(net("SAME_UPPER", 2))
    assert refused.missed == ["its weight is computed, or its padding depends on the size of the input"]


# --- what lies between convolutions


def test_a1_a_norm_with_its_own_eps_and_stored_statistics() -> None:
    found = fuse(chain(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=0.7), nn.Conv2d(3, 2, 1)), 2, 2, 6, 6)
    assert found.ops == ["aten.conv2d"]


@pytest.mark.parametrize(("padding", "still"), list(itertools.product((0, 1), (False, True))))
def test_a2_a_shift_before_a_padded_convolution(padding: int, still: bool) -> None:
    """An intercept is a bias: it goes through a padding only if it is zero."""
    norm = nn.BatchNorm2d(2)
    net = shake(chain(nn.ReLU(), norm, nn.Conv2d(2, 3, 3, padding=padding)))
    if still:
        norm.running_mean.zero_()
        nn.init.zeros_(norm.bias)
    graph = capture(net.double(), (torch.randn(2, 2, 6, 6).double(),))
    found = fuse(graph)
    assert ("aten.batch_norm" not in found.ops) == (still or not padding)
    assert found.missed == ([] if still or not padding else [f"not fused with 1: {BIAS}"])


def test_a6_a_norm_in_training_mode_is_no_map() -> None:
    net = chain(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 1))
    assert fuse(net, 3, 2, 5, 5).ops.count("aten.conv2d") == 2


def test_a7_in_place_operators_and_modules_that_are_called_twice() -> None:
    program, root = fx.Graph(), nn.Module()
    root.register_buffer("w", torch.randn(2, 2, 1))
    x = program.placeholder("x")
    w = program.get_attr("w")
    y = program.call_function(aten.conv1d.default, (x, w))
    doubled = program.call_function(aten.mul_.Tensor, (y, 2.0))
    again = program.call_function(aten.conv1d.default, (doubled, w))
    changed = program.call_function(aten.add_.Tensor, (again, 1.0))
    program.output((program.call_function(aten.mul.Tensor, (changed, again)),))
    ports = (Port("x", torch.float32, ("batch", 2, 5)),)
    graph = Graph(fx.GraphModule(root, program), Signature(ports, ports), "aten", (torch.randn(2, 2, 5),))
    found = fuse(graph)
    assert found.ops == ["aten.conv1d", "aten.add_", "aten.mul"]


def test_a7_shared_weights_are_not_edited_in_place() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.head(self.conv(self.conv(x))), self.conv(x).relu()

    net = Twice()
    found = fuse(net, 2, 3, 9, 9)
    assert found.ops.count("aten.conv2d") == 2
    assert torch.equal(found.graph.tensor("conv.weight"), net.conv.weight)


def test_a8_an_activation_after_an_addition_is_a_barrier() -> None:
    found = fuse(chain(Sum(nn.Conv2d(2, 2, 3, padding=1), None), nn.ReLU(), nn.Conv2d(2, 2, 1)), 2, 2, 6, 6)
    assert found.ops == ["aten.relu", "aten.conv2d", "aten.relu", "aten.conv2d"]


def test_a10_pools_and_dropout() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1)
    assert fuse(chain(conv, nn.Dropout(), nn.AvgPool2d(2)), 2, 2, 8, 8).ops == ["aten.conv2d"]
    assert fuse(chain(nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 3, 2)), 2, 2, 8, 8).ops == ["aten.conv2d"]
    assert fuse(
        chain(nn.Conv2d(2, 3, 1, bias=False), nn.AvgPool2d((3, 2), 2, (1, 0), divisor_override=5)), 2, 2, 8, 8
    ).ops == ["aten.conv2d"]
    for pool, why in (
        (
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            "does not count its padding, so its divisor changes at the border",
        ),
        (
            nn.AvgPool2d(3, 2, ceil_mode=True),
            "rounds its output size up (ceil_mode): the last window may be cut short",
        ),
    ):
        found = fuse(chain(conv, pool), 2, 2, 8, 8)
        assert found.ops == ["aten.conv2d", "aten.avg_pool2d"] and found.missed == [why]
    grown = fuse(chain(nn.AvgPool2d(2), nn.Conv2d(8, 8, 1)), 2, 8, 8, 8, growth=1.0)
    assert len(grown.ops) == 2 and "times as many" in grown.missed[0]


class Arithmetic(nn.Module):
    """Stored and literal numbers in every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 2)
        self.scale, self.shift = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x * 3 + 0.0) * self.scale.view(1, -1, 1, 1)
        y = 2 - torch.sub(y, self.shift, alpha=3) / 7
        return -(self.b(self.shift - y) + 1)


def test_scales_and_shifts_in_every_spelling() -> None:
    assert fuse(Arithmetic(), 2, 2, 6, 6).ops == ["aten.conv2d"]


def test_numbers_that_vary_over_positions_stay() -> None:
    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.map = nn.Conv2d(2, 3, 3), nn.Parameter(torch.randn(1, 4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.map

    assert fuse(Map(), 2, 2, 6, 6).ops == ["aten.conv2d", "aten.add"]


def test_linear_layers_over_positions_and_a_norm_over_another_axis() -> None:
    net = chain(nn.Linear(3, 4), nn.Linear(4, 5), nn.BatchNorm1d(6), nn.Linear(5, 2))
    assert fuse(net, 2, 6, 3).ops == ["aten.linear", "aten.batch_norm", "aten.linear"]
    assert fuse(chain(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), 2, 3).ops == ["aten.linear"]


def test_three_axes() -> None:
    net = chain(nn.Conv3d(2, 3, (3, 1, 2), padding=(1, 0, 1)), nn.AvgPool3d(2), nn.BatchNorm3d(3))
    assert fuse(net, 2, 2, 6, 6, 6).ops == ["aten.conv3d"]


# --- residuals


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (2, 0, 0, 2), (0, 2, 1, 1)])
def test_r1_the_identity_goes_to_the_tap_at_the_padding(padding: tuple[int, int, int, int]) -> None:
    branch = chain(nn.ZeroPad2d(padding), nn.Conv2d(3, 3, 3, bias=False))
    found = fuse(Sum(branch, None), 2, 3, 6, 6)
    assert "aten.add" not in found.ops
    added = found.graph.tensor("branches.0.1.weight") - branch[1].weight
    assert torch.equal(added[:, :, padding[2], padding[0]], torch.eye(3, dtype=torch.float64))
    assert added.count_nonzero() == 3


def test_r1_dilated() -> None:
    found = fuse(Sum(None, nn.Conv2d(3, 3, 3, padding=2, dilation=2)), 2, 3, 8, 8)
    assert found.ops == ["aten.relu", "aten.conv2d"]
    assert found.graph.tensor("branches.1.weight").shape[-1] == 3


def test_r2_a_projection_needs_the_same_stride() -> None:
    wide, small = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(2, 4, 1, stride=2)
    assert fuse(Sum(wide, small), 2, 2, 8, 8, growth=1.0).ops == ["aten.relu", "aten.conv2d"]
    pooled = chain(nn.Conv2d(2, 4, 1), nn.MaxPool2d(2))
    assert len(fuse(Sum(wide, pooled), 2, 2, 8, 8).ops) == 5
    curved = chain(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU())  # not linear up to the addition
    assert len(fuse(Sum(curved, small), 2, 2, 8, 8).ops) == 5


def test_r2_branches_of_the_same_size_for_this_input_only() -> None:
    found = fuse(Sum(nn.Conv1d(2, 4, 2, stride=2), nn.Conv1d(2, 4, 1, stride=2)), 2, 2, 8)
    assert found.missed == ["its branches are not fused: their outputs have different sizes"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_r3_the_identity_and_groups(groups: int) -> None:
    found = fuse(Sum(nn.Conv2d(4, 4, 3, padding=1, groups=groups), None), 2, 4, 6, 6, growth=1.0)
    assert found.ops == ["aten.relu", "aten.conv2d"]
    assert found.graph.tensor("branches.0.weight").shape[1] == 4 // groups


def test_r3_not_through_a_shuffle() -> None:
    branch = chain(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ChannelShuffle(2))
    assert "aten.add" in fuse(Sum(branch, None), 2, 4, 6, 6).ops


def test_r3_a_depthwise_branch_is_not_blown_up_for_a_dense_one() -> None:
    net = Sum(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))
    assert len(fuse(net, 2, 8, 6, 6).ops) == 2
    refused = fuse(net, 2, 8, 6, 6, growth=1.0)
    assert "aten.add" in refused.ops and "times as many" in refused.missed[0]


def test_r9_a_norm_after_the_addition_is_fused_with_it() -> None:
    net = chain(Sum(nn.Conv2d(3, 3, 3, padding=1), None), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    assert fuse(net, 2, 3, 6, 6).ops == ["aten.relu", "aten.conv2d"]


@pytest.mark.parametrize("combine", [torch.sub, lambda a, b: torch.add(b, a, alpha=-2), lambda a, b: a + b])
def test_signs_and_factors_of_a_sum(combine: Callable[..., Any]) -> None:
    net = Sum(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), combine=combine)
    assert fuse(net, 2, 3, 6, 6).ops == ["aten.relu", "aten.conv2d"]


def test_parallel_linear_layers_and_a_value_that_is_added_to_itself() -> None:
    assert fuse(Sum(nn.Linear(3, 3), nn.Linear(3, 3)), 2, 5, 3).ops == ["aten.relu", "aten.linear"]
    assert fuse(Sum(nn.Linear(3, 3), None), 2, 3).ops == ["aten.relu", "aten.linear"]
    doubled = Sum(nn.Linear(3, 3), None, combine=lambda a, _: a + a)
    assert "aten.add" in fuse(doubled, 2, 3).ops


def test_a_branch_that_others_read_stays() -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.a(x)
            return y + self.b(x), y

    found = fuse(Tapped(), 2, 3)
    assert found.missed == ["its branches are not fused: a is read by others too"]


# --- what the fused node carries, who may refuse it, and ONNX


def test_the_fused_node_stands_for_the_last() -> None:
    net = chain(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    graph = capture(shake(net), (torch.randn(2, 2, 6, 6),)).copy()
    last = [node for node in graph.module.graph.nodes if node.op == "call_function"][-1]
    last.meta["otgraph"] = {"kept": {1: np.array([0, 2])}, "stands_for": "older"}
    found = fuse(graph)
    first, _, second = (n for n in found.graph.module.graph.nodes if n.op == "call_function")
    assert (first.name, first.meta["otgraph"]) == ("conv2d", {"stands_for": "batch_norm_default"})
    assert second.meta["otgraph"]["stands_for"] == "older"
    assert second.meta["otgraph"]["kept"][1].tolist() == [0, 2]


def test_a_judge_may_refuse_and_is_asked_once() -> None:
    asked: list[Fusion] = []

    def judge(fusion: Fusion) -> str | None:
        asked.append(fusion)
        return "0.8 ms became 0.9 ms" if fusion.window.weights == 16 else None

    net = chain(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    graph = capture(net, (torch.randn(2, 4),))
    rewriter = Rewriter(graph.copy(), "fuse-linear")
    fuse_linear(rewriter, 1.0, judge)
    after = rewriter.finish()
    assert len(ops(after)) == 2 and relative_error(graph(*graph.example), after(*graph.example)) < 1e-6
    keys = [("linear", "linear_1", "linear_2"), ("linear", "linear_1"), ("linear_1", "linear_2")]
    assert [fusion.key for fusion in asked] == keys
    assert asked[1].map.weight.shape == (8, 4) and asked[1].window.weights == 32
    said = [(remark.kind, remark.message) for remark in rewriter.remarks]
    assert said[0] == ("missed", "0, 1, 2 not fused: 0.8 ms became 0.9 ms")
    assert [kind for kind, _ in said] == ["missed", "applied", "missed"]


def test_a_growth_that_is_no_factor() -> None:
    with pytest.raises(PipelineError, match=r"fuse-linear: growth=0 is not above 0"):
        FuseLinear(0.0)


def test_numbers_that_would_not_be_finite() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    for layer in (first, second):
        nn.init.constant_(layer.weight, 1e30)
    graph = capture(chain(first, second), (torch.zeros(2, 2),))
    rewriter = Rewriter(graph.copy(), "fuse-linear")
    fuse_linear(rewriter)
    assert [str(r) for r in rewriter.remarks] == [
        "missed: fuse-linear: 1: 0, 1 not fused: the fused weights would not be finite"
    ]


def of_onnx(text: str, **tensors: list[int]) -> Graph:
    return import_model(onnx_model(text, **tensors))


def onnx_model(text: str, **tensors: list[int]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    rng = np.random.default_rng(0)
    for name, shape in tensors.items():
        values = rng.uniform(0.5, 1.5, shape) * rng.choice(
            [-1, 1], shape if name not in ("var", "var2") else [1]
        )
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(
                np.abs(values).astype(np.float32) if "var" in name else values.astype(np.float32), name
            )
        )
    return model


NORM = {name: [4] for name in ("g", "b", "m", "var")}
ONNX_CASES: dict[str, tuple[str, dict[str, list[int]], list[str]]] = {
    "uneven pads, a pad, a norm, a pool": (
        """m (float[N,3,9,8] x) => (float[N,4,P,Q] y) <int64[8] amounts = {0,0,1,0,0,0,2,1}> {
            p = Pad (x, amounts)
            c = Conv <pads = [0, 1, 1, 0]> (p, w)
            n = BatchNormalization (c, g, b, m, var)
            y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (n)
        }""",
        {"w": [4, 3, 3, 2], **NORM},
        ["Conv"],
    ),
    "groups, strides and dilations": (
        """m (float[N,4,20] x) => (float[N,6,P] y) {
            c = Conv <group = 4, strides = [2], dilations = [2], pads = [3, 1]> (x, w, b)
            y = Conv <group = 2, dilations = [2]> (c, v)
        }""",
        {"w": [4, 1, 3], "b": [4], "v": [6, 2, 2]},
        ["Conv"],
    ),
    "a residual behind an activation": (
        """m (float[N,4,6,6] x) => (float[N,4,6,6] y) {
            r = Relu (x)
            c = Conv <pads = [1, 1, 1, 1]> (r, w, b)
            d = Conv (r, v)
            s = Add (c, d)
            t = Add (r, s)
            y = Relu (t)
        }""",
        {"w": [4, 4, 3, 3], "b": [4], "v": [4, 4, 1, 1]},
        ["Relu", "Conv", "Relu"],
    ),
    "products with biases": (
        """m (float[N,5,4] x) => (float[N,5,3] y) {
            a = MatMul (x, w)
            c = Add (b, a)
            d = Mul (c, g)
            e = MatMul (d, v)
            y = Add (e, s)
        }""",
        {"w": [4, 6], "b": [6], "g": [6], "v": [6, 3], "s": [3]},
        ["MatMul", "Add"],
    ),
    "Gemm beside MatMul": (
        """m (float[N,4] x) => (float[N,3] y) {
            a = Gemm <transB = 1> (x, w, b)
            e = MatMul (a, v)
            y = Sub (s, e)
        }""",
        {"w": [6, 4], "b": [6], "v": [6, 3], "s": [3]},
        ["Gemm"],
    ),
    "a crop that no convolution takes": (
        """m (float[N,2,9] x) => (float[N,3,P] y) <int64[6] amounts = {0,0,-3,0,0,1}> {
            c = Conv (x, w)
            p = Pad (c, amounts)
            y = Conv (p, v, b)
        }""",
        {"w": [4, 2, 1], "v": [3, 4, 3], "b": [3]},
        ["Pad", "Conv"],
    ),
}


@pytest.mark.parametrize("case", ONNX_CASES)
def test_onnx_files_give_the_same_in_onnxruntime(case: str, tmp_path: Path) -> None:
    text, tensors, left = ONNX_CASES[case]
    model = onnx_model(text, **tensors)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    fuse(import_model(model)).graph.save(after)
    written = onnx.load(after)
    onnx.checker.check_model(written)
    assert [node.op_type for node in written.graph.node] == left
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (before, after)]
    (a,), (b,) = (session.run(["y"], x) for session in sessions)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 2e-6 * np.abs(a).max()


def test_a_kernel_beside_torch() -> None:
    """The function of a fused node is that of the two, against torch's own functions with plain weights."""
    w, v = torch.randn(3, 2, 3, 3), torch.randn(2, 3, 3, 3)
    first, second = (
        nn.Conv2d(2, 3, 3, bias=False, padding=2),
        nn.Conv2d(3, 2, 3, bias=False, padding=1, stride=2),
    )
    first.weight.data, second.weight.data = w, v
    found = fuse(chain(first, second), 2, 2, 7, 7)
    x = torch.randn(2, 2, 7, 7).double()
    wanted = F.conv2d(F.conv2d(x, w.double(), padding=2), v.double(), padding=1, stride=2)
    assert float((found.graph(x)[0] - wanted).abs().max()) < 1e-12
